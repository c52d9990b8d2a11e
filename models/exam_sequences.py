"""From an exam's slices to a sequence of fixed length, in mm along z, and back.

Exams differ in slice thickness and length; a network over the slices sees them on one grid of
positions, so that a step means the same distance in every exam.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Positions along z at which an exam is read.

    Attributes:
        z_mm: (length,) positions, ascending, centred on the exam.
        inside: (length,) float32, 1 where the exam has slices, else 0.
    """

    z_mm: np.ndarray
    inside: np.ndarray


def grid_of(z_mm: np.ndarray, length: int, step_mm: float, *, shift: float = 0.0, stretch: float = 1.0) -> Grid:
    """The grid of an exam; one that is longer than `length * step_mm` gets wider steps.

    Args:
        z_mm: (n,) positions of the slices, ascending, mm.
        length: positions of the grid.
        step_mm: distance between them.
        shift: moves the grid, in steps.
        stretch: multiplies the step.
    """
    extent = z_mm[-1] - z_mm[0]
    step = max(step_mm * stretch, extent / max(length - 1, 1))
    positions = (z_mm[0] + z_mm[-1]) / 2 + (np.arange(length) - (length - 1) / 2 + shift) * step
    reach = step * (0.5 + 1e-6)  # so that one slice alone has a position, too
    inside = (positions >= z_mm[0] - reach) & (positions <= z_mm[-1] + reach)
    return Grid(positions, inside.astype(np.float32))


def onto_grid(grid: Grid, z_mm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (n, d) of slices at `z_mm`, linearly interpolated at the grid: float32 (length, d), 0 outside."""
    return _interpolated(grid.z_mm, z_mm, values) * grid.inside[:, None]


def from_grid(grid: Grid, z_mm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (length, d) of a grid at the slices: float32 (n, d). Only positions inside the exam are read."""
    inside = grid.inside > 0
    return _interpolated(z_mm, grid.z_mm[inside], values[inside])


def _interpolated(wanted: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear interpolation of rows; beyond the ends the nearest row. Equal positions are no trouble."""
    upper = np.clip(np.searchsorted(known, wanted), 1, max(len(known) - 1, 1))
    upper = np.minimum(upper, len(known) - 1)
    lower = np.maximum(upper - 1, 0)
    gap = known[upper] - known[lower]
    share = np.divide(wanted - known[lower], gap, out=np.zeros(len(wanted)), where=gap > 0).clip(0, 1)[:, None]
    return ((1 - share) * values[lower] + share * values[upper]).astype(np.float32)


def with_neighbours(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Values (..., length, d) beside their differences to both neighbours: (..., length, 3 d), 0 at the ends."""
    step = np.diff(values, axis=-2) * (inside[..., 1:, None] * inside[..., :-1, None])
    empty = np.zeros_like(values[..., :1, :])
    return np.concatenate(
        [values, np.concatenate([empty, step], axis=-2), np.concatenate([-step, empty], axis=-2)], axis=-1
    )
