"""One synthetic exam as a series, small enough for tests, with the anatomy that acceptance measures."""

from functools import cache

import numpy as np

from input.contest import NEGATIVE
from input.dicom import Series
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam
from input.phantom.labels import ExamState


@cache
def synthetic_series() -> Series:
    """A clean exam without PE: 40 slices of 160 pixels."""
    exam = generate_exam(
        ExamState(frozenset({NEGATIVE}), -1), difficulty_named("easy"), seed=5, index=3, rows=160, slices=40
    )
    return Series(
        hu=np.clip(exam.hu, -1024, 3071),
        z_mm=np.asarray(exam.grid.z),
        spacing_mm=(exam.grid.pixel, exam.grid.pixel),
        sop_uids=tuple(f"{plane:012x}" for plane in range(len(exam.hu))),
        study_uid="a1",
        series_uid="b1",
        flags=(),
        quarantined=[],
        selection_reason="the only series",
        other_series=(),
    )
