"""Measurements that decide whether an exam can be assessed: geometry, HU scale, lungs, contrast, noise, motion, metal.

All are taken from the stored planes, the positions in the headers and the slice and exam measurements of the store; no
learning is involved. `features.acceptance_rules` turns them into an outcome with reasons.
"""

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd

from features.masks import grow, shrink
from features.orientation_signs import SIGNS, orientation_signs
from features.slice_measurements import lung_mask
from features.store import StoredExam
from input.slice_order import GAP_STEPS, SAME_POSITION_MM

BIN_HU, LOWEST_HU, HIGHEST_HU = 16, -1024, 3071
#: HU relative to soft tissue (0) that a CT of the chest is full of: soft tissue and blood; lung and air.
TISSUE_BAND, AIR_BAND = (-16, 112), (-1100, -600)
SATURATED_HU = 3040  # wrapped or clipped values end up here; bone does not
METAL_HU = 2800
MANY_GAPS = 0.2  # a larger share of the steps cannot all be gaps
PADDING_HU = -1015  # padding is exactly -1024 after clipping; noise keeps air from filling a region


@dataclasses.dataclass(frozen=True)
class AcceptanceMeasurements:
    """Measurements of one exam; NaN for what the exam does not show, and for lengths where the spacing is unknown.

    Attributes:
        slices: stored slices.
        step_mm: usual distance of neighbouring slice positions.
        extent_mm: from the first to the last slice.
        gap_mm: the largest distance of neighbouring slices.
        gap_low_mm, gap_high_mm: z of the slices on either side of it.
        gap_level: relative z of its middle, 0 the lowest and 1 the highest slice with lung.
        missing_share: share of the extent that lies in gaps.
        repeated_share: share of the slices at the position of another slice.
        uneven_share: share of the distances that differ from the median by more than a quarter, without gaps.
        hu_shift: the HU at which soft tissue lies, relative to its usual value, in steps of 16 HU.
        hu_fit: how well the histogram fits soft tissue with lung or air below it: 0 not at all, 0.5 perfectly.
        hu_low, hu_high: 1st and 99.9th percentile.
        saturated_share: share of the voxels at the upper end of the HU range.
        lungs_found: whether the lung box was found (0 or 1).
        lung_height_mm, lung_ml: height and volume of both lungs.
        smaller_lung_share: the smaller lung's share of the volume.
        lung_hu: median of the lungs' mean HU.
        top_share, bottom_share: lung area of the highest and the lowest slice relative to the largest.
        cut_share: share of the lungs' outline that touches the border of the field of view.
        artery_hu: HU of the blood in the pulmonary trunk, or in the mediastinum where no trunk was found.
        aorta_hu: HU of the blood in the ascending aorta.
        noise_hu: SD in soft tissue.
        flicker: motion of the lungs' edges (`features.slice_measurements`).
        metal_ml: volume of voxels as dense as metal.
        airway_top_cm2, airway_bottom_cm2: area of air in the middle of the chest near the apex and near the base.
        heart_taper: width of the mediastinum at the heart relative to that above it.
        heart_left_mm: how far the heart reaches to the left of the midline, minus how far to the right.
        aorta_left: descending aorta: blood left of the spine minus right of it, relative to their sum, -1 to 1.
        spine_back: share of bone in the middle of the back minus that in the middle of the front.
        lung_front: share of lung in the middle of the front minus that in the middle of the back.
    """

    slices: int
    step_mm: float
    extent_mm: float
    gap_mm: float
    gap_low_mm: float
    gap_high_mm: float
    gap_level: float
    missing_share: float
    repeated_share: float
    uneven_share: float
    hu_shift: float
    hu_fit: float
    hu_low: float
    hu_high: float
    saturated_share: float
    lungs_found: float
    lung_height_mm: float
    lung_ml: float
    smaller_lung_share: float
    lung_hu: float
    top_share: float
    bottom_share: float
    cut_share: float
    artery_hu: float
    aorta_hu: float
    noise_hu: float
    flicker: float
    metal_ml: float
    airway_top_cm2: float
    airway_bottom_cm2: float
    heart_taper: float
    heart_left_mm: float
    aorta_left: float
    spine_back: float
    lung_front: float

    def as_dict(self) -> dict[str, float]:
        """Field -> value."""
        return dataclasses.asdict(self)


#: Names of the measurements, in order.
FIELDS = tuple(field.name for field in dataclasses.fields(AcceptanceMeasurements))


def measure_acceptance(
    exam: StoredExam, slices: pd.DataFrame, numbers: Mapping[str, float], hu: np.ndarray | None = None
) -> AcceptanceMeasurements:
    """Measure one stored exam.

    Args:
        exam: the stored exam.
        slices: its rows of the store's slice table, in the order of the planes.
        numbers: its row of the store's exam table.
        hu: its planes, int16 (z, y, x), when they are already in memory.
    """
    hu = exam.hu[:] if hu is None else hu
    artery_hu, aorta_hu = (float(numbers.get(name, np.nan)) for name in ("pulmonary_artery_hu", "aorta_hu"))
    blood_hu = artery_hu if np.isfinite(artery_hu) else _mediastinal_blood_hu(numbers)
    volumes = np.array([float(numbers["lung_right_ml"]), float(numbers["lung_left_ml"])])
    found = bool(exam.box.found)
    z_mm = exam.z_mm if exam.has_spacing else np.full(len(exam), np.nan)  # else z is only a rank
    return AcceptanceMeasurements(
        slices=len(exam),
        **_geometry(z_mm, slices["relative_z"].to_numpy(float)),
        **_hu_scale(hu),
        lungs_found=float(found),
        lung_height_mm=float(numbers["lung_height_mm"]) if found else np.nan,
        lung_ml=float(volumes.sum()) if found else np.nan,
        smaller_lung_share=float(volumes.min() / volumes.sum()) if found and volumes.sum() > 0 else np.nan,
        lung_hu=float(numbers["lung_hu"]) if found else np.nan,
        **_ends(slices),
        cut_share=_cut_share(exam, hu) if found else np.nan,
        artery_hu=blood_hu,
        aorta_hu=aorta_hu,
        noise_hu=float(numbers["noise_hu"]),
        flicker=float(numbers["motion_edge_flicker"]) if found else np.nan,
        metal_ml=_metal_ml(exam, hu),
        **(orientation_signs(exam, hu, slices, blood_hu) if found else dict.fromkeys(SIGNS, np.nan)),
    )


def _mediastinal_blood_hu(numbers: Mapping[str, float]) -> float:
    """HU of the blood in the mediastinum, from a 90th percentile that noise has raised by 1.28 SD."""
    return float(numbers["vessel_hu"]) - 1.28 * float(numbers["noise_hu"])


def _geometry(z_mm: np.ndarray, relative_z: np.ndarray) -> dict[str, float]:
    """Distances of neighbouring slices; `z_mm` ascends, or is NaN where lengths are unknown."""
    names = ("step_mm", "gap_mm", "gap_low_mm", "gap_high_mm", "gap_level", "missing_share", "uneven_share")
    numbers = dict.fromkeys(names, np.nan) | {"extent_mm": float(z_mm[-1] - z_mm[0]), "repeated_share": 0.0}
    steps = np.diff(z_mm)
    distinct = steps[steps > SAME_POSITION_MM]
    if not len(distinct):
        return numbers
    step, largest = float(np.median(distinct)), int(steps.argmax())
    if (distinct > GAP_STEPS * step).mean() > MANY_GAPS:  # interleaved acquisitions: the small steps are not the usual
        step = float(np.percentile(distinct, 75))
    gaps = steps > GAP_STEPS * step
    even = np.abs(distinct / step - 1) <= 0.25
    return numbers | {
        "step_mm": step,
        "gap_mm": float(steps[largest]),
        "gap_low_mm": float(z_mm[largest]),
        "gap_high_mm": float(z_mm[largest + 1]),
        "gap_level": float(relative_z[largest : largest + 2].mean()),
        "missing_share": float((steps[gaps] - step).sum() / (z_mm[-1] - z_mm[0])),
        "repeated_share": float((steps <= SAME_POSITION_MM).mean()),
        "uneven_share": float(1 - (even | (distinct > GAP_STEPS * step)).mean()),
    }


def _hu_scale(hu: np.ndarray) -> dict[str, float]:
    """Where soft tissue and air lie in the histogram of every second voxel in-plane."""
    bins = (HIGHEST_HU + 1 - LOWEST_HU) // BIN_HU
    values = hu[:, ::2, ::2].ravel().astype(np.int32)
    counts = np.bincount((values - LOWEST_HU) // BIN_HU, minlength=bins)
    total = np.concatenate([[0], np.cumsum(counts)]) / len(values)

    def share(centre: np.ndarray, band: tuple[int, int]) -> np.ndarray:
        low, high = (np.clip((centre + edge - LOWEST_HU) // BIN_HU, 0, bins) for edge in band)
        return np.asarray(total[high] - total[low])

    shifts = np.arange(-960, 2000, BIN_HU)
    fits = np.sqrt(share(shifts, TISSUE_BAND) * share(shifts, AIR_BAND))
    low, high = np.searchsorted(total[1:], (0.01, 0.999))
    return {
        "hu_shift": float(shifts[fits.argmax()]),
        "hu_fit": float(fits.max()),
        "hu_low": float(LOWEST_HU + BIN_HU * low),
        "hu_high": float(LOWEST_HU + BIN_HU * high),
        "saturated_share": float((values >= SATURATED_HU).mean()),
    }


def _ends(slices: pd.DataFrame) -> dict[str, float]:
    """Lung areas of the highest and the lowest slice relative to the largest."""
    area = slices["lung_share"].to_numpy(float)
    largest = area.max()
    top, bottom = (area[-1] / largest, area[0] / largest) if largest > 0 else (np.nan, np.nan)
    return {"top_share": float(top), "bottom_share": float(bottom)}


def _cut_share(exam: StoredExam, hu: np.ndarray) -> float:
    """Share of the lungs' outline at the border of the image, or at the padding around a round field of view."""
    lung = lung_mask(hu)
    outline = np.count_nonzero(grow(lung, 1) & ~lung) + 1
    padding = shrink(hu <= PADDING_HU, 2)
    beside = lung & grow(_at_border(padding), 4)
    rows, columns = exam.sidecar["raw_shape"]
    box = exam.box
    at_border = [
        *([lung[:, 0]] if box.y0 == 0 else []), *([lung[:, -1]] if box.y1 == rows else []),
        *([lung[:, :, 0]] if box.x0 == 0 else []), *([lung[:, :, -1]] if box.x1 == columns else []),
    ]  # fmt: skip
    # A band of the lung two pixels wide lies within reach of the padding; the outline is one pixel wide.
    return float((np.count_nonzero(beside) / 2 + sum(map(np.count_nonzero, at_border))) / outline)


def _at_border(mask: np.ndarray) -> np.ndarray:
    """The regions of each plane of a bool (z, y, x) mask that reach the first or last row or column but two."""
    result = np.zeros_like(mask)
    for plane, kept in zip(mask, result, strict=True):
        if plane.any():
            _, labels = cv2.connectedComponents(plane.view(np.uint8))
            rim = np.concatenate(
                [labels[:3].ravel(), labels[-3:].ravel(), labels[:, :3].ravel(), labels[:, -3:].ravel()]
            )
            kept[:] = np.isin(labels, np.setdiff1d(rim, [0]))
    return result


def _metal_ml(exam: StoredExam, hu: np.ndarray) -> float:
    if not exam.has_spacing or len(exam) < 2:
        return np.nan
    per_plane = np.count_nonzero(hu >= METAL_HU, axis=(1, 2)) * exam.spacing_mm[0] * exam.spacing_mm[1]
    return float(np.trapezoid(per_plane, exam.z_mm) / 1000)
