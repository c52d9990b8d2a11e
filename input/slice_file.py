"""Read one slice file: its header alone, or header and pixels with the checksum of the file.

Paths of zip archive members are accepted, see `input.archive`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar
from zipfile import ZipExtFile

import numpy as np

from input.archive import open_file
from input.elements import read_elements
from input.header import HEAD_BYTES, SliceHeader, parse_header, readable_header, single_header
from input.header_limits import MAX_FILE_BYTES
from input.jpeg256 import parse_jpeg_name, read_jpeg
from input.multi_frame import frame_count, frame_headers
from input.pixels import decode_frame, decode_hu
from input.slice_errors import DicomError, IncompleteHeaderError

#: Flag of slices in archives whose member names have backslashes instead of the slashes that the format demands.
BACKSLASHES = "zip_names_with_backslashes"
Parsed = TypeVar("Parsed")


def read_header(path: Path) -> SliceHeader:
    """Read and check the header of one file: the first 16 KiB, and the whole file only if the header is longer.

    Raises:
        DicomError: the file is not a usable axial CT slice.
    """
    return _read_head(path, lambda data, file, file_bytes: parse_header(data, path, file_bytes))


def read_headers(path: Path) -> tuple[list[SliceHeader], list[str]]:
    """Read and check the headers of the slices in one file: one, or the frames of a multi-frame object.

    Returns:
        The headers, and one reason for each frame that is not a usable axial slice.

    Raises:
        DicomError: there is no usable axial CT slice in the file.
    """

    def parse(data: bytes, file: IO[bytes], file_bytes: int) -> tuple[list[SliceHeader], list[str]]:
        """Read the headers of all frames from the start of a file."""
        with readable_header():
            elements = read_elements(data)
            is_single = frame_count(elements) == 1
            headers = [single_header(elements, path, file_bytes)] if is_single else []
        reasons: list[str] = []
        if not is_single:
            headers, reasons = frame_headers(elements, path, file, file_bytes)
        if isinstance(file, ZipExtFile) and "\\" in file.name:
            headers = [replace(header, flags=(*header.flags, BACKSLASHES)) for header in headers]
        return headers, reasons

    return _read_head(path, parse)


def _read_head(path: Path, parse: Callable[[bytes, IO[bytes], int], Parsed]) -> Parsed:
    """Parse the first 16 KiB of a file, or more of it if its header is longer."""
    try:
        with open_file(path) as (file, file_bytes):
            data = file.read(HEAD_BYTES)
            try:
                return parse(data, file, file_bytes)
            except IncompleteHeaderError:
                if len(data) == file_bytes:
                    raise
                return parse(data + file.read(MAX_FILE_BYTES), file, file_bytes)
    except OSError as fault:
        raise DicomError(_unreadable(fault)) from fault


def read_slice(path: Path) -> tuple[SliceHeader, np.ndarray, str]:
    """Read one file once: its header, its pixels (see `read_pixels`) and the sha256 of the file.

    Raises:
        DicomError: the file is not a usable axial CT slice, or its pixels cannot be decoded.
    """
    data = _read_whole(path)
    header = parse_header(data, path, len(data))
    return header, decode_hu(data, header), hashlib.sha256(data).hexdigest()


def _read_whole(path: Path) -> bytes:
    try:
        with open_file(path) as (file, file_bytes):
            if file_bytes > MAX_FILE_BYTES:
                raise DicomError(f"the file has {file_bytes} bytes, more than {MAX_FILE_BYTES}")
            return file.read()
    except OSError as fault:
        raise DicomError(_unreadable(fault)) from fault


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

    Args:
        source: its file, or its header as read from the file, which is then not parsed again.

    Returns:
        int16 HU (y, x), clipped to [-1024, 3071]; x increases to the patient's left, y to the back.

    Raises:
        DicomError: the file is not a usable axial CT slice, or its pixels cannot be decoded.
    """
    if isinstance(source, Path):
        return read_slice(source)[1]
    if not source.frame:
        return decode_hu(_read_whole(source.path), source)
    _, pixels = next(read_frames([source]))
    if isinstance(pixels, DicomError):
        raise pixels
    return pixels


def read_frames(headers: Sequence[SliceHeader]) -> Iterator[tuple[SliceHeader, np.ndarray | DicomError]]:
    """Read the pixels of frames of one multi-frame object, in the order of their bytes in the file.

    Yields:
        Header, and pixels as from `read_pixels` or the fault of the frame.
    """
    ordered = sorted(headers, key=lambda header: header.pixel_offset)
    try:
        with open_file(ordered[0].path) as (file, _):
            for header in ordered:
                file.seek(header.pixel_offset)
                try:
                    yield header, decode_frame(file.read(header.pixel_length), header)
                except DicomError as fault:
                    yield header, fault
    except OSError as fault:
        raise DicomError(_unreadable(fault)) from fault


def _unreadable(fault: OSError) -> str:
    return "file missing" if isinstance(fault, FileNotFoundError) else f"unreadable file: {fault.strerror}"
