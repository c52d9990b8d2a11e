"""A small scan, stored in any orientation, and faked predictions with two findings at known positions in the patient.

The files contain a bright mark whose position in the patient is `MARK_MM`. The clot map has its strongest cell there,
and a weaker cell `APART_MM` further to the patient's right on another slice.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.predictions import Measured
from features.acceptance_rules import Acceptance
from features.ingest import ingest_series
from features.store import StoredExam, open_exam
from inference.clot_maps import ClotMap
from inference.pacs import export_dicom as module
from inference.predicted_studies import PredictedStudies
from inference.series_reader import Study
from input.contest import CENTRAL, EXAM_LABELS, GTE_1, LEFT, SOP, STUDY
from input.dicom import read_series
from pipeline.settings import FeaturesSettings
from tests.support.dicom_files import write_slice
from tests.support.synthetic_exam import CLEAN

NAME, STUDY_UID, SERIES_UID, PREFIX = "study00000", "1.2.826.0.1.77", "1.2.826.0.1.77.1", "1.2.3."
PATIENT = {"PatientID": "P-17", "PatientName": "Müller^Jane", "StudyDate": "20200102", "AccessionNumber": "A5"}
LATIN = {"SpecificCharacterSet": "ISO_IR 100"}

#: Slices, their distance, and their size in pixels and in mm (y, x) in display orientation.
SLICES, STEP_MM = 6, 2.5
SHAPE, PIXEL_MM = (64, 72), (1.5, 1.25)
#: Patient coordinates (x, y) of the first pixel in display orientation.
CORNER_MM = (-31.0, -17.0)
#: The mark: pixel (y, x) in display orientation, HU, and patient coordinates (x, y).
MARK, MARK_HU = (25, 44), 2000
MARK_MM = (CORNER_MM[0] + MARK[1] * PIXEL_MM[1], CORNER_MM[1] + MARK[0] * PIXEL_MM[0])

#: Stored pixels measure 1 mm, cells 4 mm.
FEATURES, CELL_MM = FeaturesSettings(spacing_mm=1.0), 4.0
CELL, APART_CELLS = (3, 6), 6
APART_MM = APART_CELLS * CELL_MM
#: Clot probability of the cell at the mark on two slices, and of the other cell on its slice.
CLOT = {3: 0.9, 2: 0.5}
OTHER_PLANE, OTHER_CLOT = 1, 0.9

#: Orientation -> ImageOrientationPatient.
ORIENTATIONS = {
    "display": (1, 0, 0, 0, 1, 0),
    "mirrored": (-1, 0, 0, 0, 1, 0),
    "turned": (-1, 0, 0, 0, -1, 0),
    "transposed": (0, 1, 0, 1, 0, 0),
}


def scan_hu() -> np.ndarray:
    """One slice in display orientation: a body off the centre, with a mark of 3 x 3 pixels; int16 HU (y, x)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hu = np.where(((y - 28) / 20) ** 2 + ((x - 40) / 23) ** 2 < 1, 46, -1000).astype(np.int16)
    hu[MARK[0] - 1 : MARK[0] + 2, MARK[1] - 1 : MARK[1] + 2] = MARK_HU
    return hu


def in_orientation(plane: np.ndarray, orientation: str) -> np.ndarray:
    """A plane in display orientation as a source of another orientation transmits it; applied twice, it is undone."""
    return {
        "display": plane, "mirrored": plane[:, ::-1], "turned": plane[::-1, ::-1], "transposed": plane.T,
    }[orientation]  # fmt: skip


def write_scan(
    folder: Path, orientation: str = "display", *, study_uid: str = STUDY_UID, series_uid: str = SERIES_UID,
    prefix: str = PREFIX,
) -> None:  # fmt: skip
    """Write the slices; file 0.dcm is the lowest."""
    right_end = CORNER_MM[0] + (SHAPE[1] - 1) * PIXEL_MM[1]
    back_end = CORNER_MM[1] + (SHAPE[0] - 1) * PIXEL_MM[0]
    corner = {"mirrored": (right_end, CORNER_MM[1]), "turned": (right_end, back_end)}.get(orientation, CORNER_MM)
    spacing = PIXEL_MM[::-1] if orientation == "transposed" else PIXEL_MM
    for number in range(SLICES):
        write_slice(
            folder / f"{number}.dcm", in_orientation(scan_hu(), orientation), StudyInstanceUID=study_uid,
            SeriesInstanceUID=series_uid, SOPInstanceUID=f"{prefix}{number}", InstanceNumber=SLICES - number,
            ImageOrientationPatient=list(ORIENTATIONS[orientation]), PixelSpacing=list(spacing),
            ImagePositionPatient=[*corner, STEP_MM * number], **LATIN, **PATIENT,
        )  # fmt: skip


def predict_scan(source: Path, store: Path) -> PredictedStudies:
    """Store a scan and fake its predictions: PE on the third and fourth slice."""
    series = read_series(source)
    slices = pd.DataFrame({SOP: series.sop_uids, "z_mm": series.z_mm})
    ingested = ingest_series(dataclasses.replace(series, study_uid=NAME), store, FEATURES)
    files = dict(zip(series.sop_uids, series.files, strict=True))
    study = Study(NAME, series.study_uid, series.series_uid, "only one", (), slices, [], (), ingested, CLEAN, files)
    exams = pd.DataFrame({STUDY: [NAME], **dict.fromkeys(EXAM_LABELS, [0.25])})
    exams[[GTE_1, LEFT, CENTRAL]] = [0.9, 0.8, 0.7]
    measured = pd.DataFrame({STUDY: [NAME], "rv_lv_ratio_measured": [1.234], "rv_mm": [np.nan], "n_stored": SLICES})
    labels = pd.DataFrame({STUDY: NAME, SOP: series.sop_uids, "label": [0.1, 0.2, 0.8, 0.95, 0.3, 0.05]})
    maps = {NAME: scan_clot_map(open_exam(store, NAME))}
    return PredictedStudies(
        [study], exams, labels, Measured(pd.DataFrame(), measured), {}, maps, {NAME: Acceptance()}, {}
    )


def scan_clot_map(exam: StoredExam) -> ClotMap:
    """The clot map; its cell CELL is centred on the mark as it appears in the stored pixels."""
    bright = np.clip(exam.hu[0].astype(float) - 100, 0, None)
    y, x = np.indices(bright.shape)
    mark_y, mark_x = (bright * y).sum() / bright.sum(), (bright * x).sum() / bright.sum()
    probability = np.full((SLICES, 8, 10), 0.001, np.float32)
    for plane, value in CLOT.items():
        probability[plane][CELL] = value
    probability[OTHER_PLANE, CELL[0], CELL[1] - APART_CELLS] = OTHER_CLOT
    to_stored = np.array([[CELL_MM, 0, mark_x - CELL_MM * CELL[1]], [0, CELL_MM, mark_y - CELL_MM * CELL[0]]])
    return ClotMap(probability, to_stored, CELL_MM, np.full(SLICES, STEP_MM), CELL[1] - APART_CELLS / 2)


def export_scan(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    segmentation: bool = False,
    force_labels: bool = False,
    change: Callable[[PredictedStudies], PredictedStudies] = lambda predicted: predicted,
) -> list[Path]:
    """Export the scan in tmp_path/scans to tmp_path/out; `change` alters its predictions."""
    monkeypatch.setattr(module, "algorithm_version", lambda: "0.1.0+test")
    monkeypatch.setattr(module, "trained_on_phantoms", lambda: True)
    monkeypatch.setattr(
        module, "predict_into_store", lambda settings, source, store: change(predict_scan(source, store))
    )
    return module.export_dicom(
        None, tmp_path / "scans", tmp_path / "out", segmentation=segmentation, force_labels=force_labels
    )
