"""The DICOM reader: headers, pixels in Hounsfield units, and whole series in anatomical order.

    header = read_header(path)              # gates only, no pixels
    hu = read_pixels(path)                  # int16 (y, x), x to the patient's left, y to the back
    series = read_series(folder)            # int16 (z, y, x), z from the feet to the head

Any fault of a file is a DicomFault with one line of reason. Decoders of hostile files may also kill
or hang their process: `input.decoding` runs them where that does no harm.
"""

import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input.faults import DicomFault
from input.gates import MAX_FILE_BYTES
from input.header import SliceHeader, parse_header
from input.ordering import agreeing_geometry, order_series, slice_step_mm
from input.pixels import decode_hu
from input.selection import OtherSeries, choose_series
from input.slice_file import read_header, read_pixels, read_slice
from pipeline.errors import UserError

__all__ = [
    "DicomFault", "Series", "SliceHeader", "agreeing_geometry", "order_series", "read_header", "read_pixels",
    "read_series", "read_slice", "slice_step_mm",
]  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series in anatomical order."""

    hu: np.ndarray  # int16 (z, y, x), [-1024, 3071]; z to the head, y to the back, x to the patient's left
    z_mm: np.ndarray  # float64 (z,), ascending
    spacing_mm: tuple[float, float]  # (y, x)
    sop_uids: tuple[str, ...]
    study_uid: str
    series_uid: str
    flags: tuple[str, ...]
    quarantined: list[tuple[Path, str]]  # files that were not used, with the reason
    why: str  # why this series was chosen
    others: tuple[OtherSeries, ...]  # the series that were not


def read_series(source: Path, *, without: Collection[Path] = ()) -> Series:
    """Read the one series that suits PE detection from a folder or a zip archive, nested or not.

    Among several series the thin axial angiographic one is chosen; see `input.selection`.

    Args:
        source: a folder, searched with all below it, or a zip archive, read in place.
        without: files to leave out, which another reading found to kill or hang their decoder.

    Raises:
        UserError: no file is there, or none is a usable axial CT slice.
    """
    readers = dict(_zip_members(source) if source.is_file() else _files(source))
    faults = [(path, "kills or hangs its decoder") for path in readers if path in without]
    headers = []
    for path, (read_one_header, _) in readers.items():
        if path not in without:
            try:
                headers.append(read_one_header())
            except DicomFault as fault:
                faults.append((path, fault.reason))
    if not headers:
        reasons = [f"{path}: {reason}" for path, reason in faults] or ["no files"]
        raise UserError.listing(f"{source}: no usable axial CT slice:", reasons)
    chosen, why, others = choose_series(headers)
    kept, odd = agreeing_geometry(chosen)
    faults += [(header.path, reason) for header, reason in odd]
    decoded = _decode(kept, readers, faults)
    if not decoded:
        raise UserError.listing(f"{source}: no slice decodes:", [f"{path}: {reason}" for path, reason in faults])
    ordered, flags = order_series(list(decoded))
    return Series(
        hu=np.stack([decoded[header] for header in ordered]),
        z_mm=np.array([header.z_mm for header in ordered]),
        spacing_mm=ordered[0].spacing_mm,
        sop_uids=tuple(header.sop_uid for header in ordered),
        study_uid=ordered[0].study_uid,
        series_uid=ordered[0].series_uid,
        flags=flags,
        quarantined=faults,
        why=why,
        others=others,
    )


#: How one file of a source is read: its header, and its header with its whole bytes.
Readers = tuple[Callable[[], SliceHeader], Callable[[], np.ndarray]]


def _decode(
    headers: list[SliceHeader], readers: dict[Path, Readers], faults: list[tuple[Path, str]]
) -> dict[SliceHeader, np.ndarray]:
    decoded = {}
    for header in headers:
        try:
            decoded[header] = readers[header.path][1]()
        except DicomFault as fault:
            faults.append((header.path, fault.reason))
    return decoded


def _files(folder: Path) -> Iterator[tuple[Path, Readers]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or zip archive")
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.name.startswith(".")):
        yield path, (lambda path=path: read_header(path), lambda path=path: read_pixels(path))


def _zip_members(archive: Path) -> Iterator[tuple[Path, Readers]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [each for each in opened.infolist() if not each.is_dir()]
    except (zipfile.BadZipFile, OSError) as fault:
        raise UserError(f"{archive}: neither a folder nor a zip archive ({fault})") from fault
    for member in sorted(members, key=lambda each: each.filename):
        path = archive / member.filename

        def header(member: zipfile.ZipInfo = member, path: Path = path) -> SliceHeader:
            data = _member_bytes(archive, member)
            return parse_header(data, path, len(data))

        def pixels(member: zipfile.ZipInfo = member, path: Path = path) -> np.ndarray:
            data = _member_bytes(archive, member)
            return decode_hu(data, parse_header(data, path, len(data)))

        yield path, (header, pixels)


def _member_bytes(archive: Path, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes; a bomb is stopped by the size gate, whatever size the directory claims."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError) as fault:
        raise DicomFault(f"unreadable zip member: {fault}") from fault
    if len(data) > MAX_FILE_BYTES:
        raise DicomFault(f"more than {MAX_FILE_BYTES} bytes")
    return data
