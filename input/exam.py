"""One exam's files, headers only: which slices are readable, in which order, with what geometry."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from input.dicom import DicomFault, SliceHeader, agreeing_geometry, order_series, read_header, slice_step_mm


@dataclass
class ExamGeometry:
    """What the headers of an exam say; the arrays follow the order of the SOPs that were asked for."""

    position: np.ndarray  # (n,) int32, rank by z ascending among readable slices; -1 unreadable
    z_mm: np.ndarray  # (n,) float64, NaN unreadable
    quarantine: list[str]  # (n,) reason, "" readable
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
    exam = ExamGeometry(np.full(len(sops), -1, np.int32), np.full(len(sops), np.nan), [""] * len(sops))
    row_of: dict[Path, int] = {}
    headers = []
    for row, sop in enumerate(sops):
        path = folder / f"{sop}.dcm"
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
