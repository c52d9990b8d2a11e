"""The clot map as a DICOM segmentation: on the right source slices, at the right pixels, whatever their orientation."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import Segmentation, segread

from inference.evidence.slice_images import CONTOUR
from inference.pacs.segmentation import clot_segmentation, geometry_fault
from inference.pacs.source_header import read_source_image, valid_uid
from inference.predicted_studies import SYNTHETIC_WARNING, PredictedStudies
from input.contest import INDETERMINATE, NEGATIVE
from tests.inference.pacs.predicted_scan import (
    APART_MM,
    CELL,
    CELL_MM,
    CLOT,
    MARK,
    MARK_HU,
    NAME,
    ORIENTATIONS,
    PATIENT,
    PIXEL_MM,
    SERIES_UID,
    SHAPE,
    STEP_MM,
    STUDY_UID,
    export_scan,
    in_orientation,
    write_scan,
)

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


def exported_segmentation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, orientation: str = "display", **names: str
) -> Path:
    write_scan(folder / "scans", orientation, **names)
    return export_scan(folder, monkeypatch, segmentation=True)[2]


def source_files(segmentation: Segmentation, scans: Path) -> dict[str, pydicom.Dataset]:
    """SOPInstanceUID -> source file of every frame, in the order of the frames."""
    datasets = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, sorted(scans.glob("*.dcm")))}
    uids = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    return {uid: datasets[uid] for uid in uids}


def centroid(weights: np.ndarray) -> np.ndarray:
    """(row, column) of the centroid of an image."""
    return np.array([(weights * index).sum() / weights.sum() for index in np.indices(weights.shape)])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_frames_are_on_their_source_slices_and_pixels_where_the_clot_is(
    orientation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation = segread(exported_segmentation(tmp_path, monkeypatch, orientation))
    sources = source_files(segmentation, tmp_path / "scans")
    assert sorted(sources) == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == list(ORIENTATIONS[orientation])
    for frame, source in zip(segmentation.PerFrameFunctionalGroupsSequence, sources.values(), strict=True):
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
    masks = segmentation.get_pixels_by_source_instance(["1.2.3.1", "1.2.3.2", "1.2.3.3"], combine_segments=True)
    right, weak, strong = masks > 0
    mark = sources["1.2.3.3"].pixel_array == MARK_HU + 1024
    assert mark.sum() == 9 and (strong & weak)[mark].all() and not right[mark].any()
    for mask in (weak, strong):
        np.testing.assert_allclose(centroid(in_orientation(mask, orientation)), MARK, atol=0.3)
    towards_right = (MARK[0], MARK[1] - APART_MM / PIXEL_MM[1])
    np.testing.assert_allclose(centroid(in_orientation(right, orientation)), towards_right, atol=0.3)


def test_the_segment_covers_the_pixels_above_the_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation = segread(exported_segmentation(tmp_path, monkeypatch))
    (mask,) = segmentation.get_pixels_by_source_instance(["1.2.3.3"], combine_segments=True)
    # The interpolated probability falls linearly from 0.9 to the background over one cell in either direction.
    reach_mm = CELL_MM * (CLOT[3] - CONTOUR) / CLOT[3]
    rows, columns = np.nonzero(mask)
    assert (np.ptp(rows) + 1) * PIXEL_MM[0] == pytest.approx(2 * reach_mm, abs=2 * PIXEL_MM[0])
    assert (np.ptp(columns) + 1) * PIXEL_MM[1] == pytest.approx(2 * reach_mm, abs=2 * PIXEL_MM[1])


def test_the_segment_is_marked_as_automatic_and_for_research_in_a_new_series_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation = segread(exported_segmentation(tmp_path, monkeypatch))
    (segment,) = segmentation.SegmentSequence
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage and segmentation.SegmentationType == "BINARY"
    assert segment.SegmentLabel == "pulmonary embolism (research use only)"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentDescription == (
        "Clot probability of 0.2 or more. Research use only. Not for diagnosis. " + SYNTHETIC_WARNING
    )
    patient = [segmentation.PatientID, str(segmentation.PatientName), segmentation.StudyDate]
    assert segmentation.StudyInstanceUID == STUDY_UID and patient == list(PATIENT.values())[:3]
    assert segmentation.SeriesInstanceUID != SERIES_UID and "RESEARCH USE ONLY" in segmentation.SeriesDescription
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES_UID


def without_pe(predicted: PredictedStudies) -> PredictedStudies:
    return dataclasses.replace(predicted, slices=predicted.slices.assign(label=0.01))


def with_weak_clot(predicted: PredictedStudies) -> PredictedStudies:
    clot = predicted.maps[NAME]
    probability = np.zeros_like(clot.probability)
    probability[:, *CELL] = 0.19
    weak = dataclasses.replace(clot, probability=probability)
    exams = predicted.exams.assign(**{NEGATIVE: 0.0, INDETERMINATE: 0.0})
    return dataclasses.replace(predicted, maps={NAME: weak}, exams=exams)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_pe, "no finding has a probability of 0.1 or more"),
        (with_weak_clot, "no pixel has a clot probability of 0.2 or more"),
    ],
)
def test_no_segmentation_without_a_finding_or_clot(
    change: Callable[[PredictedStudies], PredictedStudies], reason: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    earlier = exported_segmentation(tmp_path, monkeypatch)
    written = export_scan(tmp_path, monkeypatch, segmentation=True, change=change)
    assert [path.name for path in written] == [f"{NAME}_summary.dcm", f"{NAME}_report.dcm"]
    assert f"study {STUDY_UID}: segmentation not written: {reason}" in capsys.readouterr().out
    assert not earlier.exists()  # it would be taken for the new export's


def test_no_segmentation_unless_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path / "scans")
    assert len(export_scan(tmp_path, monkeypatch)) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{NAME}_report.dcm", f"{NAME}_summary.dcm"]


def test_identifiers_that_are_not_uids_are_replaced_as_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"study_uid": "0003b3d648eb", "series_uid": "d2b2960c2bbf", "prefix": "00ac73cfc37"}
    segmentation = segread(exported_segmentation(tmp_path, monkeypatch, **names))
    assert segmentation.StudyInstanceUID == valid_uid("0003b3d648eb")
    uids = {uid for _, _, uid in segmentation.get_source_image_uids()}
    assert uids == {valid_uid(f"00ac73cfc37{number}") for number in (1, 2, 3)}


def test_slices_of_two_geometries_cannot_be_segmented_together(tmp_path: Path) -> None:
    write_scan(tmp_path / "display")
    write_scan(tmp_path / "mirrored", "mirrored")
    first, second = (read_source_image(tmp_path / "display" / f"{number}.dcm").header for number in (0, 1))
    mirrored = read_source_image(tmp_path / "mirrored" / "2.dcm").header
    assert geometry_fault([first, second]) == ""
    assert geometry_fault([first, mirrored]) == "its slices differ in orientation"
    assert geometry_fault([first, second, first]) == "two of its slices have the same position"
    second.FrameOfReferenceUID = "1.2.9"
    assert geometry_fault([first, second]) == "its slices differ in frame of reference"


def test_incomplete_headers_are_accepted(tmp_path: Path) -> None:
    write_scan(tmp_path)
    first, second = (read_source_image(tmp_path / f"{number}.dcm").header for number in (0, 1))
    second.ImageOrientationPatient = [0.99999, 0.0001, 0, -0.0001, 0.99999, 0]  # rounded differently
    del first.SliceThickness
    assert geometry_fault([first, second]) == "" and "FrameOfReferenceUID" not in first
    masks = [np.eye(*SHAPE, dtype=bool)] * 2
    segmentation = clot_segmentation([first, second], masks, step_mm=STEP_MM, name="a", version="1", manufacturer="b")
    segmentation.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    read = segread(tmp_path / "seg.dcm")
    assert read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == STEP_MM
    assert read.FrameOfReferenceUID == valid_uid(f"frame of reference of {SERIES_UID}")
    assert (read.get_pixels_by_source_instance(["1.2.3.0", "1.2.3.1"], combine_segments=True) == masks).all()


@pytest.mark.parametrize("tool", ["dcmdump", "dcmj2pnm"])
def test_dcmtk_reads_the_segmentation(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: dcmtk)")
    path = exported_segmentation(tmp_path, monkeypatch)
    if tool == "dcmj2pnm":
        subprocess.run([tool, "--frame", "1", "--write-png", path, tmp_path / "p.png"], check=True, capture_output=True)
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        return
    done = subprocess.run([tool, "+U8", path], check=True, capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "VR checker does not support" not in line] == []
    for text in ("pulmonary embolism (research use only)", "BINARY", "1.2.3.3", STUDY_UID):
        assert text in done.stdout
