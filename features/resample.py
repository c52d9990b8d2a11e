"""In-plane resampling: area averages when shrinking, straight lines when enlarging, nothing along z.

Both are a matrix a side, so a plane costs two small matrix products, and sub-pixel positions are
exact. Averaging over the area of an output pixel is the antialiasing: noise falls, no moire.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def axis_weights(start: int, stop: int, size: int, pixel_mm: float, spacing_mm: float) -> np.ndarray:
    """Weights that turn input pixels start:stop of one axis into output pixels of `spacing_mm`.

    The output covers the box about its centre; pixels at its rim that reach beyond the image
    repeat the image's edge.

    Args:
        start, stop: the box along this axis, in input pixels (half open).
        size: input pixels along this axis.
        pixel_mm, spacing_mm: input and output spacing.

    Returns:
        float32 (n_out, size), rows sum to 1; n_out = the box's length in output pixels, at least 1.
    """
    n_out = max(1, round((stop - start) * pixel_mm / spacing_mm))
    scale = spacing_mm / pixel_mm  # output pixel, in input pixels
    centres = (start + stop) / 2 + (np.arange(n_out) - (n_out - 1) / 2) * scale
    if scale >= 1:
        weights = _areas(centres, scale, size)
    else:
        weights = _lines(centres, size)
    weights = weights.astype(np.float32)
    weights.setflags(write=False)
    return weights


def _areas(centres: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Share of each output pixel's extent that lies in each input pixel."""
    low, high = centres[:, None] - scale / 2, centres[:, None] + scale / 2
    edges = np.arange(size)[None]
    first, last = np.where(edges == 0, -np.inf, edges), np.where(edges == size - 1, np.inf, edges + 1)
    return np.clip(np.minimum(high, last) - np.maximum(low, first), 0, None) / scale


def _lines(centres: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation between pixel centres (a pixel's centre is at index + 0.5)."""
    place = np.clip(centres - 0.5, 0, size - 1)
    lower = np.minimum(np.floor(place).astype(int), max(size - 2, 0))
    fraction = place - lower
    weights = np.zeros((len(centres), size))
    rows = np.arange(len(centres))
    weights[rows, lower] += 1 - fraction
    weights[rows, np.minimum(lower + 1, size - 1)] += fraction
    return weights


def resample_box(
    hu: np.ndarray, box: tuple[int, int, int, int], pixel_mm: tuple[float, float], spacing_mm: float
) -> np.ndarray:
    """Crop planes to a box and bring them to a spacing.

    Args:
        hu: int16 (z, y, x), HU.
        box: (y0, y1, x0, x1) in input pixels, half open.
        pixel_mm: (y, x) spacing of `hu`.
        spacing_mm: spacing wanted, both axes.

    Returns:
        int16 (z, y', x'), rounded HU.
    """
    y0, y1, x0, x1 = box
    down = axis_weights(y0, y1, hu.shape[1], float(pixel_mm[0]), float(spacing_mm))
    across = axis_weights(x0, x1, hu.shape[2], float(pixel_mm[1]), float(spacing_mm))
    rows, columns = _support(down), _support(across)
    down, across = np.ascontiguousarray(down[:, rows]), np.ascontiguousarray(across[:, columns].T)
    result = np.empty((len(hu), down.shape[0], across.shape[1]), np.int16)
    for index, plane in enumerate(hu):  # a plane at a time: float copies stay small
        result[index] = np.rint(down @ plane[rows, columns].astype(np.float32) @ across)
    return result


def _support(weights: np.ndarray) -> slice:
    """The input pixels that any output pixel uses."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)
