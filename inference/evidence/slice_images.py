"""A stored exam as small grey JPEGs that hold the whole HU range, so that a browser makes every window from one image.

HU are brought to 8 bits by a curve that is steep where the narrow windows lie (CODES). A window is then a table of
256 greys, which the page gives to an SVG filter. One image instead of three a slice keeps fifty exams below 40 MB.
"""

import base64
import dataclasses

import cv2
import numpy as np

from features.store import StoredExam
from features.windows import WINDOWS, apply_window

#: (HU, code): the 8-bit code between two points is linear in HU; 3 HU a code where the mediastinum is looked at.
CODES = ((-1350, 0), (-800, 45), (-250, 90), (-160, 98), (240, 222), (450, 252), (1000, 255))
QUALITY, KEY_QUALITY = 80, 92
#: Longest side of a slice that is no key slice, where whole slices do not fit the budget.
SMALL_SIDE = 256
SAMPLED = 5  # planes that tell how large a picture gets


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one exam.

    Attributes:
        planes: (n,) rows in the store, ascending: feet to head.
        images: a JPEG as base64 text each.
        shape: (y, x) of the stored planes; coordinates on the page are in these pixels, whatever an image's size.
        pixel_mm: of the stored planes; None where unknown.
    """

    planes: list[int]
    images: list[str]
    shape: tuple[int, int]
    pixel_mm: float | None

    @property
    def size(self) -> int:
        """Characters in the page."""
        return sum(map(len, self.images))


def encode_hu(hu: np.ndarray) -> np.ndarray:
    """HU of any shape -> uint8 codes."""
    points = np.array(CODES, float)
    table = np.interp(np.arange(-1350, 1001), points[:, 0], points[:, 1]).round().astype(np.uint8)
    return table[np.clip(np.asarray(hu, np.int32), -1350, 1000) + 1350]


def decode_hu(codes: np.ndarray) -> np.ndarray:
    """The HU that a code stands for, float."""
    points = np.array(CODES, float)
    return np.interp(np.asarray(codes, float), points[:, 1], points[:, 0])


def window_tables() -> dict[str, list[float]]:
    """Window -> the 256 greys in [0, 1] that the codes become."""
    hu = decode_hu(np.arange(256))
    return {name: [round(float(grey), 4) for grey in apply_window(hu, *WINDOWS[name])] for name in WINDOWS}


def draw_exam(exam: StoredExam, keys: list[int], budget: float) -> Pictures:
    """Encode an exam's planes into a number of characters.

    Everything is drawn in full where that fits; else key slices stay in full, the others are shrunk to SMALL_SIDE,
    and of those only every so many-th is kept.

    Args:
        exam: the stored exam.
        keys: rows of the planes that matter.
        budget: characters of base64 that the pictures may take, about.
    """
    count, shape = len(exam), exam.hu.shape[1:]
    sample = np.unique(np.linspace(0, count - 1, SAMPLED).round().astype(int))
    whole = {row: _text(exam.hu[row], KEY_QUALITY) for row in sorted(set(keys))}
    left = budget - sum(map(len, whole.values()))
    planes, side = list(range(count)), 0
    if count * np.mean([len(_text(exam.hu[row], QUALITY)) for row in sample]) > left:
        side = SMALL_SIDE
        small = np.mean([len(_text(exam.hu[row], QUALITY, side)) for row in sample])
        step = int(np.ceil(count * small / max(left, small)))
        planes = sorted({*range(0, count, step), *whole})
    images = [whole.get(row) or _text(exam.hu[row], QUALITY, side) for row in planes]
    return Pictures(planes, images, shape, exam.spacing_mm[0] if exam.has_spacing else None)


def _text(hu: np.ndarray, quality: int, side: int = 0) -> str:
    image = encode_hu(hu)
    scale = side / max(image.shape) if side else 1.0
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _base64(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def draw_activation(activation: np.ndarray, side: int = 96) -> str:
    """An activation map (y, x) in [0, 1] as a PNG that lies over a slice: more opaque where it is higher.

    Args:
        activation: of the stored plane's extent, at any resolution.
        side: the map is shrunk to at most this; the browser smooths it.

    Returns:
        base64 text.
    """
    level = np.clip(np.nan_to_num(np.asarray(activation, np.float32)), 0, 1)
    scale = min(1.0, side / max(level.shape))
    size = (max(1, round(level.shape[1] * scale)), max(1, round(level.shape[0] * scale)))
    level = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    colour = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (255 * np.clip(1.3 * level - 0.3, 0, 0.75)).astype(np.uint8)
    return _base64(cv2.imencode(".png", np.dstack([colour, opacity]))[1])


def _base64(data: np.ndarray) -> str:
    return base64.b64encode(data.tobytes()).decode("ascii")


def key_planes(probability: np.ndarray, z_mm: np.ndarray, *, count: int, apart_mm: float = 12.0) -> list[int]:
    """Rows of the likeliest planes, each some way from those before it, ascending.

    Args:
        probability: (n,) of PE.
        z_mm: (n,) positions; where they are unknown, ranks will do.
        count: how many at most.
        apart_mm: two of them are at least so far apart.
    """
    chosen: list[int] = []
    for row in np.argsort(-np.nan_to_num(probability, nan=-1.0), kind="stable"):
        if len(chosen) < count and all(abs(z_mm[row] - z_mm[other]) >= apart_mm for other in chosen):
            chosen.append(int(row))
    return sorted(chosen)
