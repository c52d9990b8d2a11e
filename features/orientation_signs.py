"""Signs of the patient's orientation: where airways, heart, descending aorta and spine lie.

They contradict wrong tags: the trachea is at the upper end of the lungs, the heart is wider than the
mediastinum above it, the descending aorta is left of the spine, the spine is at the back.
"""

import numpy as np
import pandas as pd

from features.chest_grid import LUNG_HU
from features.lung_box import NOMINAL_PIXEL_MM, known_spacing
from features.masks import grow, shrink
from features.store import StoredExam

AIRWAY_HU, AIRWAY_MM, AIRWAY_DEPTH = -930, 18.0, (0.15, 0.75)
AIRWAY_TOP, AIRWAY_BOTTOM = (0.75, 0.98), (0.05, 0.4)  # relative z: trachea, and where there is none
HEART_Z, ABOVE_HEART_Z = (0.25, 0.5), (0.6, 0.85)
SPINE_MM, SPINE_DEPTH, FRONT_DEPTH, SPINE_Z = 12.0, (0.82, 1.0), (0.0, 0.18), (0.3, 0.9)
BONE_HU, SPINE_REACH_MM = 200, 40.0
AORTA_MM, AORTA_DEPTH, AORTA_Z = (14.0, 48.0), (0.6, 0.98), (0.3, 0.65)  # distance from the spine's middle
AORTA_RADIUS_MM, DENSE_HU, TISSUE_HU = 4.2, 700, 50.0
SIGNS = (
    "airway_top_cm2", "airway_bottom_cm2", "heart_taper", "heart_left_mm", "aorta_left", "spine_back", "lung_front",
)  # fmt: skip


def orientation_signs(exam: StoredExam, hu: np.ndarray, slices: pd.DataFrame, blood_hu: float) -> dict[str, float]:
    """Measure the signs of one exam, columns SIGNS of `features.acceptance_measurements`.

    Args:
        exam: the stored exam, in which lungs were found.
        hu: its planes, int16 (z, y, x).
        slices: its rows of the store's slice table, in the order of the planes.
        blood_hu: HU of the blood in the pulmonary artery; NaN where unknown.
    """
    level = slices["relative_z"].to_numpy(float)
    pixel_mm = known_spacing(exam.spacing_mm, NOMINAL_PIXEL_MM)[1]
    offset_mm = (np.arange(hu.shape[2]) + 0.5 - exam.middle_column) * pixel_mm
    depth = _depth(hu)
    airway = _part(hu, depth, AIRWAY_DEPTH, np.abs(offset_mm) < AIRWAY_MM)
    airway_cm2 = np.count_nonzero(airway < AIRWAY_HU, axis=(1, 2)) * pixel_mm**2 / 100
    right, left = (slices[f"mediastinum_{side}_mm"].to_numpy(float) for side in ("right", "left"))
    middle, at_spine = np.abs(offset_mm) < SPINE_MM, _between(level, SPINE_Z)
    back = _part(hu[at_spine], depth, SPINE_DEPTH, middle)
    front = _part(hu[at_spine], depth, FRONT_DEPTH, middle)
    return {
        "airway_top_cm2": _median(airway_cm2[_between(level, AIRWAY_TOP)]),
        "airway_bottom_cm2": _median(airway_cm2[_between(level, AIRWAY_BOTTOM)]),
        "heart_taper": _median((right + left)[_between(level, HEART_Z)])
        / _median((right + left)[_between(level, ABOVE_HEART_Z)]),
        "heart_left_mm": _median((left - right)[_between(level, HEART_Z)]),
        "aorta_left": _aorta_left(hu[_between(level, AORTA_Z)], depth, offset_mm, (blood_hu + TISSUE_HU) / 2),
        "spine_back": _share(back > BONE_HU) - _share(front > BONE_HU),
        "lung_front": _share(front < LUNG_HU[1]) - _share(back < LUNG_HU[1]),
    }


def _aorta_left(hu: np.ndarray, depth: np.ndarray, offset_mm: np.ndarray, threshold: float) -> float:
    """Blood in wide vessels beside the spine, left minus right, relative to the sum; NaN where there is none."""
    near_middle = np.abs(offset_mm) < SPINE_REACH_MM
    bone = np.count_nonzero(_part(hu, depth, SPINE_DEPTH, near_middle) > BONE_HU, axis=(0, 1))
    if not bone.any() or not np.isfinite(threshold):
        return np.nan
    from_spine_mm = offset_mm - np.average(offset_mm[near_middle], weights=bone)
    radius = max(1, round(AORTA_RADIUS_MM / float(np.diff(offset_mm[:2])[0])))
    blood = _part((hu > threshold) & (hu < DENSE_HU), depth, AORTA_DEPTH, np.abs(from_spine_mm) < AORTA_MM[1])
    wide = np.count_nonzero(grow(shrink(blood, radius), radius), axis=(0, 1))
    distance = from_spine_mm[np.abs(from_spine_mm) < AORTA_MM[1]]
    left, right = wide[distance > AORTA_MM[0]].sum(), wide[distance < -AORTA_MM[0]].sum()
    return float((left - right) / (left + right)) if left + right else np.nan


def _depth(hu: np.ndarray) -> np.ndarray:
    """Relative depth of each row: 0 at the front of the lungs, 1 at their back."""
    lung = np.count_nonzero((hu > LUNG_HU[0]) & (hu < LUNG_HU[1]), axis=(0, 2))
    rows = np.flatnonzero(lung > 0.02 * lung.max())
    front, back = (rows[0], rows[-1]) if len(rows) > 1 else (0, hu.shape[1] - 1)
    return (np.arange(hu.shape[1]) - front) / max(back - front, 1)


def _part(hu: np.ndarray, depth: np.ndarray, depths: tuple[float, float], columns: np.ndarray) -> np.ndarray:
    return hu[:, (depth > depths[0]) & (depth < depths[1])][:, :, columns]


def _between(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if mask.size else np.nan


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan
