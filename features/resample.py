"""In-plane resampling: area averages when shrinking, straight lines when enlarging, nothing along z.

Both are a matrix a side, so a plane costs two matrix products, and sub-pixel positions are exact.
Averaging over the area of an output pixel is the antialiasing: noise falls, no moire. The matrices
are narrow bands, so they are multiplied in blocks along the band: a fifth of the time of whole products.
"""

from functools import lru_cache

import numpy as np

#: Output pixels of one block of a banded matrix; at 16 the grey levels were those of whole products.
BLOCK = 16


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
    down_blocks, across_blocks = _blocks(down[:, rows]), _blocks(across[:, columns])
    result = np.empty((len(hu), len(down), len(across)), np.int16)
    lines = np.empty((len(down), columns.stop - columns.start), np.float32)
    wanted = np.empty((len(down), len(across)), np.float32)
    for plane, target in zip(hu, result, strict=True):  # a plane at a time: float copies stay small
        pixels = plane[rows, columns].astype(np.float32)
        for out, used, weights in down_blocks:
            np.matmul(weights, pixels[used], out=lines[out])
        for out, used, weights in across_blocks:
            wanted[:, out] = lines[:, used] @ weights.T
        target[...] = np.rint(wanted, out=wanted)
    return result


def _blocks(weights: np.ndarray) -> list[tuple[slice, slice, np.ndarray]]:
    """A banded matrix cut into (its output pixels, the input pixels that these use, their weights)."""
    blocks = []
    for first in range(0, len(weights), BLOCK):
        first = max(0, min(first, len(weights) - BLOCK))  # the last one overlaps: narrow products round differently
        block = weights[first : first + BLOCK]
        used = _support(block)
        blocks.append((slice(first, first + len(block)), used, np.ascontiguousarray(block[:, used])))
    return blocks


def _support(weights: np.ndarray) -> slice:
    """The input pixels that any output pixel uses."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)
