"""The `export-dicom` command: predictions for unlabelled series as DICOM objects for an archive.

    OUT/<study>_summary.dcm   summary image: secondary capture, RGB
    OUT/<study>_report.dcm    structured report: Comprehensive 3D SR, TID 1500
    OUT/<study>_seg.dcm       with --seg, if there is a finding: clot map, binary segmentation

`<study>` is a running number (a UID from a header never becomes a path). All objects belong to the source's study,
each in a new series. For identifiers that are not valid UIDs, see inference.pacs.source_header.
"""

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
from highdicom.sc import SCImage
from highdicom.seg import Segmentation
from highdicom.sr import Comprehensive3DSR

from features.acceptance_rules import Acceptance
from features.store import StoredExam, open_exam
from inference.evidence.slice_images import CONTOUR
from inference.finding_text import REPORT_THRESHOLD
from inference.findings import Finding
from inference.pacs.codes import MEASUREMENTS
from inference.pacs.finding_groups import ReportedFinding, clot_burden, occluded_shares
from inference.pacs.segmentation import clot_planes, clot_segmentation, geometry_fault, source_mask
from inference.pacs.source_geometry import stored_to_source
from inference.pacs.source_header import SourceImage, read_source_image
from inference.pacs.structured_report import KeyImage, ReportContent, structured_report
from inference.pacs.summary_image import summary_image
from inference.predict_series import study_findings
from inference.predicted_studies import SYNTHETIC_WARNING, PredictedStudies, predict_into_store
from inference.series_reader import Study
from input.contest import EXAM_LABELS, SOP, STUDY
from input.jpeg256 import FLAG
from input.slice_file import read_pixels
from input.slice_order import slice_step_mm
from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path, require_writable
from pipeline.settings import Settings
from submissions.finished_run import trained_on_phantoms
from submissions.software_name import algorithm_version, project

#: Slices that a report refers to, at most: the likeliest, then only those with a probability above 0.5.
KEY_IMAGES = 5
SERIES_NUMBER = 9002
DESCRIPTION = "PE ensemble summary (RESEARCH USE ONLY)"
WITHHELD = ". Labels, findings and probabilities are withheld"
MANUFACTURER = "pulmonary-embolism-ensemble authors"


@dataclasses.dataclass(frozen=True)
class StudyExport:
    """What the DICOM objects of one study are made from.

    Attributes:
        predicted: the studies and their predictions.
        study: the study.
        exam: the study in the pixel store.
        findings: its findings to report, likeliest first.
        force_labels: whether labels of a study that is not assessable are exported.
    """

    predicted: PredictedStudies
    study: Study
    exam: StoredExam
    findings: list[Finding]
    force_labels: bool = False

    @property
    def acceptance(self) -> Acceptance:
        """Whether the study can be assessed."""
        return self.predicted.acceptance[self.study.name]

    @property
    def shows_labels(self) -> bool:
        """Whether the objects contain labels, findings and probabilities; otherwise they are withheld."""
        return self.force_labels or self.acceptance.allows_labels

    def source(self, sop: str) -> SourceImage:
        """Read the header of a slice of the study."""
        return read_source_image(*self.study.files[sop])


def export_dicom(
    settings: Settings, source: Path, out: Path, *, segmentation: bool = False, force_labels: bool = False
) -> list[Path]:
    """Predict every study below a folder and write its summary image, its structured report and its segmentation.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either.
        out: a folder; files of an earlier export with the same numbers are replaced or removed.
        segmentation: whether to write segmentations.
        force_labels: export labels and findings of studies that are not assessable too; otherwise withheld.

    Returns:
        The paths of the files.

    Raises:
        UserError: no finished run with these settings, no usable series, no study of DICOM files, or a study could
            not be exported; the other studies are written before.
    """
    require_writable(out / "0")
    written: list[Path] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        store = Path(folder)
        predicted = predict_into_store(settings, source, store)
        findings = study_findings(predicted)
        for study in predicted.studies:
            if FLAG in study.flags:  # JPEG files have no header that an object could refer to
                say(f"study left out: {study.study_uid}: its slices are JPEG files, not DICOM files")
                continue
            reported = [finding for finding in findings[study.name] if finding.probability >= REPORT_THRESHOLD]
            export = StudyExport(predicted, study, open_exam(store, study.name), reported, force_labels)
            if not export.shows_labels:
                export = dataclasses.replace(export, findings=[])
            try:
                written += _write_study(export, out, segmentation=segmentation)
            except Exception as fault:  # highdicom checks what it copies from headers; other studies must not be lost
                reason = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
                failed.append(f"{study.study_uid}: {reason}")
    if failed:
        raise UserError.listing(
            f"Exported {len(written)} objects to {paths.shown(out)}, but not these studies:", failed
        )
    if not written:
        raise UserError(
            f"no study of DICOM files: {source}. Expected DICOM files with headers to refer to. "
            "Predict other files with ./run.sh predict"
        )
    return written


def _write_study(export: StudyExport, out: Path, *, segmentation: bool) -> list[Path]:
    """Write the objects of one study; returns their paths."""
    name, uid = export.study.name, export.study.study_uid
    image, report, replaced = export_study(export)
    datasets = {"summary": image, "report": report}
    if segmentation:
        result = segment_study(export)
        if isinstance(result, str):
            say(f"study {uid}: segmentation not written: {result}")
        else:
            datasets["seg"] = result
    if "seg" not in datasets:
        (out / f"{name}_seg.dcm").unlink(missing_ok=True)  # of an earlier export, perhaps of another study
    written = []
    for suffix, dataset in datasets.items():
        path = out / f"{name}_{suffix}.dcm"
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
        written.append(path)
        say(f"study {uid}: {paths.shown(path)}")
    if replaced:
        original, valid = next(iter(replaced.items()))
        say(f"  replaced {len(replaced)} identifiers that are not valid UIDs, e.g. {original} by {valid}")
    return written


def export_study(export: StudyExport) -> tuple[SCImage, Comprehensive3DSR, dict[str, str]]:
    """Build the summary image and the structured report of one predicted study.

    Returns:
        The summary image, the structured report, and replaced identifier -> UID.
    """
    predicted, study = export.predicted, export.study
    key = key_slices(predicted.slices[predicted.slices[STUDY] == study.name], study)
    sources = {sop: export.source(sop) for sop in (*key[SOP], *(finding.sop for finding in export.findings))}
    shown = export.shows_labels
    key_images = [
        KeyImage(sources[sop].header, float(z_mm), float(probability) if shown else None, sources[sop].slice.frame)
        for sop, z_mm, probability in zip(key[SOP], key["z_mm"], key["label"], strict=True)
    ]
    replaced = {
        original: str(getattr(source.header, name))
        for source in sources.values()
        for name, original in source.replaced.items()
    }
    emptied = sorted({name for source in sources.values() for name in source.emptied})
    labels = predicted.labels(study)
    content = ReportContent(
        labels={label: float(labels[label]) for label in EXAM_LABELS} if shown else {},
        measured=exam_measurements(predicted.measured.exams, study.name),
        key_images=key_images,
        burden=clot_burden(predicted.maps[study.name]) if shown else {},
        occluded=occluded_shares(predicted.maps[study.name]) if shown else {},
        findings=[_reported(finding, export.exam, sources[finding.sop]) for finding in export.findings],
        comments=[f"acceptance: {export.acceptance.line()}{WITHHELD * (not shown)}", *_comments(replaced, emptied)],
        name=project()["name"],
        version=algorithm_version(),
        manufacturer=MANUFACTURER,
    )
    with _accept_patient_names():
        return _summary(sources[key[SOP].iloc[0]], content), structured_report(content), replaced


def segment_study(export: StudyExport) -> Segmentation | str:
    """Build the segmentation of one predicted study, or return the reason why there is none."""
    if not export.findings:
        return f"no finding has a probability of {REPORT_THRESHOLD:g} or more"
    clot = export.predicted.maps[export.study.name]
    if any(frame for _, frame in export.study.files.values()):
        return "the source is a multi-frame object"
    headers, masks = [], []
    for plane in clot_planes(clot):
        header = export.source(export.exam.sop_uids[plane]).header
        mask = source_mask(clot, plane, export.exam, header)
        if mask.any():
            headers.append(header)
            masks.append(mask)
    if not headers:
        return f"no pixel has a clot probability of {CONTOUR:g} or more"
    if fault := geometry_fault(headers):
        return fault
    with _accept_patient_names():
        return clot_segmentation(
            headers,
            masks,
            step_mm=slice_step_mm(export.exam.z_mm.tolist()),
            name=project()["name"],
            version=algorithm_version(),
            manufacturer=MANUFACTURER,
            comment=SYNTHETIC_WARNING if trained_on_phantoms() else "",
        )


def _reported(finding: Finding, exam: StoredExam, source: SourceImage) -> ReportedFinding:
    y, x = finding.point
    column, row = stored_to_source(exam, source.header) @ np.array([x, y, 1.0])
    return ReportedFinding(finding, source.header, (float(column), float(row)), source.slice.frame)


@contextmanager
def _accept_patient_names() -> Iterator[None]:
    """Silence the warning about unusual patients' names: they are copied as they are, even one-part pseudonyms."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
        yield


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


def _comments(replaced: dict[str, str], emptied: list[str]) -> list[str]:
    warning = [SYNTHETIC_WARNING] if trained_on_phantoms() else []
    return [
        *warning,
        *(f"identifier {original} is not a valid UID and was replaced by {uid}" for original, uid in replaced.items()),
        *(f"{name} has a value that the standard does not allow and was left empty" for name in emptied),
    ]


def _summary(source: SourceImage, content: ReportContent) -> SCImage:
    key_image = content.key_images[0]
    caption = f"z {key_image.z_mm:.1f} mm"
    if key_image.probability is not None:
        caption += f", P(PE on this slice) {key_image.probability:.3f}"
    lines = [content.name, f"version {content.version}", *([SYNTHETIC_WARNING] if trained_on_phantoms() else [])]
    plane = read_pixels(source.slice)
    capture = SCImage.from_ref_dataset(
        ref_dataset=source.header,
        pixel_array=summary_image(plane, caption, content.labels, content.measured, lines, content.comments[0]),
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
