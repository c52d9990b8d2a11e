"""Read the JPEG-256 derivative of the contest: file names, and Hounsfield units recovered from three windows.

    train-jpegs|test-jpegs/<Study>/<Series>/<iiii>_<SOP>.jpg     iiii: rank of the slice, feet to head

A file is 256 x 256 RGB. The channels are the lung, PE and mediastinal windows; image left is the patient's right.
Pixel spacing and slice distance are lost: the spacing is NaN, and z is the rank.

Accuracy. One grey level is 5.9, 2.7 and 1.6 HU in the three windows, so the quantisation error is at most 3 HU below
-250 HU (lung), 2 from -250 to -160, and 1.5 from -160 to 450. Values above 450, such as bone and undiluted contrast,
are read as 450. JPEG compression at quality 95 with half-resolution colour adds, on a synthetic chest with 15 HU of
noise, an RMS error of 12 HU in lung, 5 in soft tissue and 7 in vessels of 300 HU, and of 50 HU within three pixels of
an edge, where colour is blurred.
"""

import hashlib
import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from input.archive import open_file
from input.header_limits import MAX_FILE_BYTES
from input.pixels import HU_MAX, HU_MIN, codestream_shape
from input.slice_errors import DicomError

SUFFIX = ".jpg"
SIDE = 256
FLAG = "jpeg256"
#: Window level and width, HU, of the red, green and blue channels.
CHANNELS = ((-600.0, 1500.0), (100.0, 700.0), (40.0, 400.0))
#: Transfer syntax JPEG Baseline (Process 1), as DICOM calls such a stream.
SYNTAX = "1.2.840.10008.1.2.4.50"

_NAME = re.compile(r"(\d{4,})_(.+)\.jpg")
_LOW = np.array([level - width / 2 for level, width in CHANNELS], np.float32)
_STEP = np.array([width / 255 for _, width in CHANNELS], np.float32)  # HU per grey level
_HIGH = _LOW + 255 * _STEP
_ENDS = np.unique(np.concatenate([_LOW, _HIGH]))


def parse_jpeg_name(name: str) -> tuple[int, str] | None:
    """Parse (rank, SOPInstanceUID) from the file name of a slice; None for any other name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def read_jpeg(path: Path) -> tuple[np.ndarray, str]:
    """Read one slice of the derivative.

    Returns:
        int16 HU (256, 256), x to the patient's left, y to the back; and the sha256 of the file.

    Raises:
        DicomError: the file is missing, truncated, or not a 256 x 256 RGB JPEG.
    """
    try:
        with open_file(path) as (file, _):
            data = file.read(MAX_FILE_BYTES)
        check_jpeg(data)
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (SIDE, SIDE):  # checked before decoding: the file may have a second frame header
                raise DicomError(f"JPEG of {image.size} pixels, expected {(SIDE, SIDE)}")
            rgb = np.asarray(image)
    except FileNotFoundError as fault:
        raise DicomError("file missing") from fault
    except (OSError, ValueError, SyntaxError) as fault:
        raise DicomError(f"undecodable JPEG: {' '.join(str(fault).split())[:160]}") from fault
    if rgb.shape != (SIDE, SIDE, len(CHANNELS)):
        raise DicomError(f"JPEG of shape {rgb.shape}, expected {(SIDE, SIDE, len(CHANNELS))}")
    return recover_hu(rgb), hashlib.sha256(data).hexdigest()


def check_jpeg(data: bytes) -> None:
    """Check the first bytes of a file: a JPEG of 256 x 256 pixels.

    Raises:
        DicomError: the file is not a JPEG, or has another size.
    """
    if data[:3] != b"\xff\xd8\xff":
        raise DicomError("not a JPEG file")
    shape = codestream_shape(data)
    if shape != (SIDE, SIDE):
        raise DicomError(f"JPEG of {shape or 'unknown'} pixels, expected {(SIDE, SIDE)}")


def recover_hu(rgb: np.ndarray) -> np.ndarray:
    """Recover HU from the three grey levels of every pixel, by least squares.

    The ends of the windows divide the HU axis into intervals. In each interval, the windows that are not saturated
    give one HU estimate each, and their mean weighted by precision (1 / step squared) is the best fit. The interval
    with the smallest residual is chosen, so blurred colour in a saturated window does not turn lung into tissue.

    Args:
        rgb: uint8 (..., 3).

    Returns:
        int16 HU (...), -1024 to 450.
    """
    grey = rgb.astype(np.float32)
    hu = _LOW + grey * _STEP
    best = np.full(rgb.shape[:-1], HU_MIN, np.float32)
    least_distance = np.full(rgb.shape[:-1], np.inf, np.float32)
    for low, high in pairwise(_ENDS):
        unsaturated = (_LOW <= low) & (_HIGH >= high)
        weights = unsaturated / _STEP**2
        estimate = np.clip(hu @ (weights / weights.sum()), low, high)
        expected_grey = np.clip((estimate[..., None] - _LOW) / _STEP, 0, 255)
        distance = np.square(grey - expected_grey).sum(axis=-1)
        is_closer = distance < least_distance
        best[is_closer], least_distance[is_closer] = estimate[is_closer], distance[is_closer]
    return np.clip(np.rint(best), HU_MIN, HU_MAX).astype(np.int16)


def window_channels(hu: np.ndarray) -> np.ndarray:
    """Convert HU (...) to the derivative's three channels: uint8 (..., 3)."""
    grey = (hu[..., None].astype(np.float32) - _LOW) / _STEP
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
