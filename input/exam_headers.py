"""One exam's files, headers only: which slices are readable, in which order, with what geometry."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from input.header import SliceHeader
from input.jpeg256 import FLAG, SUFFIX, SYNTAX, gate_jpeg, split_name
from input.slice_faults import DicomFault
from input.slice_file import read_header
from input.slice_order import agreeing_geometry, order_series, slice_step_mm

HEAD_BYTES = 1 << 16  # of a JPEG: its frame header comes first, but for comments


@dataclass
class ExamGeometry:
    """What the headers of an exam say; the arrays follow the order of the SOPs that were asked for."""

    position: np.ndarray  # (n,) int32, rank by z ascending among readable slices; -1 unreadable
    z_mm: np.ndarray  # (n,) float64, NaN unreadable
    quarantine: list[str]  # (n,) reason, "" readable
    names: list[str]  # (n,) file names in the series' folder
    spacing_mm: tuple[float, float] = (np.nan, np.nan)  # (y, x)
    slice_step_mm: float = np.nan
    flags: tuple[str, ...] = ()
    syntaxes: Counter[str] = field(default_factory=Counter)  # transfer syntax -> readable slices


def read_exam_headers(folder: Path, study: str, series: str, sops: list[str]) -> ExamGeometry:
    """Read the headers of an exam's slices.

    Args:
        folder: the series' folder, with a file `<SOP>.dcm` a slice.
        study: StudyInstanceUID that the tables give.
        series: SeriesInstanceUID that the tables give.
        sops: SOPInstanceUIDs of the exam.
    """
    exam = _unread([f"{sop}.dcm" for sop in sops])
    row_of: dict[Path, int] = {}
    headers = []
    for row, name in enumerate(exam.names):
        path = folder / name
        row_of[path] = row
        try:
            headers.append(read_header(path))
        except DicomFault as fault:
            exam.quarantine[row] = fault.reason
    kept, odd = agreeing_geometry(headers)
    for header, reason in odd:
        exam.quarantine[row_of[header.path]] = reason
    if kept:
        _describe(exam, kept, row_of)
        exam.flags = tuple(sorted({*exam.flags, *_uid_flags(kept, study, series)}))
    return exam


def read_exam_jpegs(folder: Path, sops: list[str]) -> ExamGeometry:
    """Tell an exam of the JPEG-256 derivative from its files' names and first bytes; z is the rank.

    Args:
        folder: the series' folder, with a file `<iiii>_<SOP>.jpg` a slice.
        sops: SOPInstanceUIDs of the exam.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if named := split_name(path.name):
            found.setdefault(named[1], (named[0], path))
    exam = _unread([found[sop][1].name if sop in found else f"{sop}{SUFFIX}" for sop in sops])
    for row, sop in enumerate(sops):
        exam.quarantine[row] = _jpeg_fault(found[sop][1]) if sop in found else "file missing"
    ranked = sorted((found[sop][0], sop, row) for row, sop in enumerate(sops) if not exam.quarantine[row])
    for position, (rank, _, row) in enumerate(ranked):
        exam.position[row], exam.z_mm[row] = position, rank
    if ranked:
        exam.flags, exam.syntaxes = (FLAG,), Counter({SYNTAX: len(ranked)})
    return exam


def _unread(names: list[str]) -> ExamGeometry:
    count = len(names)
    return ExamGeometry(np.full(count, -1, np.int32), np.full(count, np.nan), [""] * count, names)


def _jpeg_fault(path: Path) -> str:
    """Why the first bytes are not those of a slice of the derivative; "" when they are."""
    try:
        with path.open("rb") as file:
            gate_jpeg(file.read(HEAD_BYTES))
    except DicomFault as fault:
        return fault.reason
    except OSError as fault:
        return f"unreadable file: {fault.strerror}"
    return ""


def _describe(exam: ExamGeometry, headers: list[SliceHeader], row_of: dict[Path, int]) -> None:
    ordered, exam.flags = order_series(headers)
    for position, header in enumerate(ordered):
        row = row_of[header.path]
        exam.position[row] = position
        exam.z_mm[row] = header.z_mm
    exam.spacing_mm = ordered[0].spacing_mm
    exam.slice_step_mm = slice_step_mm([header.z_mm for header in ordered])
    exam.syntaxes = Counter(header.transfer_syntax for header in ordered)


def _uid_flags(headers: list[SliceHeader], study: str, series: str) -> set[str]:
    """The tables' ids are the files' names; a header that disagrees is told, not obeyed."""
    flags = set()
    if any(header.study_uid != study for header in headers):
        flags.add("study_uid_differs")
    if any(header.series_uid != series for header in headers):
        flags.add("series_uid_differs")
    if any(header.sop_uid != header.path.stem for header in headers):
        flags.add("sop_uid_differs")
    return flags
