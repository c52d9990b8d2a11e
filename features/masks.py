"""Growing and shrinking masks in-plane by shifted copies: a few array operations, whatever the radius."""

import numpy as np


def grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate every plane of a bool (z, y, x) mask by a square of 2 * radius + 1 pixels."""
    return _grow_axis(_grow_axis(mask, 1, radius), 2, radius)


def shrink(mask: np.ndarray, radius: int) -> np.ndarray:
    """Erode every plane by the same square; outside the picture counts as inside the mask."""
    return ~grow(~mask, radius)


def close_gaps(mask: np.ndarray, radius: int) -> np.ndarray:
    """Fill gaps and holes narrower than 2 * radius + 1 pixels."""
    return shrink(grow(mask, radius), radius)


def _grow_axis(mask: np.ndarray, axis: int, radius: int) -> np.ndarray:
    if radius == 0:
        return mask
    padding = [(0, 0)] * mask.ndim
    padding[axis] = (radius, radius)
    result, width, wanted = np.pad(mask, padding), 1, 2 * radius + 1
    while width < wanted:  # a window twice as wide with every step
        step = min(width, wanted - width)
        size = result.shape[axis]
        front, back = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        front[axis], back[axis] = slice(0, size - step), slice(step, size)
        result = result[tuple(front)] | result[tuple(back)]
        width += step
    return result


def between_first_and_last(mask: np.ndarray) -> np.ndarray:
    """In every row of every plane, the pixels from the first to the last that the mask holds."""
    any_x = mask.any(axis=2)
    first = np.where(any_x, mask.argmax(axis=2), mask.shape[2])
    last = np.where(any_x, mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2), -1)
    columns = np.arange(mask.shape[2], dtype=np.int16)
    return (columns >= first[..., None].astype(np.int16)) & (columns <= last[..., None].astype(np.int16))
