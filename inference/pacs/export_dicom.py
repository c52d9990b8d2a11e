"""Predictions of unlabelled series as DICOM objects for an archive: a summary picture and a structured report a study.

    OUT/<study>_summary.dcm   secondary capture, RGB
    OUT/<study>_report.dcm    Comprehensive 3D SR, TID 1500

`<study>` counts the studies (a UID out of a header never becomes a path); both lie in the source's study, each in a
new series. What happens to identifiers that are no UIDs is told in inference.pacs.source_header.
"""

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from inference.pacs.codes import MEASUREMENTS
from inference.pacs.source_header import SourceImage, find_files, read_source_image
from inference.pacs.structured_report import Answer, KeyImage, structured_report
from inference.pacs.summary_picture import summary_picture
from inference.predicted_studies import WARNING, Predicted, predict_studies
from inference.series_reader import Study
from input.contest import EXAM_LABELS, SOP, STUDY
from input.jpeg256 import FLAG
from input.slice_file import read_header, read_pixels
from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.settings import Settings
from submissions.finished_run import trained_on_phantoms
from submissions.software_name import algorithm_version, project

#: Slices that a report refers to, at most: the likeliest, and beyond the first only those called positive.
KEY_IMAGES = 5
SERIES_NUMBER = 9002
DESCRIPTION = "PE ensemble summary (RESEARCH USE ONLY)"
MANUFACTURER = "pulmonary-embolism-ensemble authors"


def export_dicom(settings: Settings, source: Path, out: Path) -> list[Path]:
    """Predict every study below a folder and write its picture and its report; the paths written.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either.
        out: a folder; files of an earlier export of as many studies are replaced.

    Raises:
        UserError: no finished run with these settings, no usable series, or none of DICOM files.
    """
    found = predict_studies(settings, source)
    files = find_files(source, found.studies)
    written = []
    for study in found.studies:
        if FLAG in study.flags:  # JPEG files have no header that an object could refer to
            say(f"left out: study {study.study_uid}: its slices are no DICOM files")
            continue
        picture, report, replaced = export_study(found, study, files)
        for name, dataset in (("summary", picture), ("report", report)):
            path = out / f"{study.name}_{name}.dcm"
            with atomic_path(path) as temporary:
                dataset.save_as(temporary, enforce_file_format=True)
            written.append(path)
            say(f"study {study.study_uid}: {paths.shown(path)}")
        if replaced:
            say(f"  {len(replaced)} identifiers are no UIDs; derived ones stand in, e.g. {_example(replaced)}")
    if not written:
        raise UserError(f"{source}: no study of DICOM files; `predict` tells the labels of other ones")
    return written


def export_study(found: Predicted, study: Study, files: dict[tuple[str, str], Path]) -> tuple[Dataset, Dataset, dict]:
    """(picture, report, replaced identifier -> UID) of one predicted study."""
    chosen = key_slices(found.slices[found.slices[STUDY] == study.name], study)
    sources = [read_source_image(files[study.name, sop]) for sop in chosen[SOP]]
    images = [
        KeyImage(each.header, float(z), float(p))
        for each, z, p in zip(sources, chosen["z_mm"], chosen["label"], strict=True)
    ]
    replaced = _replaced(sources)
    labels = found.labels(study)
    answer = Answer(
        labels={label: float(labels[label]) for label in EXAM_LABELS},
        measured=measured_of(found.measured.exams, study.name),
        key_images=images,
        comments=_comments(replaced),
        name=project()["name"],
        version=algorithm_version(),
        manufacturer=MANUFACTURER,
    )
    with warnings.catch_warnings():  # the patient's name is copied as it is, also a pseudonym of one part
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
        return _picture(sources[0], answer), structured_report(answer), replaced


def key_slices(slices: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The likeliest slices of a study, likeliest first: SOP, label, z_mm."""
    table = study.slices.merge(slices[[SOP, "label"]], on=SOP, validate="1:1")
    table = table.sort_values("label", ascending=False, kind="stable").head(KEY_IMAGES)
    return table[(table["label"] > 0.5) | (np.arange(len(table)) == 0)]


def measured_of(exams: pd.DataFrame, name: str) -> dict[str, float]:
    """What the store has measured of one study, of the columns that a report can name."""
    rows = exams[exams[STUDY] == name]
    columns = [column for column in MEASUREMENTS if column in rows]
    return {column: float(rows[column].iloc[0]) for column in columns if np.isfinite(rows[column].iloc[0])}


def _replaced(sources: list[SourceImage]) -> dict[str, str]:
    return {original: str(getattr(each.header, name)) for each in sources for name, original in each.replaced.items()}


def _comments(replaced: dict[str, str]) -> list[str]:
    notes = [WARNING] if trained_on_phantoms() else []
    return notes + [
        f"identifier {original} is no UID; it stands as {derived}" for original, derived in replaced.items()
    ]


def _example(replaced: dict[str, str]) -> str:
    original, derived = next(iter(replaced.items()))
    return f"{original} -> {derived}"


def _picture(source: SourceImage, answer: Answer) -> SCImage:
    image = answer.key_images[0]
    caption = f"z {image.z_mm:.1f} mm, P(PE on this slice) {image.probability:.3f}"
    lines = [answer.name, f"version {answer.version}", *([WARNING] if trained_on_phantoms() else [])]
    plane = read_pixels(read_header(source.path))
    pixels = summary_picture(plane, caption, pd.Series(answer.labels), answer.measured, lines)
    captured = SCImage.from_ref_dataset(
        ref_dataset=source.header,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=answer.manufacturer,
        manufacturer_model_name=answer.name,
        software_versions=answer.version,
        series_description=DESCRIPTION,
    )
    captured.BurnedInAnnotation = "NO"  # nothing drawn identifies the patient
    captured.DerivationDescription = "Summary of an ensemble's predictions; research use only"
    return captured
