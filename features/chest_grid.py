"""The chest on a coarse grid: what the search for heart and vessels works on, a few ms an exam.

Means over blocks of stored voxels, about 1.4 mm in-plane and 4 mm along z: noise falls, anatomy of a
centimetre stays. Where the spacing is unknown, lengths are meant in pixels of the usual size.
"""

from dataclasses import dataclass

import numpy as np

from features.lung_box import NOMINAL_PIXEL_MM, known_spacing
from features.masks import between_first_and_last, grow, shrink
from features.store import StoredExam

GRID_MM = 1.5
STEP_MM = 4.0
ZONE = (-0.05, 0.9)  # relative z of the slices looked at: from the heart's tip to the aortic arch
LUNG_HU = (-970, -500)  # emptier is room air, fuller is tissue
SPINE_MM, SPINE_DEPTH = 28.0, 0.72  # half width; where it begins, as a share of the lungs' depth


@dataclass(frozen=True)
class Chest:
    """One exam's chest; arrays (z, y, x), z from feet to head, +x to the patient's left, +y to the back.

    Attributes:
        hu: float32 means over blocks, HU.
        planes: (z,) index of the stored plane in the middle of each block.
        factor: stored pixels a side of a block.
        pixel_mm: of the grid.
        step_mm: median distance of the grid's planes.
        relative_z: (z,) 0 at the lowest, 1 at the highest slice with lung.
        offset_mm: (x,) from the patient's middle, positive to the left.
        depth: (y,) 0 at the lungs' front, 1 at their back.
        inside: bool, between the lungs' outer edges, no lung, no spine.
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

    def stored(self, index: np.ndarray | float) -> np.ndarray | float:
        """Place along a row or column of the grid -> the same place in stored pixels (centres at whole numbers)."""
        return (np.asarray(index) + 0.5) * self.factor - 0.5


def coarse_chest(exam: StoredExam, hu: np.ndarray, relative_z: np.ndarray) -> Chest | None:
    """The chest of a stored exam; None where no lungs were found or too few slices show them.

    Args:
        exam: the stored exam.
        hu: its planes, int16 (z, y, x).
        relative_z: (z,) from `measure.measure_slices`.
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
    """Means over blocks of (group, factor, factor) voxels, float32; pixels that fill no block are left out."""
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
    """Where each row lies between the lungs' front (0) and back (1)."""
    rows = np.flatnonzero(lung.sum(axis=(0, 2)) > 0.02 * max(lung.sum(axis=(0, 2)).max(), 1))
    front, back = (rows[0], rows[-1]) if len(rows) > 1 else (0, lung.shape[1] - 1)
    return (np.arange(lung.shape[1]) - front) / max(back - front, 1)


def _inside(lung: np.ndarray, offset_mm: np.ndarray, depth: np.ndarray) -> np.ndarray:
    outer = grow(shrink(lung, 1), 1)  # without the skin's blurred edge, which is as dark as lung
    inside = between_first_and_last(outer) & ~outer
    inside[:, (depth > SPINE_DEPTH)[:, None] & (np.abs(offset_mm) < SPINE_MM)] = False
    return inside
