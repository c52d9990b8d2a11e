"""Measurements of one slice that need no learning: position, lung area, contrast, dark regions inside bright vessels.

All are taken on the stored planes (inside the lung box, at the store's spacing), a block of planes at a time. They
support the stack and the reports: approximate, fast, and named with their units. "Right" and "left" are the patient's.
Where the spacing is unknown, regions are found as if pixels had the nominal size, and every number in mm or cm2 is NaN.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from features.chest_grid import LUNG_HU, SPINE_DEPTH, SPINE_MM
from features.lung_box import NOMINAL_PIXEL_MM, known_spacing
from features.masks import between_first_and_last, close_gaps, grow, shrink
from features.store import StoredExam

BLOCK = 64  # planes at a time, which limits memory on an exam of a thousand slices
SOFT_HU = (-20, 140)  # muscle, unenhanced blood, clot; never fat
CLOT_HU = (0, 110)
VESSEL_HU = (150, 700)  # contrast; denser is bone, metal or undiluted contrast
CENTRAL_MM = 30.0  # half width of the central region about the patient's midline
MEDIASTINUM_MM = 45.0
HEART_DEPTH = (0.25, 0.65)  # rows of the heart, as fractions of the lungs' depth
CLOSING_MM = 4.8  # bridges clots up to about 10 mm wide inside a bright vessel


def measure_slices(exam: StoredExam, hu: np.ndarray | None = None) -> pd.DataFrame:
    """Measure every plane of a stored exam; one row per plane, in the order of the array.

    Args:
        exam: the stored exam.
        hu: its planes, int16 (z, y, x), when they are already in memory.

    Returns:
        `relative_z` (0 lowest, 1 highest slice with lung), `z_from_lung_top_mm` (negative below the top), areas in
        cm2, fractions of the box's area or of contrast (0..1), HU levels; NaN where a slice has none.
    """
    hu = exam.hu[:] if hu is None else hu
    geometry = _Geometry(exam, hu)
    lung, blocks = geometry.lung, geometry.blocks
    first = [_tissue_numbers(hu[block], lung[block], geometry) for block in blocks]
    table = {name: np.concatenate([numbers[name] for numbers in first]) for name in first[0]}
    threshold = vessel_threshold(table["vessel_hu"])
    second = [_filling_numbers(hu[block], lung[block], geometry, threshold) for block in blocks]
    table |= {name: np.concatenate([numbers[name] for numbers in second]) for name in second[0]}
    measured = pd.DataFrame(positions(exam) | table | _edge_numbers(geometry))
    return measured if exam.has_spacing else measured.assign(**dict.fromkeys(length_columns(measured), np.nan))


def length_columns(names: Iterable[str]) -> list[str]:
    """The names of measurements that need a spacing: those in mm, cm2 or ml."""
    return [name for name in names if name.endswith(("_mm", "_cm2", "_ml"))]


def vessel_threshold(vessel_hu: np.ndarray) -> float:
    """HU above which a pixel is contrast-filled: halfway from muscle (50 HU) to this exam's vessels, at least 130."""
    level = vessel_level(vessel_hu)
    return float(max(130.0, ((level if np.isfinite(level) else VESSEL_HU[0]) + 50.0) / 2))


def vessel_level(vessel_hu: np.ndarray) -> float:
    """HU of this exam's blood with contrast, from the level of every slice; NaN where no slice has one."""
    known = vessel_hu[np.isfinite(vessel_hu)]
    return float(np.percentile(known, 80)) if len(known) else np.nan


def positions(exam: StoredExam) -> dict[str, np.ndarray]:
    """Position of each plane along z: `relative_z` and `z_from_lung_top_mm`, as in `measure_slices`."""
    bottom, top = exam.z_mm[exam.box.z0], exam.z_mm[min(exam.box.z1, len(exam)) - 1]
    height = top - bottom
    relative = (exam.z_mm - bottom) / height if height > 0 else np.full(len(exam), 0.5)
    return {"relative_z": np.clip(relative, -1.0, 2.0), "z_from_lung_top_mm": exam.z_mm - top}


class _Geometry:
    """Geometry of one exam's planes: lung mask, the patient's midline, the rows of the lungs."""

    def __init__(self, exam: StoredExam, hu: np.ndarray) -> None:
        self.blocks = [slice(start, start + BLOCK) for start in range(0, len(hu), BLOCK)]
        self.lung = np.concatenate([lung_mask(hu[block]) for block in self.blocks])
        y_mm, self.x_mm = known_spacing(exam.spacing_mm, NOMINAL_PIXEL_MM)
        self.pixel_cm2 = y_mm * self.x_mm / 100
        self.middle = int(np.clip(round(exam.middle_column), 1, hu.shape[2] - 1))
        self.offset_mm = (np.arange(hu.shape[2]) + 0.5 - exam.middle_column) * self.x_mm
        self.is_central = np.abs(self.offset_mm) < CENTRAL_MM
        self.front, self.back = self._lung_rows()

    def _lung_rows(self) -> tuple[float, float]:
        """First and last row of the lungs, as medians over the slices with the largest lung areas."""
        rows = np.asarray(self.lung.any(axis=2))
        area = np.count_nonzero(self.lung, axis=(1, 2))
        large = rows[area > 0.5 * area.max()] if area.max() else np.ones((1, rows.shape[1]), bool)
        last = rows.shape[1] - 1 - np.median(large[:, ::-1].argmax(axis=1))
        return float(np.median(large.argmax(axis=1))), float(last)

    def row_at(self, depth: float) -> int:
        """The row at a fraction of the lungs' depth (0 front, 1 back)."""
        return int(round(self.front + depth * (self.back - self.front)))

    def central_columns(self, half_width_mm: float) -> slice:
        """Columns within a distance of the patient's midline, at least one."""
        near = np.flatnonzero(np.abs(self.offset_mm) < half_width_mm)
        return slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(self.middle, self.middle + 1)

    def chest(self, lung: np.ndarray) -> np.ndarray:
        """Mask between the outer edges of the lungs, row by row, without the spine: no ribs, no chest wall."""
        inside = between_first_and_last(lung)
        inside[:, self.row_at(SPINE_DEPTH) :, self.central_columns(SPINE_MM)] = False
        return inside

    def halves(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of per-column values (z, x) over the patient's right and left half."""
        return columns[:, : self.middle].sum(axis=1), columns[:, self.middle :].sum(axis=1)

    def sides(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over right, left and centre, three parts that do not overlap."""
        right, left = (columns * (~self.is_central & side) for side in (self.offset_mm < 0, self.offset_mm >= 0))
        return right.sum(axis=1), left.sum(axis=1), (columns * self.is_central).sum(axis=1)


def lung_mask(hu: np.ndarray) -> np.ndarray:
    """Mask of lung-like pixels, without rims thinner than 3 pixels: the skin's blurred edge is as dark as lung."""
    return grow(shrink((hu > LUNG_HU[0]) & (hu < LUNG_HU[1]), 1), 1)


def _count_columns(mask: np.ndarray) -> np.ndarray:
    """Number of mask pixels in each column, float (z, x)."""
    return np.einsum("zyx->zx", mask.view(np.uint8), dtype=np.uint32, casting="unsafe").astype(float)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is empty."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def _tissue_numbers(hu: np.ndarray, lung: np.ndarray, geometry: _Geometry) -> dict[str, np.ndarray]:
    """Lung, tissue and contrast of a block of planes, int16 (z, y, x)."""
    right, left = geometry.halves(_count_columns(lung))
    lung_sum = np.einsum("zyx,zyx->zx", hu, lung, dtype=np.float32, casting="unsafe").astype(float)
    right_sum, left_sum = geometry.halves(lung_sum)
    wide_right, wide_left = _mediastinum_extent(lung, geometry)
    return {
        "lung_share": (right + left) / (hu.shape[1] * hu.shape[2]),
        "lung_area_right_cm2": right * geometry.pixel_cm2,
        "lung_area_left_cm2": left * geometry.pixel_cm2,
        "tissue_area_cm2": np.count_nonzero(hu > -300, axis=(1, 2)) * geometry.pixel_cm2,
        "lung_hu": _ratio(right_sum + left_sum, right + left),
        "lung_right_hu": _ratio(right_sum, right),
        "lung_left_hu": _ratio(left_sum, left),
        "vessel_hu": _vessel_hu(hu, geometry.chest(lung), geometry),
        "noise_hu": _noise(hu),
        "mediastinum_right_mm": wide_right,
        "mediastinum_left_mm": wide_left,
    }


def _vessel_hu(hu: np.ndarray, chest: np.ndarray, geometry: _Geometry) -> np.ndarray:
    """90th percentile of HU in the mediastinum's soft tissue: blood with contrast, if there is any."""
    columns = geometry.central_columns(MEDIASTINUM_MM)
    hu, chest = hu[:, :, columns], chest[:, :, columns]
    use = chest & (hu > -50) & (hu < VESSEL_HU[1])
    n_bins = (VESSEL_HU[1] + 50) // 10
    index = np.broadcast_to(np.arange(len(hu))[:, None, None] * n_bins, hu.shape)[use] + (hu[use] + 50) // 10
    cumulated = np.bincount(index, minlength=len(hu) * n_bins).reshape(len(hu), n_bins).cumsum(axis=1)
    counts = cumulated[:, -1]
    level = (cumulated < 0.9 * counts[:, None]).sum(axis=1) * 10.0 - 45.0
    return np.where(counts * geometry.pixel_cm2 >= 4.0, level, np.nan)


def _noise(hu: np.ndarray) -> np.ndarray:
    """SD in soft tissue, from differences of pixels two columns apart (neighbours are correlated)."""
    soft = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    pair = soft[:, :, 2:] & soft[:, :, :-2] & soft[:, :, 1:-1]
    difference = np.abs(hu[:, :, 2:] - hu[:, :, :-2])
    total = np.einsum("zyx,zyx->z", difference, pair, dtype=np.float32, casting="unsafe")
    # Mean absolute difference -> SD of one pixel, for normal noise: sqrt(pi) / 2.
    return _ratio(total * (np.sqrt(np.pi) / 2), np.count_nonzero(pair, axis=(1, 2)).astype(float))


def _mediastinum_extent(lung: np.ndarray, geometry: _Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Extent of soft tissue from the midline to the right and the left lung: 90th percentile over rows, mm.

    Only rows at the heart's depth count: in front and behind, the lungs reach far from the midline.
    """
    first, last = (geometry.row_at(depth) for depth in HEART_DEPTH)
    rows = slice(first, max(last, first + 1))
    extents = []
    for side in (lung[:, rows, : geometry.middle][:, :, ::-1], lung[:, rows, geometry.middle :]):
        distance = np.where(side.any(axis=2), side.argmax(axis=2).astype(float), -1.0)
        known = (distance >= 0).sum(axis=1)
        index = distance.shape[1] - 1 - (0.1 * known).astype(int)
        extent = np.sort(distance, axis=1)[np.arange(len(distance)), index] * geometry.x_mm
        extents.append(np.where(known > 0, extent, np.nan))
    return extents[0], extents[1]


def _filling_numbers(hu: np.ndarray, lung: np.ndarray, geometry: _Geometry, threshold: float) -> dict[str, np.ndarray]:
    """Contrast-filled vessels, and the dark regions that they enclose."""
    chest = geometry.chest(lung)
    bright = chest & (hu >= threshold)
    dark, candidates = dark_in_bright(hu, bright, geometry.x_mm)
    bright_columns = _count_columns(bright)
    bright_right, bright_left = geometry.halves(bright_columns)
    right, left, central = geometry.sides(_count_columns(candidates))
    area = bright_right + bright_left
    centre = _ratio(bright_columns @ geometry.offset_mm, area)
    variance = _ratio(bright_columns @ geometry.offset_mm**2, area) - centre**2
    return {
        "bright_right_cm2": bright_right * geometry.pixel_cm2,
        "bright_left_cm2": bright_left * geometry.pixel_cm2,
        "bright_centre_mm": centre,
        "bright_spread_mm": np.sqrt(np.maximum(variance, 0)),
        "dark_in_bright_share": _ratio(np.count_nonzero(dark, axis=(1, 2)).astype(float), area),
        "clot_candidate_right_cm2": right * geometry.pixel_cm2,
        "clot_candidate_left_cm2": left * geometry.pixel_cm2,
        "clot_candidate_central_cm2": central * geometry.pixel_cm2,
    }


def dark_in_bright(hu: np.ndarray, bright: np.ndarray, x_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Find clot-like pixels that bright vessels enclose in-plane.

    Args:
        hu: int16 (z, y, x).
        bright: bool mask of contrast-filled vessels in the same planes.
        x_mm: pixel size.

    Returns:
        (dark, candidates), both bool: `candidates` excludes pixels next to lung or fat (a vessel's blurred rim) and
        near undiluted contrast (streaks). Candidates include clots, but also the septum of the heart and the gap
        between two vessels.
    """
    radius = max(1, round(CLOSING_MM / x_mm))
    dark = close_gaps(bright, radius) & ~bright & (hu >= CLOT_HU[0]) & (hu <= CLOT_HU[1])
    return dark, dark & ~grow(hu < -100, 1) & ~grow(bright & (hu > VESSEL_HU[1]), 2 * radius)


def _edge_numbers(geometry: _Geometry) -> dict[str, np.ndarray]:
    """Movement of the lungs' outline from slice to slice.

    `edge_jump_mm`: mean shift of the outline relative to the previous slice. `edge_flicker`: fraction of the outline
    that moves and returns within three slices, which is rare in anatomy and common in motion.
    """
    lung = geometry.lung
    outline = np.count_nonzero(lung[:, :, 1:] != lung[:, :, :-1], axis=(1, 2)).astype(float)
    jump, flicker = np.full(len(lung), np.nan), np.full(len(lung), np.nan)
    for index in range(1, len(lung)):
        changed = lung[index] != lung[index - 1]
        jump[index] = np.count_nonzero(changed) * geometry.x_mm
        if index + 1 < len(lung):
            flicker[index] = np.count_nonzero(changed & (lung[index + 1] == lung[index - 1]))
    return {"edge_jump_mm": _ratio(jump, outline), "edge_flicker": _ratio(flicker, outline)}
