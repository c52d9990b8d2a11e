"""HU windows with fixed bounds: the range of HU that a picture or a network sees.

A window never depends on a slice's own minimum or maximum: the same tissue has the same grey level in every exam.
"""

import numpy as np

from input.jpeg256 import CHANNELS

#: name -> (level, width) in HU: the three channels of the contest's well-known JPEG-256 derivative.
WINDOWS: dict[str, tuple[float, float]] = dict(zip(("lung", "pe", "mediastinal"), CHANNELS, strict=True))


def apply_window(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """Map HU to float32 in [0, 1]: 0 at `level - width/2` and below, 1 at `level + width/2` and above.

    Args:
        hu: HU of any shape, integer or float.
        level: the window's centre, HU.
        width: the window's width, HU; positive.

    Raises:
        ValueError: the width is not positive.
    """
    if not width > 0:
        raise ValueError(f"window width: expected more than 0 HU, got {width}")
    scaled = np.asarray(hu, dtype=np.float32) - np.float32(level - width / 2)
    scaled *= np.float32(1 / width)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def window_channels(hu: np.ndarray, windows: tuple[tuple[float, float], ...] = tuple(WINDOWS.values())) -> np.ndarray:
    """Stack one window per channel: (..., y, x) HU -> (..., y, x, len(windows)) float32 in [0, 1]."""
    return np.stack([apply_window(hu, level, width) for level, width in windows], axis=-1)
