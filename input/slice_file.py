"""Read one slice file: its header alone, or header and pixels with the checksum of the file.

Paths of zip archive members are accepted, see `input.archive`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input.archive import open_file
from input.header import HEAD_BYTES, SliceHeader, parse_header
from input.header_limits import MAX_FILE_BYTES
from input.jpeg256 import parse_jpeg_name, read_jpeg
from input.pixels import decode_hu
from input.slice_errors import DicomError, IncompleteHeaderError


def read_header(path: Path) -> SliceHeader:
    """Read and check the header of one file: the first 16 KiB, and the whole file only if the header is longer.

    Raises:
        DicomError: the file is not a usable axial CT slice.
    """
    try:
        with open_file(path) as (file, file_bytes):
            data = file.read(HEAD_BYTES)
            try:
                return parse_header(data, path, file_bytes)
            except IncompleteHeaderError:
                if len(data) == file_bytes or file_bytes > MAX_FILE_BYTES:
                    raise
                return parse_header(data + file.read(MAX_FILE_BYTES), path, file_bytes)
    except OSError as fault:
        raise DicomError(_unreadable(fault)) from fault


def read_slice(path: Path) -> tuple[SliceHeader, np.ndarray, str]:
    """Read one file once: its header, its pixels (see `read_pixels`) and the sha256 of the file.

    Raises:
        DicomError: the file is not a usable axial CT slice, or its pixels cannot be decoded.
    """
    try:
        with open_file(path) as (file, file_bytes):
            if file_bytes > MAX_FILE_BYTES:
                raise DicomError(f"the file has {file_bytes} bytes, more than {MAX_FILE_BYTES}")
            data = file.read()
    except OSError as fault:
        raise DicomError(_unreadable(fault)) from fault
    header = parse_header(data, path, len(data))
    return header, decode_hu(data, header), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class SlicePlane:
    """The pixels of one slice, its position and its spacing."""

    hu: np.ndarray  # int16 (y, x), see `read_pixels`
    z_mm: float  # increasing to the head; in the JPEG-256 derivative, the rank
    spacing_mm: tuple[float, float]  # (y, x); NaN in the JPEG-256 derivative
    sha256: str  # of the file


def read_plane(path: Path) -> SlicePlane:
    """Read one image file of a contest tree once: DICOM, or a slice of the JPEG-256 derivative.

    Raises:
        DicomError: the file is not a usable axial CT slice, or its pixels cannot be decoded.
    """
    rank_and_sop = parse_jpeg_name(path.name)
    if rank_and_sop:
        hu, digest = read_jpeg(path)
        return SlicePlane(hu, float(rank_and_sop[0]), (np.nan, np.nan), digest)
    header, hu, digest = read_slice(path)
    return SlicePlane(hu, header.z_mm, header.spacing_mm, digest)


def read_pixels(source: SliceHeader | Path) -> np.ndarray:
    """Read the pixels of one DICOM slice.

    Returns:
        int16 HU (y, x), clipped to [-1024, 3071]; x increases to the patient's left, y to the back.

    Raises:
        DicomError: the file is not a usable axial CT slice, or its pixels cannot be decoded.
    """
    return read_slice(source.path if isinstance(source, SliceHeader) else source)[1]


def _unreadable(fault: OSError) -> str:
    return "file missing" if isinstance(fault, FileNotFoundError) else f"unreadable file: {fault.strerror}"
