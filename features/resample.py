"""In-plane resampling: area averages when shrinking, linear interpolation when enlarging, unchanged along z.

Both are one weight matrix per axis, so a plane costs two matrix products and sub-pixel positions are exact.
Averaging over the area of an output pixel is the antialiasing filter: it reduces noise and prevents moire. The
matrices are narrow bands and are multiplied in blocks along the band, in a fifth of the time of full products.
"""

from functools import lru_cache

import numpy as np

#: Output pixels per block of a banded matrix.
BLOCK = 16


@lru_cache(maxsize=64)
def axis_weights(start: int, stop: int, size: int, pixel_mm: float, spacing_mm: float) -> np.ndarray:
    """Weights that turn input pixels start:stop of one axis into output pixels of `spacing_mm`.

    The output covers the box, aligned at its centre; output pixels that extend beyond the image repeat its edge.

    Args:
        start, stop: the box along this axis, in input pixels (half open).
        size: input pixels along this axis.
        pixel_mm, spacing_mm: input and output spacing.

    Returns:
        float32 (n_out, size), rows sum to 1; n_out = the box's length in output pixels, at least 1.
    """
    n_out = max(1, round((stop - start) * pixel_mm / spacing_mm))
    scale = spacing_mm / pixel_mm  # output pixel, in input pixels
    centres = output_centres(start, stop, n_out, scale)
    exact = _area_weights(centres, scale, size) if scale >= 1 else _linear_weights(centres, size)
    weights = exact.astype(np.float32)
    weights.setflags(write=False)
    return weights


def output_centres(start: float, stop: float, count: int, scale: float) -> np.ndarray:
    """Centres of the output pixels of one axis, in input pixels; the centre of input pixel i is at i + 0.5.

    Args:
        start, stop: the box along this axis, in input pixels (half open).
        count: output pixels.
        scale: size of an output pixel in input pixels.

    Returns:
        float64 (count,).
    """
    return (start + stop) / 2 + (np.arange(count) - (count - 1) / 2) * scale


def _area_weights(centres: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Fraction of each output pixel's extent that each input pixel covers."""
    low, high = centres[:, None] - scale / 2, centres[:, None] + scale / 2
    edges = np.arange(size)[None]
    first, last = np.where(edges == 0, -np.inf, edges), np.where(edges == size - 1, np.inf, edges + 1)
    return np.clip(np.minimum(high, last) - np.maximum(low, first), 0, None) / scale


def _linear_weights(centres: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation between pixel centres (a pixel's centre is at index + 0.5)."""
    position = np.clip(centres - 0.5, 0, size - 1)
    lower = np.minimum(np.floor(position).astype(int), max(size - 2, 0))
    fraction = position - lower
    weights = np.zeros((len(centres), size))
    rows = np.arange(len(centres))
    weights[rows, lower] += 1 - fraction
    weights[rows, np.minimum(lower + 1, size - 1)] += fraction
    return weights


def resample_box(
    hu: np.ndarray, box: tuple[int, int, int, int], pixel_mm: tuple[float, float], spacing_mm: float
) -> np.ndarray:
    """Crop planes to a box and resample them to an isotropic in-plane spacing.

    Args:
        hu: int16 (z, y, x), HU.
        box: (y0, y1, x0, x1) in input pixels, half open.
        pixel_mm: (y, x) spacing of `hu`.
        spacing_mm: output spacing of both axes.

    Returns:
        int16 (z, y', x'), rounded HU. A value within float32 rounding error of a half may round either way, depending
        on the processor's matrix kernels.
    """
    y0, y1, x0, x1 = box
    down = axis_weights(y0, y1, hu.shape[1], float(pixel_mm[0]), float(spacing_mm))
    across = axis_weights(x0, x1, hu.shape[2], float(pixel_mm[1]), float(spacing_mm))
    rows, columns = _support(down), _support(across)
    down_blocks, across_blocks = _blocks(down[:, rows]), _blocks(across[:, columns])
    result = np.empty((len(hu), len(down), len(across)), np.int16)
    lines = np.empty((len(down), columns.stop - columns.start), np.float32)
    resampled = np.empty((len(down), len(across)), np.float32)
    for plane, target in zip(hu, result, strict=True):  # plane by plane, so that float copies stay small
        pixels = plane[rows, columns].astype(np.float32)
        for out, inputs, weights in down_blocks:
            np.matmul(weights, pixels[inputs], out=lines[out])
        for out, inputs, weights in across_blocks:
            resampled[:, out] = lines[:, inputs] @ weights.T
        target[...] = np.rint(resampled, out=resampled)
    return result


def _blocks(weights: np.ndarray) -> list[tuple[slice, slice, np.ndarray]]:
    """Split a banded matrix into blocks of (output pixels, the input pixels they use, their weights)."""
    blocks = []
    for first in range(0, len(weights), BLOCK):
        first = max(0, min(first, len(weights) - BLOCK))  # the last one overlaps: narrow products round differently
        block = weights[first : first + BLOCK]
        inputs = _support(block)
        blocks.append((slice(first, first + len(block)), inputs, np.ascontiguousarray(block[:, inputs])))
    return blocks


def _support(weights: np.ndarray) -> slice:
    """The range of input pixels that the output pixels use."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)
