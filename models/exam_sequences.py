"""Resampling between an exam's slices and a sequence of fixed length along z (mm).

Exams differ in slice thickness and length. The exam networks see all of them on one grid of positions, so that a step
is the same distance in every exam.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Positions along z at which an exam is sampled.

    Attributes:
        z_mm: Positions in mm, ascending, centred on the exam, shape (length,).
        inside: float32 (length,): 1 where the exam has slices, else 0.
    """

    z_mm: np.ndarray
    inside: np.ndarray


def grid_of(z_mm: np.ndarray, length: int, step_mm: float, *, shift: float = 0.0, stretch: float = 1.0) -> Grid:
    """Return the grid of an exam; an exam longer than `length * step_mm` gets wider steps.

    Args:
        z_mm: Positions of the slices in mm, ascending, shape (n,).
        length: Number of grid positions.
        step_mm: Distance between grid positions in mm.
        shift: Shift of the grid, in steps.
        stretch: Factor of the step.
    """
    extent = z_mm[-1] - z_mm[0]
    step = max(step_mm * stretch, extent / max(length - 1, 1))
    positions = (z_mm[0] + z_mm[-1]) / 2 + (np.arange(length) - (length - 1) / 2 + shift) * step
    reach = step * (0.5 + 1e-6)  # so that a single slice has a position as well
    inside = (positions >= z_mm[0] - reach) & (positions <= z_mm[-1] + reach)
    return Grid(positions, inside.astype(np.float32))


def onto_grid(grid: Grid, z_mm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate values of slices linearly at the grid positions.

    Args:
        grid: Grid of the exam.
        z_mm: Positions of the slices in mm, ascending, shape (n,).
        values: Values of the slices, shape (n, d).

    Returns:
        float32 (length, d); 0 outside the exam.
    """
    return _interpolate(grid.z_mm, z_mm, values) * grid.inside[:, None]


def from_grid(grid: Grid, z_mm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate values of the grid linearly at the slices; only positions inside the exam are used.

    Args:
        grid: Grid of the exam.
        z_mm: Positions of the slices in mm, ascending, shape (n,).
        values: Values at the grid positions, shape (length, d).

    Returns:
        float32 (n, d).
    """
    inside = grid.inside > 0
    return _interpolate(z_mm, grid.z_mm[inside], values[inside])


def _interpolate(positions: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate rows linearly; beyond the ends the nearest row. `known` may have equal positions."""
    upper = np.clip(np.searchsorted(known, positions), 1, max(len(known) - 1, 1))
    upper = np.minimum(upper, len(known) - 1)
    lower = np.maximum(upper - 1, 0)
    gap = known[upper] - known[lower]
    share = np.divide(positions - known[lower], gap, out=np.zeros(len(positions)), where=gap > 0).clip(0, 1)[:, None]
    return ((1 - share) * values[lower] + share * values[upper]).astype(np.float32)


def with_neighbours(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Append the differences to both neighbours along the grid.

    Args:
        values: Shape (..., length, d).
        inside: Shape (..., length); a difference to or from a position outside is 0.

    Returns:
        Shape (..., length, 3 d).
    """
    step = np.diff(values, axis=-2) * (inside[..., 1:, None] * inside[..., :-1, None])
    zeros = np.zeros_like(values[..., :1, :])
    to_previous, to_next = np.concatenate([zeros, step], axis=-2), np.concatenate([-step, zeros], axis=-2)
    return np.concatenate([values, to_previous, to_next], axis=-1)
