"""The DICOM reader: headers, pixels in Hounsfield units, and whole series in anatomical order.

    header = read_header(path)              # checked header, no pixels
    hu = read_pixels(path)                  # int16 (y, x), x to the patient's left, y to the back
    series = read_series(folder)            # int16 (z, y, x), z from the feet to the head

A file that cannot be used raises a DicomError with a one-line reason. Malicious files may also crash or hang their
decoder: `input.safe_decoding` runs decoders in processes of their own.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input.archive import source_files
from input.header import SliceHeader
from input.series_selection import Enhancement, OtherSeries, choose_series
from input.slice_errors import DicomError, describe_faults
from input.slice_file import SlicePlane, read_frames, read_header, read_headers, read_pixels, read_plane, read_slice
from input.slice_order import order_series, slice_step_mm, split_by_geometry
from pipeline.errors import UserError

__all__ = [
    "DicomError", "Series", "SliceHeader", "SlicePlane", "decode_in_order", "split_by_geometry", "order_series",
    "read_files", "read_header", "read_pixels", "read_plane", "read_series", "read_slice", "slice_step_mm",
]  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One CT series in anatomical order."""

    hu: np.ndarray  # int16 (z, y, x), [-1024, 3071]; z to the head, y to the back, x to the patient's left
    z_mm: np.ndarray  # float64 (z,), ascending
    spacing_mm: tuple[float, float]  # (y, x)
    sop_uids: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]  # file of every slice, and number of the frame in it (0: the only one)
    study_uid: str
    series_uid: str
    flags: tuple[str, ...]
    quarantined: list[tuple[Path, str]]  # files that were not used, with the reason
    selection_reason: str  # why this series was chosen
    other_series: tuple[OtherSeries, ...]  # the series that were not chosen


def read_series(source: Path, *, without: Collection[Path] = ()) -> Series:
    """Read the series best suited for PE detection from a folder or a zip archive.

    Among several series, the thin axial angiographic one is chosen; see `input.series_selection`.

    Args:
        source: a zip archive, read in place, or a folder, searched with its sub-folders and archives.
        without: files to skip because they crash or hang their decoder; they are quarantined.

    Raises:
        UserError: there is no file, or no file is a usable axial CT slice.
    """
    files, faults = source_files(source)
    return read_files(source, files, without=without, faults=faults)


def read_files(
    source: Path,
    files: Iterable[Path],
    *,
    without: Collection[Path] = (),
    faults: Iterable[tuple[Path, str]] = (),
    measure: Enhancement | None = None,
) -> Series:
    """Read the series best suited for PE detection from a list of files; see `read_series`.

    Args:
        source: folder or archive of the files; used in error messages only.
        files: paths of files and of archive members.
        without: files to skip because they crash or hang their decoder; they are quarantined.
        faults: path and reason of files known to be unreadable; they are added to the quarantine.
        measure: measures the enhancement of a series, to choose between phases.

    Raises:
        UserError: no file is a usable axial CT slice.
    """
    faults, headers = list(faults), []
    for path in files:
        if path in without:
            faults.append((path, "crashes or hangs its decoder"))
            continue
        try:
            slices, reasons = read_headers(path)
        except DicomError as fault:
            faults.append((path, fault.reason))
            continue
        headers += slices
        faults += [(path, reason) for reason in reasons]
    if not headers:
        raise UserError.listing(f"{source}: no usable axial CT slice:", describe_faults(faults) or ["no files"])
    chosen, selection_reason, other_series = choose_series(headers, measure)
    kept, rejected = split_by_geometry(chosen)
    faults += [(header.path, reason) for header, reason in rejected]
    hu, decoded = decode_in_order(kept, faults)
    if not decoded:
        raise UserError.listing(f"{source}: no slice can be decoded:", describe_faults(faults))
    ordered, flags = order_series(decoded)
    return Series(
        hu=hu,
        z_mm=np.array([header.z_mm for header in ordered]),
        spacing_mm=ordered[0].spacing_mm,
        sop_uids=tuple(header.sop_uid for header in ordered),
        files=tuple((header.path, header.frame) for header in ordered),
        study_uid=ordered[0].study_uid,
        series_uid=ordered[0].series_uid,
        flags=flags,
        quarantined=faults,
        selection_reason=selection_reason,
        other_series=other_series,
    )


def decode_in_order(
    headers: Sequence[SliceHeader], faults: list[tuple[Path, str]]
) -> tuple[np.ndarray, list[SliceHeader]]:
    """Decode slices of one shape into one array, so that they are in memory only once.

    Args:
        headers: of the slices.
        faults: receives the file and the reason of every slice that cannot be decoded.

    Returns:
        int16 HU (z, y, x), see `read_pixels`, and the header of every plane, both in the order of `order_series`.
    """
    if not headers:
        return np.empty((0, 0, 0), np.int16), []
    ordered, _ = order_series(headers)
    plane = {header: number for number, header in enumerate(ordered)}
    hu = np.empty((len(ordered), *ordered[0].shape), np.int16)
    is_decoded = np.zeros(len(ordered), bool)
    for header, pixels in _decode(ordered, faults):
        hu[plane[header]], is_decoded[plane[header]] = pixels, True
    if is_decoded.all():
        return hu, ordered
    return hu[is_decoded], [header for header in ordered if is_decoded[plane[header]]]


def _decode(headers: Iterable[SliceHeader], faults: list[tuple[Path, str]]) -> Iterator[tuple[SliceHeader, np.ndarray]]:
    """Yield slices and their HU in any order; a multi-frame object is opened once."""
    frames: dict[Path, list[SliceHeader]] = {}
    for header in headers:
        if header.frame:
            frames.setdefault(header.path, []).append(header)
            continue
        try:
            pixels = read_pixels(header)
        except DicomError as fault:
            faults.append((header.path, fault.reason))
        else:
            yield header, pixels
    for path, members in frames.items():
        try:
            for header, frame in read_frames(members):
                if isinstance(frame, DicomError):
                    faults.append((path, f"frame {header.frame}: {frame.reason}"))
                else:
                    yield header, frame
        except DicomError as fault:
            faults.append((path, fault.reason))
