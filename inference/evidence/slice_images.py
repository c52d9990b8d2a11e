"""Stored slices as small grey JPEGs that keep the whole HU range, so that the browser shows every window of one image.

HU are compressed to 8 bits by a curve that is steep where the narrow windows are (CODE_POINTS). A window is then a
table of 256 grey values, applied by an SVG filter. One image per slice instead of three keeps a report on fifty exams
below 40 MB.
"""

import base64
import dataclasses

import cv2
import numpy as np

from features.store import StoredExam
from features.windows import WINDOWS, apply_window

#: (HU, code): the 8-bit code is linear in HU between two points; 3 HU per code in the mediastinal range.
CODE_POINTS = ((-1350, 0), (-800, 45), (-250, 90), (-160, 98), (240, 222), (450, 252), (1000, 255))
JPEG_QUALITY, KEY_JPEG_QUALITY = 80, 92
#: Longest side of slices other than key slices, if full-size slices exceed the budget.
SMALL_SIDE = 256
#: Planes from which the size of an exam's images is estimated.
SAMPLED_PLANES = 5

#: Probability of clot on the contour of a clot map, and its colour.
CONTOUR = 0.2
CLOT_BGR = (60, 220, 255)


@dataclasses.dataclass(frozen=True)
class SliceImages:
    """The images of one exam.

    Attributes:
        planes: (n,) rows in the store, ascending: feet to head.
        images: (n,) JPEGs as base64 text.
        shape: (y, x) of the stored planes; coordinates on the page are in these pixels, whatever an image's size.
    """

    planes: list[int]
    images: list[str]
    shape: tuple[int, int]


def encode_hu(hu: np.ndarray) -> np.ndarray:
    """Convert HU of any shape to uint8 codes."""
    points = np.array(CODE_POINTS, float)
    table = np.interp(np.arange(-1350, 1001), points[:, 0], points[:, 1]).round().astype(np.uint8)
    return table[np.clip(np.asarray(hu, np.int32), -1350, 1000) + 1350]


def decode_hu(codes: np.ndarray) -> np.ndarray:
    """Convert uint8 codes to HU, float."""
    points = np.array(CODE_POINTS, float)
    return np.interp(np.asarray(codes, float), points[:, 1], points[:, 0])


def window_tables() -> dict[str, list[float]]:
    """window -> the grey value in [0, 1] of each of the 256 codes."""
    hu = decode_hu(np.arange(256))
    return {name: [round(float(grey), 4) for grey in apply_window(hu, *WINDOWS[name])] for name in WINDOWS}


def draw_slices(exam: StoredExam, keys: list[int], characters: float) -> SliceImages:
    """Encode an exam's planes within a size limit.

    If all planes fit in full size, they are all drawn. Otherwise key slices stay in full size and quality, the others
    are reduced to SMALL_SIDE, and of those only every n-th is kept.

    Args:
        exam: the stored exam.
        keys: rows of the key slices.
        characters: approximate limit of the base64 text.
    """
    count, shape = len(exam), exam.hu.shape[1:]
    sample = np.unique(np.linspace(0, count - 1, SAMPLED_PLANES).round().astype(int))
    key_images = {row: _jpeg(exam.hu[row], KEY_JPEG_QUALITY) for row in sorted(set(keys))}
    available = characters - sum(map(len, key_images.values()))
    planes, side = list(range(count)), 0
    if count * float(np.mean([len(_jpeg(exam.hu[row], JPEG_QUALITY)) for row in sample])) > available:
        side = SMALL_SIDE
        small = float(np.mean([len(_jpeg(exam.hu[row], JPEG_QUALITY, side)) for row in sample]))
        step = int(np.ceil(count * small / max(available, small)))
        planes = sorted({*range(0, count, step), *key_images})
    images = [key_images.get(row) or _jpeg(exam.hu[row], JPEG_QUALITY, side) for row in planes]
    return SliceImages(planes, images, shape)


def _jpeg(hu: np.ndarray, quality: int, side: int = 0) -> str:
    """A slice as a JPEG in base64, its longest side reduced to `side` (0: full size)."""
    image = encode_hu(hu)
    scale = side / max(image.shape) if side else 1.0
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _base64(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def draw_clot_map(probability: np.ndarray, side: int = 320) -> str:
    """Draw a clot map as a PNG overlay: shaded where clot is likely, with a contour around it.

    Args:
        probability: (y, x) in [0, 1], covering the stored plane.
        side: the longest side is reduced to this at most.

    Returns:
        The PNG as base64 text.
    """
    level = np.clip(np.nan_to_num(np.asarray(probability, np.float32)), 0, 1)
    scale = min(1.0, side / max(level.shape))
    size = (max(1, round(level.shape[1] * scale)), max(1, round(level.shape[0] * scale)))
    small = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    inside = (small >= CONTOUR).astype(np.uint8)
    colour = np.empty((*small.shape, 4), np.uint8)
    colour[:] = (*CLOT_BGR, 0)
    colour[..., 3] = np.where(inside, 30 + 60 * small, 0).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(colour, contours, -1, (*CLOT_BGR, 255), 1)
    return _base64(cv2.imencode(".png", colour)[1])


def _base64(data: np.ndarray) -> str:
    return base64.b64encode(data.tobytes()).decode("ascii")


def key_planes(probability: np.ndarray, z_mm: np.ndarray, *, count: int, min_distance_mm: float = 12.0) -> list[int]:
    """Select the likeliest planes that are a minimum distance apart.

    Args:
        probability: (n,) of PE.
        z_mm: (n,) positions; ranks if they are unknown.
        count: how many at most.
        min_distance_mm: between any two of them.

    Returns:
        Rows, ascending.
    """
    chosen: list[int] = []
    for row in np.argsort(-np.nan_to_num(probability, nan=-1.0), kind="stable"):
        if len(chosen) < count and all(abs(z_mm[row] - z_mm[other]) >= min_distance_mm for other in chosen):
            chosen.append(int(row))
    return sorted(chosen)
