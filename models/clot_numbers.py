"""Numbers of each slice from its clot map; the columns are explained in `models.clot_columns`.

Areas follow from `models.clot_targets.FULL`: a cell that is half full of clot has probability 1.
"""

import cv2
import numpy as np

from features.windows import WINDOWS
from models.clot_targets import CENTRAL_CLOT, CHRONIC_CLOT, CLOT, FULL, MAP_STRIDE
from models.trainable_windows import HU_UNIT
from pipeline.settings import ModelsSettings

#: Probability of the strongest cell from which attenuation is measured.
MEASURED = 0.1
#: HU of clot and of opacified blood.
CLOT_RANGE_HU, LEAST_BLOOD_HU = (0, 120), 150
#: Distance within which clot must touch opacified blood, and half the side of the window about the peak, mm.
TOUCH_MM, WINDOW_MM = 4.0, 16.0


def clot_numbers(images: np.ndarray, maps: np.ndarray, settings: ModelsSettings, factors: np.ndarray) -> np.ndarray:
    """Return the columns of `models.clot_columns.CLOT_COLUMNS` for a batch.

    Args:
        images: float32 (batch, y, x, channels) from `models.slice_views.SliceViews`.
        maps: Probabilities (batch, rows, columns, MAP_CHANNELS).
        settings: Recipe of the network. Without `pixel_mm` lengths count input pixels.
        factors: (batch,) from `SliceViews.blood_factors`.

    Returns:
        float32 (batch, columns).
    """
    pixel_mm = settings.pixel_mm or 1.0
    clot, half = maps[..., CLOT], maps.shape[2] // 2
    area = clot * (MAP_STRIDE * pixel_mm) ** 2 / FULL
    parts = (
        area[:, :, maps.shape[2] - half :], area[:, :, :half], area * maps[..., CENTRAL_CLOT],
        area * maps[..., CHRONIC_CLOT],
    )  # fmt: skip
    areas = np.stack([part.sum(axis=(1, 2)) for part in parts], axis=1)
    if maps.shape[2] % 2:
        areas[:, :2] += area[:, :, half].sum(axis=1)[:, None] / 2
    peaks = clot.max(axis=(1, 2))
    described = np.full((len(maps), 3), np.nan, np.float32)
    for row in np.flatnonzero(peaks >= MEASURED):
        described[row] = _describe(attenuation(images[row], settings, factors[row]), clot[row], pixel_mm)
    return np.concatenate([areas, peaks[:, None], described], axis=1).astype(np.float32)


def attenuation(image: np.ndarray, settings: ModelsSettings, factor: float) -> np.ndarray:
    """Return the HU (y, x) of a view's own slice as measured, clipped to the first window of the view."""
    if settings.trainable_windows:
        hu = image[..., 1] * HU_UNIT
    else:
        own = image.reshape(*image.shape[:2], 3, -1)[..., 1, 0]
        level, width = WINDOWS[settings.windows[0]]
        hu = level + (own - 0.5) * width
    return np.where(hu > 0, hu / factor, hu)


def _describe(hu: np.ndarray, clot: np.ndarray, pixel_mm: float) -> tuple[float, float, float]:
    """Mean HU of clot and blood, and the clot's offset from the vessel's centre in mm, about the strongest cell."""
    row, column = np.unravel_index(clot.argmax(), clot.shape)
    centre_y, centre_x = (MAP_STRIDE * (index + 0.5) for index in (row, column))
    reach = WINDOW_MM / pixel_mm
    y0, x0 = max(0, round(centre_y - reach)), max(0, round(centre_x - reach))
    window = hu[y0 : round(centre_y + reach), x0 : round(centre_x + reach)]
    blood = window > LEAST_BLOOD_HU
    radius = max(1, round(TOUCH_MM / pixel_mm))
    near_blood = cv2.dilate(blood.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) > 0
    inside = (window > CLOT_RANGE_HU[0]) & (window < CLOT_RANGE_HU[1]) & near_blood
    if not inside.any() or not blood.any():
        return np.nan, np.nan, np.nan
    vessel = np.argwhere(blood | inside).mean(axis=0)
    offset = float(np.linalg.norm(np.argwhere(inside).mean(axis=0) - vessel)) * pixel_mm
    return float(window[inside].mean()), float(window[blood].mean()), offset
