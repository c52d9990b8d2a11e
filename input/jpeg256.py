"""The JPEG-256 derivative of the contest: file names, and Hounsfield units back out of three windows.

    train-jpegs|test-jpegs/<Study>/<Series>/<iiii>_<SOP>.jpg     iiii: rank of the slice, feet to head

A file is 256 x 256 RGB; the channels are the lung, the PE and the mediastinal window; image left is the
patient's right. Spacing and slice distance are lost: the spacing is NaN, and z is the rank.

What the HU are worth. A grey level is 5.9, 2.7 and 1.6 HU in the three windows, so quantisation costs at
most 3 HU below -250 HU (lung), 2 from -250 to -160, and 1.5 from there to 450; nothing denser than 450 is
known, so bone and undiluted contrast read as 450. JPEG adds more: at quality 95 with colour at half
resolution, on a drawn chest with 15 HU of noise, an RMS of 12 HU in lung, 5 in soft tissue and 7 in vessels
of 300 HU, and of 50 HU within three pixels of an edge, where colour is blurred.
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
from input.slice_faults import DicomFault

SUFFIX = ".jpg"
SIDE = 256
FLAG = "jpeg256"
#: Level and width in HU of the red, green and blue channel.
CHANNELS = ((-600.0, 1500.0), (100.0, 700.0), (40.0, 400.0))
#: JPEG Baseline (Process 1): the transfer syntax that DICOM gives such a stream.
SYNTAX = "1.2.840.10008.1.2.4.50"

_NAME = re.compile(r"(\d{4,})_(.+)\.jpg")
_LOW = np.array([level - width / 2 for level, width in CHANNELS], np.float32)
_STEP = np.array([width / 255 for _, width in CHANNELS], np.float32)  # HU a grey level
_HIGH = _LOW + 255 * _STEP
_ENDS = np.unique(np.concatenate([_LOW, _HIGH]))


def split_name(name: str) -> tuple[int, str] | None:
    """(rank, SOPInstanceUID) from a file's name; None for a name of another kind."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def read_jpeg(path: Path) -> tuple[np.ndarray, str]:
    """Read one slice of the derivative.

    Returns:
        int16 HU (256, 256), x to the patient's left, y to the back; and the sha256 of the file.

    Raises:
        DicomFault: missing, truncated, or not a 256 x 256 RGB JPEG.
    """
    try:
        with open_file(path) as (file, _):
            data = file.read(MAX_FILE_BYTES)
        gate_jpeg(data)
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (SIDE, SIDE):  # a second frame header; pixels are decoded below
                raise DicomFault(f"JPEG of {image.size} pixels, expected {(SIDE, SIDE)}")
            rgb = np.asarray(image)
    except FileNotFoundError as fault:
        raise DicomFault("file missing") from fault
    except (OSError, ValueError, SyntaxError) as fault:
        raise DicomFault(f"undecodable JPEG: {' '.join(str(fault).split())[:160]}") from fault
    if rgb.shape != (SIDE, SIDE, len(CHANNELS)):
        raise DicomFault(f"JPEG of shape {rgb.shape}, expected {(SIDE, SIDE, len(CHANNELS))}")
    return recover_hu(rgb), hashlib.sha256(data).hexdigest()


def gate_jpeg(data: bytes) -> None:
    """Hold the first bytes of a file against what the derivative's files are.

    Raises:
        DicomFault: not a JPEG, or of another size.
    """
    if data[:3] != b"\xff\xd8\xff":
        raise DicomFault("not a JPEG file")
    shape = codestream_shape(data)
    if shape != (SIDE, SIDE):
        raise DicomFault(f"JPEG of {shape or 'unknown'} pixels, expected {(SIDE, SIDE)}")


def recover_hu(rgb: np.ndarray) -> np.ndarray:
    """HU whose three greys lie nearest to those of a pixel, by least squares.

    Between two ends of windows, the windows that are not saturated each tell HU; their mean, weighted with
    their precision (1 / step squared), is nearest there. The nearest of all such stretches is taken, so a
    grey that JPEG's blurred colour left in a saturated window does not make tissue out of lung.

    Args:
        rgb: uint8 (..., 3).

    Returns:
        int16 HU (...), -1024 to 450.
    """
    grey = rgb.astype(np.float32)
    hu = _LOW + grey * _STEP
    best = np.full(rgb.shape[:-1], HU_MIN, np.float32)
    least = np.full(rgb.shape[:-1], np.inf, np.float32)
    for low, high in pairwise(_ENDS):
        inside = (_LOW <= low) & (_HIGH >= high)
        weights = inside / _STEP**2
        here = np.clip(hu @ (weights / weights.sum()), low, high)
        expected = np.clip((here[..., None] - _LOW) / _STEP, 0, 255)
        distance = np.square(grey - expected).sum(axis=-1)
        nearer = distance < least
        best[nearer], least[nearer] = here[nearer], distance[nearer]
    return np.clip(np.rint(best), HU_MIN, HU_MAX).astype(np.int16)


def window_channels(hu: np.ndarray) -> np.ndarray:
    """The derivative's channels of HU: uint8 (..., 3)."""
    grey = (hu[..., None].astype(np.float32) - _LOW) / _STEP
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
