"""2.5-D slices: a slice with its neighbours along z as channels, so that a 2-D network sees depth."""

from collections.abc import Sequence

import numpy as np

OFFSETS = (-1, 0, 1)


def neighbours_by_distance(z_mm: np.ndarray, step_mm: float, offsets: tuple[int, ...] = OFFSETS) -> np.ndarray:
    """Index of the slices nearest to z + offset * step_mm: the same depth for every slice spacing.

    A slice is its own neighbour at distance 0, even where several slices share a position.

    Args:
        z_mm: (n,) ascending positions, mm.
        step_mm: distance between channels, mm; 0 repeats the slice itself.
        offsets: multiples of `step_mm`, one per channel.

    Returns:
        int64 (n, len(offsets)).

    Raises:
        ValueError: positions that descend, or a negative step.
    """
    z_mm = np.asarray(z_mm, float)
    if step_mm < 0 or np.any(np.diff(z_mm) < 0):
        raise ValueError(f"expected ascending z and a step of at least 0 mm, got a step of {step_mm} mm")
    targets = z_mm[:, None] + np.asarray(offsets, float)[None] * step_mm
    upper = np.clip(np.searchsorted(z_mm, targets), 1, max(len(z_mm) - 1, 1))
    upper = np.minimum(upper, len(z_mm) - 1)
    lower = np.maximum(upper - 1, 0)
    nearest = np.where(targets - z_mm[lower] <= z_mm[upper] - targets, lower, upper)
    nearest[:, np.asarray(offsets) * step_mm == 0] = np.arange(len(z_mm))[:, None]
    return nearest


def stack_slice(hu: np.ndarray, neighbours: Sequence[int] | np.ndarray) -> np.ndarray:
    """Stack planes of a volume as the channels of one slice; a repeated plane is read once.

    Args:
        hu: int16 (z, y, x), a numpy array or a stored exam's `hu`.
        neighbours: (n,) indices of the planes.

    Returns:
        int16 (y, x, n).
    """
    planes = {int(index): np.asarray(hu[int(index)]) for index in dict.fromkeys(neighbours)}
    return np.stack([planes[int(index)] for index in neighbours], axis=-1)
