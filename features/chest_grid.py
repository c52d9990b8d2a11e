"""A coarse grid of the chest, on which heart and vessels are searched; it costs a few ms per exam.

Grid values are means over blocks of stored voxels, about 1.4 mm in-plane and 4 mm along z: noise is averaged while
anatomy of a centimetre remains. Where the spacing is unknown, pixels are assumed to have the nominal size.
"""

from dataclasses import dataclass

import numpy as np

from features.lung_box import NOMINAL_PIXEL_MM, known_spacing
from features.masks import between_first_and_last, grow, shrink
from features.store import StoredExam

GRID_MM = 1.5
STEP_MM = 4.0
ZONE = (-0.05, 0.9)  # relative z of the slices used: from the apex of the heart to the aortic arch
LUNG_HU = (-970, -500)  # below is room air, above is tissue
SPINE_MM, SPINE_DEPTH = 28.0, 0.72  # half width; front edge as a fraction of the lungs' depth


@dataclass(frozen=True)
class Chest:
    """The coarse grid of one exam; arrays (z, y, x), z from feet to head, +x to the patient's left, +y to the back.

    Attributes:
        hu: float32 block means, HU.
        planes: (z,) index of the stored plane in the middle of each block.
        factor: side of a block, in stored pixels.
        pixel_mm: in-plane spacing of the grid.
        step_mm: median distance between planes of the grid.
        relative_z: (z,) 0 at the lowest, 1 at the highest slice with lung.
        offset_mm: (x,) distance from the patient's midline, positive to the left.
        depth: (y,) 0 at the front of the lungs, 1 at their back.
        inside: bool mask between the outer edges of the lungs, without lung and spine.
    """

    hu: np.ndarray
    planes: np.ndarray
    factor: int
    pixel_mm: float
    step_mm: float
    relative_z: np.ndarray
    offset_mm: np.ndarray
    depth: np.ndarray
    inside: np.ndarray

    def stored(self, index: np.ndarray) -> np.ndarray:
        """Convert positions along a row or column of the grid to stored pixels (centres at integers)."""
        return (np.asarray(index) + 0.5) * self.factor - 0.5


def coarse_chest(exam: StoredExam, hu: np.ndarray, relative_z: np.ndarray) -> Chest | None:
    """Build the coarse grid of a stored exam; None where no lungs were found or too few slices show them.

    Args:
        exam: the stored exam.
        hu: its planes, int16 (z, y, x).
        relative_z: (z,) from `slice_measurements.measure_slices`.
    """
    first, last = np.searchsorted(relative_z, ZONE)
    if not exam.box.found or last - first < 4:
        return None
    pixel_mm = known_spacing(exam.spacing_mm, NOMINAL_PIXEL_MM)[1]
    factor = max(1, round(GRID_MM / pixel_mm))
    step_mm = float(np.median(np.diff(exam.z_mm[first:last])))
    group = max(1, round(STEP_MM / step_mm)) if step_mm > 0 else 1
    if last - first < group:  # a few thin slices
        return None
    planes = np.arange(first, last - group + 1, group)
    coarse = _block_means(hu[planes[0] : planes[-1] + group], group, factor)
    middle = planes + group // 2
    lung = (coarse > LUNG_HU[0]) & (coarse < LUNG_HU[1])
    offset_mm = (np.arange(coarse.shape[2]) + 0.5 - exam.middle_column / factor) * pixel_mm * factor
    depth = _depth(lung)
    return Chest(
        coarse, middle, factor, pixel_mm * factor, max(step_mm, 0.1) * group, relative_z[middle], offset_mm, depth,
        _inside(lung, offset_mm, depth),
    )  # fmt: skip


def _block_means(hu: np.ndarray, group: int, factor: int) -> np.ndarray:
    """Means over blocks of (group, factor, factor) voxels, float32; incomplete blocks are left out."""
    rows, columns = (size // factor for size in hu.shape[1:])
    if factor == 1 and group == 1:
        return hu.astype(np.float32)
    blocks = hu[:, : rows * factor, : columns * factor]
    total = np.zeros((len(hu), rows, columns), np.float32)
    for dy in range(factor):
        for dx in range(factor):
            total += blocks[:, dy::factor, dx::factor]
    return total.reshape(-1, group, rows, columns).mean(axis=1) / np.float32(factor**2)


def _depth(lung: np.ndarray) -> np.ndarray:
    """Relative depth of each row: 0 at the front of the lungs, 1 at their back."""
    rows = np.flatnonzero(lung.sum(axis=(0, 2)) > 0.02 * max(lung.sum(axis=(0, 2)).max(), 1))
    front, back = (rows[0], rows[-1]) if len(rows) > 1 else (0, lung.shape[1] - 1)
    return (np.arange(lung.shape[1]) - front) / max(back - front, 1)


def _inside(lung: np.ndarray, offset_mm: np.ndarray, depth: np.ndarray) -> np.ndarray:
    outer = grow(shrink(lung, 1), 1)  # removes the skin's blurred edge, which is as dark as lung
    inside = between_first_and_last(outer) & ~outer
    inside[:, (depth > SPINE_DEPTH)[:, None] & (np.abs(offset_mm) < SPINE_MM)] = False
    return inside
