"""Predictions become a summary image and a structured report that other software can read."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from features.acceptance_rules import Reason, accept
from inference.pacs.codes import FINDINGS, SCHEME
from inference.pacs.export_dicom import exam_measurements, key_slices
from inference.pacs.source_header import valid_uid
from inference.predicted_studies import PredictedStudies
from input.contest import CENTRAL, EXAM_LABELS, GTE_1, LEFT, NEGATIVE, SOP
from input.jpeg256 import FLAG
from pipeline.errors import UserError
from tests.inference.pacs.predicted_scan import (
    NAME,
    PATIENT,
    SERIES_UID,
    STUDY_UID,
    export_scan,
    predict_scan,
    write_scan,
)

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The summary image and the report of one study."""
    return export_into(tmp_path, monkeypatch)


def export_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **names: str) -> tuple[Path, Path]:
    write_scan(tmp_path / "scans", **names)
    return tuple(export_scan(tmp_path, monkeypatch))


def measured_values(report: pydicom.Dataset) -> dict[str, float]:
    """Tracking identifier -> value of the first measurement, for every measurement group."""
    content = highdicom.sr.Comprehensive3DSR.from_dataset(report).content
    values = {}
    for group in content.get_image_measurement_groups():
        values |= {group.tracking_identifier: group.get_measurements()[0].value}
    return values


def test_both_objects_belong_to_the_source_study_and_patient_in_new_series(exported: tuple[Path, Path]) -> None:
    image, report = (pydicom.dcmread(path) for path in exported)
    for dataset in (image, report):
        patient = [dataset.PatientID, str(dataset.PatientName), dataset.StudyDate, dataset.AccessionNumber]
        assert dataset.StudyInstanceUID == STUDY_UID and patient == list(PATIENT.values())
        assert "RESEARCH USE ONLY" in dataset.SeriesDescription
    series = {image.SeriesInstanceUID, report.SeriesInstanceUID, SERIES_UID}
    assert len(series) == 3 and all(pydicom.uid.UID(uid).is_valid for uid in series)
    assert image.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert report.VerificationFlag == "UNVERIFIED"


def test_the_report_contains_every_label_the_measurement_and_the_key_images(exported: tuple[Path, Path]) -> None:
    report = pydicom.dcmread(exported[1])
    values = measured_values(report)
    assert {label: values[label] for label in EXAM_LABELS} == pytest.approx(
        {**dict.fromkeys(EXAM_LABELS, 0.25), GTE_1: 0.9, LEFT: 0.8, CENTRAL: 0.7}
    )
    assert values["heart and great vessels"] == 1.234
    assert values["key image 1, z 7.5 mm"] == 0.95 and values["key image 2, z 5.0 mm"] == 0.8
    assert sum(name.startswith("key image") for name in values) == 2
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES_UID
    key_slices_and_findings = {"1.2.3.1", "1.2.3.2", "1.2.3.3"}
    assert {image.ReferencedSOPInstanceUID for image in series.ReferencedSOPSequence} == key_slices_and_findings


def test_codes_are_public_where_they_exist_and_the_private_scheme_identifies_itself(
    exported: tuple[Path, Path],
) -> None:
    report = pydicom.dcmread(exported[1])
    private = {code.CodeValue for code in every_code(report) if code.CodingSchemeDesignator == SCHEME}
    assert private == {code.value for code in FINDINGS.values() if code.scheme_designator == SCHEME} | {"RVLV-RATIO"}
    assert {code.CodingSchemeDesignator for code in every_code(report)} == {"DCM", "SCT", "UCUM", "RFC5646", SCHEME}
    assert [item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence] == [SCHEME]
    assert all(len(code.CodeMeaning) <= 64 for code in every_code(report))


def every_code(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Every coded entry of a dataset, nested ones too."""
    sequences = [element.value for element in dataset.iterall() if element.VR == "SQ"]
    return [item for sequence in sequences for item in sequence if "CodeMeaning" in item]


def test_the_summary_image_shows_the_likeliest_slice_and_no_patient(exported: tuple[Path, Path]) -> None:
    image = pydicom.dcmread(exported[0])
    pixels = image.pixel_array
    assert pixels.shape == (image.Rows, image.Columns, 3) and pixels.dtype == np.uint8
    assert image.BurnedInAnnotation == "NO"
    slice_part = pixels[64:, :640]
    assert slice_part[280, 360].tolist() == [pytest.approx(109, abs=3)] * 3  # muscle in the PE window
    assert slice_part[5, 5].tolist() == [0, 0, 0]


def test_invalid_uids_are_replaced_and_kept_as_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"study_uid": "0003b3d648eb", "series_uid": "d2b2960c2bbf", "prefix": "00ac73cfc37"}
    image, report = (pydicom.dcmread(path) for path in export_into(tmp_path, monkeypatch, **names))
    assert image.StudyInstanceUID == report.StudyInstanceUID == valid_uid("0003b3d648eb")
    assert valid_uid("0003b3d648eb") == "2.25.101131963582715821760251197236555452849"
    assert valid_uid("1.2.3") == "1.2.3"
    comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert f"identifier 0003b3d648eb is not a valid UID and was replaced by {image.StudyInstanceUID}" in comments
    assert "Research use only. Not for diagnosis." in comments


def test_a_study_of_jpegs_is_left_out_and_an_error_if_it_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def as_jpegs(predicted: PredictedStudies) -> PredictedStudies:
        jpegs = dataclasses.replace(predicted.studies[0], study_uid="0003b3d648eb", flags=(FLAG,))
        return dataclasses.replace(predicted, studies=[jpegs])

    write_scan(tmp_path / "scans")
    with pytest.raises(UserError, match="no study of DICOM files"):
        export_scan(tmp_path, monkeypatch, change=as_jpegs)
    assert "study left out: 0003b3d648eb" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_negative_exam_refers_to_its_likeliest_slice(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans")
    predicted = predict_scan(tmp_path / "scans", tmp_path)
    slices = predicted.slices.assign(label=predicted.slices["label"] / 4)
    assert key_slices(slices, predicted.studies[0])[SOP].tolist() == ["1.2.3.3"]
    assert exam_measurements(predicted.measured.exams, NAME) == {"rv_lv_ratio_measured": 1.234}


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO 2022 IR 100", "Müller^Jane"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 6", "Test^Case"),
        ("ISO_IR 192", "Müller^Jane"),
        ("ISO_IR 999", "Test^Case"),
        (None, "Test^Case"),
    ],
)
def test_text_becomes_utf_8_whatever_the_character_set(tmp_path, monkeypatch, charset, name):
    write_scan(tmp_path / "scans")
    for path in (tmp_path / "scans").iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = "ISO 2022 IR 100" if charset == "ISO_IR 999" else charset
        header.PatientName = name
        header.save_as(path)
        if charset == "ISO_IR 999":
            path.write_bytes(path.read_bytes().replace(b"ISO 2022 IR 100", b"ISO_IR 999     "))
    for path in export_scan(tmp_path, monkeypatch):
        written = pydicom.dcmread(path)
        assert written.SpecificCharacterSet == "ISO_IR 192" and str(written.PatientName) == name


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_values_that_the_standard_does_not_allow_are_emptied_with_a_comment(tmp_path, monkeypatch):
    write_scan(tmp_path / "scans")
    for path in (tmp_path / "scans").iterdir():
        header = pydicom.dcmread(path)
        header.PatientSex, header.PatientBirthDate = "U", "19550000"
        header.save_as(path)
    image, report = (pydicom.dcmread(path) for path in export_scan(tmp_path, monkeypatch))
    for written in (image, report):
        assert not written.PatientSex and not written.PatientBirthDate and written.StudyDate == "20200102"
    comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert "PatientSex has a value that the standard does not allow and was left empty" in comments


def test_a_study_that_cannot_be_exported_does_not_lose_the_others(tmp_path, monkeypatch):
    def twice(predicted: PredictedStudies) -> PredictedStudies:
        (study,) = predicted.studies
        return dataclasses.replace(predicted, studies=[dataclasses.replace(study, study_uid="1.9", files={}), study])

    write_scan(tmp_path / "scans")
    with pytest.raises(UserError, match=r"Exported 2 objects to .*\n  - 1\.9: KeyError"):
        export_scan(tmp_path, monkeypatch, change=twice)
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("tool", ["dsrdump", "dcmdump", "dcmj2pnm"])
def test_dcmtk_reads_both_objects(tool: str, exported: tuple[Path, Path], tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: dcmtk)")
    image, report = exported
    if tool == "dcmj2pnm":
        subprocess.run([tool, "--write-png", image, tmp_path / "p.png"], check=True, capture_output=True)
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        return
    done = subprocess.run([tool, "+U8", report], check=True, capture_output=True, text=True)
    messages = [line for line in done.stderr.splitlines() if "VR checker does not support" not in line]  # UTF-8
    assert messages == []
    for text in ("Pulmonary embolism", "Probability", NEGATIVE, "Chronic pulmonary embolism"):
        assert text in done.stdout
    if tool == "dsrdump":
        assert "Müller^Jane" in done.stdout and "UNVERIFIED" in done.stdout.upper()
    else:
        assert STUDY_UID in done.stdout


@pytest.mark.parametrize("force", [False, True])
def test_the_report_says_that_an_exam_is_not_assessable_and_withholds_its_labels(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = accept((Reason("lungs", "no lungs found", True),))
    write_scan(tmp_path / "scans")
    paths = export_scan(
        tmp_path,
        monkeypatch,
        force_labels=force,
        change=lambda predicted: dataclasses.replace(predicted, acceptance={NAME: refused}),
    )
    report = pydicom.dcmread(paths[1])
    comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    withheld = "" if force else ". Labels, findings and probabilities are withheld"
    assert f"acceptance: not assessable: no lungs found{withheld}" in comments
    groups = highdicom.sr.Comprehensive3DSR.from_dataset(report).content.get_image_measurement_groups()
    names = {group.tracking_identifier for group in groups}
    assert (NEGATIVE in names) is force and "key image 1, z 7.5 mm" in names
    probabilities = [code for code in every_code(report) if code.CodeMeaning == "Probability"]
    assert bool(probabilities) is force
