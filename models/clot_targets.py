"""The clot map's grid, and its targets from a clot mask.

A cell covers MAP_STRIDE x MAP_STRIDE pixels of a network's input. Its channels: does it contain clot, is the clot
central, is it chronic?
"""

import cv2
import numpy as np

from input.clot_masks import CHRONIC_BIT, LEFT_MAIN, TRUNK, UNKNOWN

#: Distance of neighbouring cells, input pixels.
MAP_STRIDE = 8
#: Channels of a cell.
CLOT, CENTRAL_CLOT, CHRONIC_CLOT = range(3)
MAP_CHANNELS = 3
#: The clot target is this many times the share of the cell that is clot, at most 1: a segmental artery fills a fifth
#: of a cell.
FULL = 2.0
#: Share of a cell from which clot in it has a place and an age.
LEAST_SHARE = 1e-3


def map_shape(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the clot map of an input of `height` x `width` pixels."""
    return -(-height // MAP_STRIDE), -(-width // MAP_STRIDE)


def cell_targets(codes: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the targets of the clot map of one view.

    Args:
        codes: uint8 (y, x), codes of `input.clot_masks` on the store's grid.
        matrix: Affine map (2, 3) from stored pixels to pixels of the view.
        size: (y, x) of the view in pixels.

    Returns:
        float32 (rows, columns, 2 * MAP_CHANNELS): targets in [0, 1], then weights. Every cell has a clot target; only
        cells with clot of known region and age have the other two.
    """
    (height, width), (rows, columns) = size, map_shape(*size)
    result = np.zeros((rows, columns, 2 * MAP_CHANNELS), np.float32)
    result[..., MAP_CHANNELS + CLOT] = 1
    if not codes.any():
        return result
    region = codes % CHRONIC_BIT
    masks = (codes > 0, (region >= TRUNK) & (region <= LEFT_MAIN), codes >= CHRONIC_BIT, region == UNKNOWN)
    pixels = cv2.warpAffine(
        np.stack(masks, axis=-1).astype(np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR
    )
    padding = (0, rows * MAP_STRIDE - height, 0, columns * MAP_STRIDE - width)
    pixels = cv2.copyMakeBorder(pixels, *padding, cv2.BORDER_CONSTANT)
    shares = pixels.reshape(rows, MAP_STRIDE, columns, MAP_STRIDE, len(masks)).mean(axis=(1, 3))
    clot = shares[..., 0]
    result[..., CLOT] = np.minimum(1, FULL * clot)
    known = (clot > LEAST_SHARE) & (shares[..., 3] == 0)
    result[..., CENTRAL_CLOT] = np.where(known, shares[..., 1] / np.maximum(clot, LEAST_SHARE), 0).clip(0, 1)
    result[..., CHRONIC_CLOT] = np.where(known, shares[..., 2] / np.maximum(clot, LEAST_SHARE), 0).clip(0, 1)
    result[..., MAP_CHANNELS + CENTRAL_CLOT] = result[..., MAP_CHANNELS + CHRONIC_CLOT] = known * result[..., CLOT]
    return result


def flip_map(values: np.ndarray) -> np.ndarray:
    """Return maps (..., rows, columns, channels) of horizontally flipped views."""
    return values[..., ::-1, :]
