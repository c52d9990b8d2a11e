"""Read the headers of one exam: readable slices, their order and geometry."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from input.header import SliceHeader
from input.jpeg256 import FLAG, SUFFIX, SYNTAX, check_jpeg, parse_jpeg_name
from input.slice_errors import DicomError
from input.slice_file import read_header
from input.slice_order import order_series, slice_step_mm, split_by_geometry

HEAD_BYTES = 1 << 16  # read from a JPEG file; only comments can precede its frame header


@dataclass
class ExamGeometry:
    """Geometry and readability of an exam's n slices, in the order of the requested SOPInstanceUIDs."""

    position: np.ndarray  # (n,) int32, rank by ascending z among readable slices; -1 if unreadable
    z_mm: np.ndarray  # (n,) float64, NaN if unreadable
    quarantine: list[str]  # (n,) reason; "" if readable
    names: list[str]  # (n,) file names in the series' folder
    spacing_mm: tuple[float, float] = (np.nan, np.nan)  # (y, x)
    slice_step_mm: float = np.nan
    flags: tuple[str, ...] = ()
    syntaxes: Counter[str] = field(default_factory=Counter)  # transfer syntax -> readable slices


def read_exam_headers(folder: Path, study: str, series: str, sops: list[str]) -> ExamGeometry:
    """Read the headers of an exam's slices.

    Args:
        folder: the series' folder, with one file `<SOP>.dcm` per slice.
        study: StudyInstanceUID in the tables.
        series: SeriesInstanceUID in the tables.
        sops: SOPInstanceUIDs of the exam.
    """
    exam = _empty_geometry([f"{sop}.dcm" for sop in sops])
    row_of: dict[Path, int] = {}
    headers = []
    for row, name in enumerate(exam.names):
        path = folder / name
        row_of[path] = row
        try:
            headers.append(read_header(path))
        except DicomError as fault:
            exam.quarantine[row] = fault.reason
    kept, rejected = split_by_geometry(headers)
    for header, reason in rejected:
        exam.quarantine[row_of[header.path]] = reason
    if kept:
        _set_geometry(exam, kept, row_of)
        exam.flags = tuple(sorted({*exam.flags, *_uid_flags(kept, study, series)}))
    return exam


def read_exam_jpegs(folder: Path, sops: list[str]) -> ExamGeometry:
    """Read an exam of the JPEG-256 derivative from its file names and first bytes; z is the rank.

    Args:
        folder: the series' folder, with one file `<iiii>_<SOP>.jpg` per slice.
        sops: SOPInstanceUIDs of the exam.
    """
    file_by_sop: dict[str, tuple[int, Path]] = {}  # rank and path
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if rank_and_sop := parse_jpeg_name(path.name):
            file_by_sop.setdefault(rank_and_sop[1], (rank_and_sop[0], path))
    exam = _empty_geometry([file_by_sop[sop][1].name if sop in file_by_sop else f"{sop}{SUFFIX}" for sop in sops])
    for row, sop in enumerate(sops):
        exam.quarantine[row] = _jpeg_fault(file_by_sop[sop][1]) if sop in file_by_sop else "file missing"
    ranked = sorted((file_by_sop[sop][0], sop, row) for row, sop in enumerate(sops) if not exam.quarantine[row])
    for position, (rank, _, row) in enumerate(ranked):
        exam.position[row], exam.z_mm[row] = position, rank
    if ranked:
        exam.flags, exam.syntaxes = (FLAG,), Counter({SYNTAX: len(ranked)})
    return exam


def _empty_geometry(names: list[str]) -> ExamGeometry:
    count = len(names)
    return ExamGeometry(np.full(count, -1, np.int32), np.full(count, np.nan), [""] * count, names)


def _jpeg_fault(path: Path) -> str:
    """Return why a file is not a slice of the derivative, judged by its first bytes; "" if it is."""
    try:
        with path.open("rb") as file:
            check_jpeg(file.read(HEAD_BYTES))
    except DicomError as fault:
        return fault.reason
    except OSError as fault:
        return f"unreadable file: {fault.strerror}"
    return ""


def _set_geometry(exam: ExamGeometry, headers: list[SliceHeader], row_of: dict[Path, int]) -> None:
    ordered, exam.flags = order_series(headers)
    for position, header in enumerate(ordered):
        row = row_of[header.path]
        exam.position[row] = position
        exam.z_mm[row] = header.z_mm
    exam.spacing_mm = ordered[0].spacing_mm
    exam.slice_step_mm = slice_step_mm([header.z_mm for header in ordered])
    exam.syntaxes = Counter(header.transfer_syntax for header in ordered)


def _uid_flags(headers: list[SliceHeader], study: str, series: str) -> set[str]:
    """Flag headers whose UIDs differ from the tables and file names, which take precedence."""
    flags = set()
    if any(header.study_uid != study for header in headers):
        flags.add("study_uid_differs")
    if any(header.series_uid != series for header in headers):
        flags.add("series_uid_differs")
    if any(header.sop_uid != header.path.stem for header in headers):
        flags.add("sop_uid_differs")
    return flags
