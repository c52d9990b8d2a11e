"""One slice's file: its header alone, or header and pixels with the checksum of the bytes they came from.

A path may lead into a zip archive, see `input.archive`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input.archive import open_file
from input.header import HEAD_BYTES, SliceHeader, parse_header
from input.header_limits import MAX_FILE_BYTES
from input.jpeg256 import read_jpeg, split_name
from input.pixels import decode_hu
from input.slice_faults import DicomFault, UnfinishedHeader


def read_header(path: Path) -> SliceHeader:
    """Read and gate the header of one file; 16 KiB are read, the whole file only for a longer header.

    Raises:
        DicomFault: the file is not a usable axial CT slice.
    """
    try:
        with open_file(path) as (file, file_bytes):
            data = file.read(HEAD_BYTES)
            try:
                return parse_header(data, path, file_bytes)
            except UnfinishedHeader:
                if len(data) == file_bytes or file_bytes > MAX_FILE_BYTES:
                    raise
                return parse_header(data + file.read(MAX_FILE_BYTES), path, file_bytes)
    except OSError as fault:
        raise DicomFault(_unreadable(fault)) from fault


def read_slice(path: Path) -> tuple[SliceHeader, np.ndarray, str]:
    """Read one file once: its header, its pixels as `read_pixels` gives them, and the sha256 of its bytes.

    Raises:
        DicomFault: the file is not a usable axial CT slice, or its pixels do not decode.
    """
    try:
        with open_file(path) as (file, file_bytes):
            if file_bytes > MAX_FILE_BYTES:
                raise DicomFault(f"the file has {file_bytes} bytes, more than {MAX_FILE_BYTES}")
            data = file.read()
    except OSError as fault:
        raise DicomFault(_unreadable(fault)) from fault
    header = parse_header(data, path, len(data))
    return header, decode_hu(data, header), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class SlicePlane:
    """The pixels of one slice and what is known of their place."""

    hu: np.ndarray  # int16 (y, x), as `read_pixels` gives them
    z_mm: float  # towards the head; the rank in a derivative that lost it
    spacing_mm: tuple[float, float]  # (y, x), NaN where it is lost
    sha256: str  # of the file


def read_plane(path: Path) -> SlicePlane:
    """Read one file of a contest tree once: DICOM, or a slice of the JPEG-256 derivative.

    Raises:
        DicomFault: the file is not a usable axial CT slice, or its pixels do not decode.
    """
    named = split_name(path.name)
    if named:
        hu, digest = read_jpeg(path)
        return SlicePlane(hu, float(named[0]), (np.nan, np.nan), digest)
    header, hu, digest = read_slice(path)
    return SlicePlane(hu, header.z_mm, header.spacing_mm, digest)


def read_pixels(source: SliceHeader | Path) -> np.ndarray:
    """Read the pixels of one slice.

    Returns:
        int16 HU (y, x), clipped to [-1024, 3071]; x grows to the patient's left, y to the back.

    Raises:
        DicomFault: the file is not a usable axial CT slice, or its pixels do not decode.
    """
    return read_slice(source.path if isinstance(source, SliceHeader) else source)[1]


def _unreadable(fault: OSError) -> str:
    return "file missing" if isinstance(fault, FileNotFoundError) else f"unreadable file: {fault.strerror}"
