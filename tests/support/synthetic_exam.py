"""One synthetic exam as a series, small enough for tests, and the acceptance measurements of a clean exam."""

from functools import cache
from pathlib import Path

import numpy as np

from features.acceptance_measurements import AcceptanceMeasurements
from input.contest import NEGATIVE
from input.dicom import Series
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam
from input.phantom.labels import ExamState

#: Measurements of a clean exam of clinical size; tests change single values.
CLEAN = AcceptanceMeasurements(
    slices=200, step_mm=1.25, extent_mm=249.0, gap_mm=1.25, gap_low_mm=0.0, gap_high_mm=1.25, gap_level=0.5,
    missing_share=0.0, repeated_share=0.0, uneven_share=0.0, hu_shift=0.0, hu_fit=0.35, hu_low=-1000.0, hu_high=700.0,
    saturated_share=0.0, lungs_found=1.0, lung_height_mm=230.0, lung_ml=4000.0, smaller_lung_share=0.47, lung_hu=-830.0,
    top_share=0.2, bottom_share=0.3, cut_share=0.0, artery_hu=350.0, aorta_hu=300.0, noise_hu=18.0, flicker=0.3,
    metal_ml=0.0, airway_top_cm2=1.5, airway_bottom_cm2=0.0, heart_taper=1.5, heart_left_mm=10.0, aorta_left=0.7,
    spine_back=0.2, lung_front=0.1,
)  # fmt: skip


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
        files=tuple((Path(f"{plane}.dcm"), 0) for plane in range(len(exam.hu))),
        study_uid="a1",
        series_uid="b1",
        flags=(),
        quarantined=[],
        selection_reason="the only series",
        other_series=(),
    )
