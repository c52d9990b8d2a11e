"""The DICOM reader: headers, pixels in Hounsfield units, and whole series in anatomical order.

    header = read_header(path)              # gates only, no pixels
    hu = read_pixels(path)                  # int16 (y, x), x to the patient's left, y to the back
    series = read_series(folder)            # int16 (z, y, x), z from the feet to the head

Any fault of a file is a DicomFault with one line of reason. Decoders of hostile files may also kill
or hang their process: `input.decoding` runs them where that does no harm.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input.archive import source_files
from input.header import SliceHeader
from input.series_selection import OtherSeries, choose_series
from input.slice_faults import DicomFault
from input.slice_file import SlicePlane, read_header, read_pixels, read_plane, read_slice
from input.slice_order import agreeing_geometry, order_series, slice_step_mm
from pipeline.errors import UserError

__all__ = [
    "DicomFault", "Series", "SliceHeader", "SlicePlane", "agreeing_geometry", "order_series", "read_files",
    "read_header", "read_pixels", "read_plane", "read_series", "read_slice", "slice_step_mm",
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

    Among several series the thin axial angiographic one is chosen; see `input.series_selection`.

    Args:
        source: a folder, searched with all below it and in its archives, or a zip archive, read in place.
        without: files to leave out, which another reading found to kill or hang their decoder.

    Raises:
        UserError: no file is there, or none is a usable axial CT slice.
    """
    files, faults = source_files(source)
    return read_files(source, files, without=without, faults=faults)


def read_files(
    source: Path, files: Iterable[Path], *, without: Collection[Path] = (), faults: Iterable[tuple[Path, str]] = ()
) -> Series:
    """Read the one series that suits PE detection from files, as `read_series` does.

    Args:
        source: where they lie; only named in errors.
        files: paths of files and of archives' members.
        without: as in `read_series`.
        faults: what is known to be unreadable; it joins the quarantine.

    Raises:
        UserError: none is a usable axial CT slice.
    """
    faults, headers = list(faults), []
    for path in files:
        if path in without:
            faults.append((path, "kills or hangs its decoder"))
            continue
        try:
            headers.append(read_header(path))
        except DicomFault as fault:
            faults.append((path, fault.reason))
    if not headers:
        reasons = [f"{path}: {reason}" for path, reason in faults] or ["no files"]
        raise UserError.listing(f"{source}: no usable axial CT slice:", reasons)
    chosen, why, others = choose_series(headers)
    kept, odd = agreeing_geometry(chosen)
    faults += [(header.path, reason) for header, reason in odd]
    decoded = _decode(kept, faults)
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


def _decode(headers: list[SliceHeader], faults: list[tuple[Path, str]]) -> dict[SliceHeader, np.ndarray]:
    """HU of every slice that decodes; the others join the faults."""
    decoded = {}
    for header in headers:
        try:
            decoded[header] = read_pixels(header)
        except DicomFault as fault:
            faults.append((header.path, fault.reason))
    return decoded
