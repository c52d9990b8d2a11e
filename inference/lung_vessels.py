"""The share of each lung's arteries that clot occludes, estimated from the contrast-filled vessels of the lungs.

Arteries and veins look alike, and on coarse grids small vessels are too faint to count. The volume of the arteries is
therefore taken to be proportional to that of the bright pixels inside the lungs; LUMEN_PER_VESSEL was fitted to
synthetic training exams, whose arteries are known. Only what lies CENTRAL_MM or more from the midline counts: the trunk
and the main arteries cannot be separated from heart, aorta and vena cava by HU.
"""

import numpy as np

from features.masks import close_gaps
from features.slice_measurements import VESSEL_HU, lung_mask
from features.store import StoredExam

#: What is nearer to the midline is central, mm: the trunk and the main arteries.
CENTRAL_MM = 35.0
#: Gaps of the lungs narrower than about twice this belong to them: vessels, but not the heart.
CLOSING_MM = 8.0
#: Volume of the arteries' open lumen over that of the bright pixels; the median of both lungs of the training exams.
LUMEN_PER_VESSEL = 1.45
#: Pixels of the lungs above the first level are blood; where their median stays below the second, contrast is too weak.
BLOOD_HU, LEAST_ENHANCEMENT_HU = 100, 200
#: Left and right share or volume where it is unknown.
UNKNOWN = (np.nan, np.nan)


def measure_lung_vessels(exam: StoredExam, thickness_mm: np.ndarray) -> tuple[float, float]:
    """Measure the volume of the contrast-filled vessels of both lungs, arteries and veins.

    Args:
        exam: the stored exam.
        thickness_mm: (z,) extent of every plane along z.

    Returns:
        Volume on the patient's left and right, ml; NaN where lengths are unknown, no lungs were found, or contrast is
        too weak.
    """
    if not exam.has_spacing or not np.isfinite(thickness_mm).all() or not exam.box.found:
        return UNKNOWN
    radius = max(1, round(CLOSING_MM / exam.spacing_mm[1]))
    left, right = lung_sides(exam)
    pixels = np.zeros((len(exam), 2))
    blood_hu = []
    for index in range(len(exam)):
        plane = exam.hu[index : index + 1]
        lungs = close_gaps(lung_mask(plane), radius) & (left | right)
        blood_hu.append(plane[lungs & (plane > BLOOD_HU)])
        vessels = lungs & (plane > VESSEL_HU[0])
        pixels[index] = [np.count_nonzero(vessels & side) for side in (left, right)]
    values = np.concatenate(blood_hu)
    if not len(values) or np.median(values) < LEAST_ENHANCEMENT_HU:
        return UNKNOWN
    left_ml, right_ml = thickness_mm @ pixels * float(np.prod(exam.spacing_mm)) / 1000
    return float(left_ml), float(right_ml)


def lung_sides(exam: StoredExam) -> tuple[np.ndarray, np.ndarray]:
    """Stored columns of the left and of the right lung, bool (x,): at least CENTRAL_MM from the midline."""
    offset_mm = (np.arange(exam.hu.shape[2]) - exam.middle_column) * exam.spacing_mm[1]
    return offset_mm >= CENTRAL_MM, offset_mm <= -CENTRAL_MM


def occluded_share(clot_ml: float, vessel_ml: float) -> float:
    """Share of a lung's arteries that clot occludes, 0-1; NaN where a volume is unknown or no vessel was found.

    Args:
        clot_ml: clot of this lung.
        vessel_ml: its contrast-filled vessels, from `measure_lung_vessels`.
    """
    lumen_ml = LUMEN_PER_VESSEL * vessel_ml
    return clot_ml / (clot_ml + lumen_ml) if lumen_ml > 0 else np.nan
