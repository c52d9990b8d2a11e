"""The `export-dicom` command: predictions for unlabelled series as DICOM objects for an archive.

    OUT/<study>_summary.dcm   summary image: secondary capture, RGB
    OUT/<study>_report.dcm    structured report: Comprehensive 3D SR, TID 1500

`<study>` is a running number (a UID from a header never becomes a path). Both objects belong to the source's study,
each in a new series. For identifiers that are not valid UIDs, see inference.pacs.source_header.
"""

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
from highdicom.sc import SCImage
from highdicom.sr import Comprehensive3DSR

from inference.pacs.codes import MEASUREMENTS
from inference.pacs.source_header import SourceImage, find_files, read_source_image
from inference.pacs.structured_report import KeyImage, ReportContent, structured_report
from inference.pacs.summary_image import summary_image
from inference.predicted_studies import SYNTHETIC_WARNING, PredictedStudies, predict_studies
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

#: Slices that a report refers to, at most: the likeliest, then only those with a probability above 0.5.
KEY_IMAGES = 5
SERIES_NUMBER = 9002
DESCRIPTION = "PE ensemble summary (RESEARCH USE ONLY)"
MANUFACTURER = "pulmonary-embolism-ensemble authors"


def export_dicom(settings: Settings, source: Path, out: Path) -> list[Path]:
    """Predict every study below a folder and write its summary image and its structured report.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either.
        out: a folder; files of an earlier export with the same numbers are replaced.

    Returns:
        The paths of the files.

    Raises:
        UserError: no finished run with these settings, no usable series, or no study of DICOM files.
    """
    predicted = predict_studies(settings, source)
    files = find_files(source, predicted.studies)
    written = []
    for study in predicted.studies:
        if FLAG in study.flags:  # JPEG files have no header that an object could refer to
            say(f"study left out: {study.study_uid}: its slices are JPEG files, not DICOM files")
            continue
        image, report, replaced = export_study(predicted, study, files)
        for name, dataset in (("summary", image), ("report", report)):
            path = out / f"{study.name}_{name}.dcm"
            with atomic_path(path) as temporary:
                dataset.save_as(temporary, enforce_file_format=True)
            written.append(path)
            say(f"study {study.study_uid}: {paths.shown(path)}")
        if replaced:
            original, uid = next(iter(replaced.items()))
            say(f"  replaced {len(replaced)} identifiers that are not valid UIDs, e.g. {original} by {uid}")
    if not written:
        raise UserError(
            f"no study of DICOM files: {source}. Expected DICOM files with headers to refer to. "
            "Predict other files with ./run.sh predict"
        )
    return written


def export_study(
    predicted: PredictedStudies, study: Study, files: dict[tuple[str, str], Path]
) -> tuple[SCImage, Comprehensive3DSR, dict[str, str]]:
    """Build the DICOM objects of one predicted study.

    Args:
        predicted: the studies and their predictions.
        study: one of them.
        files: (study's name, SOPInstanceUID) -> file, from `find_files`.

    Returns:
        The summary image, the structured report, and replaced identifier -> UID.
    """
    key = key_slices(predicted.slices[predicted.slices[STUDY] == study.name], study)
    sources = [read_source_image(files[study.name, sop]) for sop in key[SOP]]
    key_images = [
        KeyImage(source.header, float(z_mm), float(probability))
        for source, z_mm, probability in zip(sources, key["z_mm"], key["label"], strict=True)
    ]
    replaced = {
        original: str(getattr(source.header, name)) for source in sources for name, original in source.replaced.items()
    }
    labels = predicted.labels(study)
    content = ReportContent(
        labels={label: float(labels[label]) for label in EXAM_LABELS},
        measured=exam_measurements(predicted.measured.exams, study.name),
        key_images=key_images,
        comments=_comments(replaced),
        name=project()["name"],
        version=algorithm_version(),
        manufacturer=MANUFACTURER,
    )
    with warnings.catch_warnings():  # the patient's name is copied as it is, even a one-part pseudonym
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
        return _summary(sources[0], content), structured_report(content), replaced


def key_slices(slices: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Select the likeliest slices of a study, likeliest first: SOP, label, z_mm."""
    table = study.slices.merge(slices[[SOP, "label"]], on=SOP, validate="1:1")
    table = table.sort_values("label", ascending=False, kind="stable").head(KEY_IMAGES)
    return table[(table["label"] > 0.5) | (np.arange(len(table)) == 0)]


def exam_measurements(exams: pd.DataFrame, name: str) -> dict[str, float]:
    """The finite measurements of one study that a report can include, by column of the store's exam table."""
    rows = exams[exams[STUDY] == name]
    columns = [column for column in MEASUREMENTS if column in rows]
    return {column: float(rows[column].iloc[0]) for column in columns if np.isfinite(rows[column].iloc[0])}


def _comments(replaced: dict[str, str]) -> list[str]:
    warning = [SYNTHETIC_WARNING] if trained_on_phantoms() else []
    return [
        *warning,
        *(f"identifier {original} is not a valid UID and was replaced by {uid}" for original, uid in replaced.items()),
    ]


def _summary(source: SourceImage, content: ReportContent) -> SCImage:
    key_image = content.key_images[0]
    caption = f"z {key_image.z_mm:.1f} mm, P(PE on this slice) {key_image.probability:.3f}"
    lines = [content.name, f"version {content.version}", *([SYNTHETIC_WARNING] if trained_on_phantoms() else [])]
    plane = read_pixels(read_header(source.path))
    capture = SCImage.from_ref_dataset(
        ref_dataset=source.header,
        pixel_array=summary_image(plane, caption, content.labels, content.measured, lines),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=content.manufacturer,
        manufacturer_model_name=content.name,
        software_versions=content.version,
        series_description=DESCRIPTION,
    )
    capture.BurnedInAnnotation = "NO"  # the image contains no identifying text
    capture.DerivationDescription = "Summary of an ensemble's predictions; research use only"
    return capture
