"""Multi-frame CT objects are read through their functional groups."""

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from input.dicom import read_series
from input.slice_errors import DicomError
from input.slice_file import read_header, read_headers
from tests.support.dicom_files import body_hu, write_slice

FRAMES, STEP_MM = 5, 2.5


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def write_enhanced(path: Path, syntax: str = ExplicitVRLittleEndian, without: str = "", frames: int = FRAMES) -> Path:
    """Write an Enhanced CT object whose frames descend along z; frame n shows `body_hu() + n`."""
    dataset = pydicom.dcmread(write_slice(path))
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
        "SliceThickness",
    ):  # fmt: skip
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    dataset.NumberOfFrames = frames
    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.7, 0.7], SliceThickness=2.5)]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]),
        CTImageFrameTypeSequence=Sequence([item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]),
    )
    per_frame = [
        item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=[-20, -20, -STEP_MM * index])]),
            FrameContentSequence=Sequence([item(FrameAcquisitionNumber=3)]),
        )
        for index in range(FRAMES)
    ]
    for group in (shared, *per_frame):
        if without in group:
            delattr(group, without)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    stored = np.stack([body_hu() + index + 1 + 1024 for index in range(FRAMES)]).astype("<u2")
    dataset.PixelData = stored.tobytes()
    if syntax != ExplicitVRLittleEndian:
        plugin = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls"}[syntax]
        dataset.compress(syntax, stored, encoding_plugin=plugin, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("packed", [False, True], ids=["file", "archive"])
def test_frames_are_slices_in_anatomical_order(tmp_path, syntax, packed):
    source = write_enhanced(tmp_path / "in" / "enhanced.dcm", syntax).parent
    if packed:
        with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(source / "enhanced.dcm", "enhanced.dcm")
        source = tmp_path / "in.zip"
    series = read_series(source)
    np.testing.assert_array_equal(series.z_mm, -STEP_MM * np.arange(FRAMES)[::-1])
    for index in range(FRAMES):
        np.testing.assert_array_equal(series.hu[FRAMES - 1 - index], body_hu() + index + 1)
    assert series.sop_uids == tuple(f"1.2.3.4.5#{number}" for number in range(FRAMES, 0, -1))
    assert [frame for _, frame in series.files] == list(range(FRAMES, 0, -1))
    assert series.spacing_mm == (0.7, 0.7) and series.quarantined == []


@pytest.mark.parametrize(
    "without",
    [
        "PixelMeasuresSequence",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelValueTransformationSequence",
    ],
)
def test_an_object_without_a_functional_group_is_refused_with_its_name(tmp_path, without):
    path = write_enhanced(tmp_path / "enhanced.dcm", without=without)
    with pytest.raises(DicomError, match=f"multi-frame object without {without}$"):
        read_headers(path)


def test_a_number_of_frames_that_the_groups_contradict_is_refused(tmp_path):
    path = write_enhanced(tmp_path / "enhanced.dcm", frames=FRAMES + 1)
    with pytest.raises(DicomError, match="without functional groups for each frame: 5 for 6"):
        read_headers(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_truncated_object_is_refused(tmp_path, syntax):
    path = write_enhanced(tmp_path / "enhanced.dcm", syntax)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DicomError, match="truncated"):
        read_headers(path)


def test_a_frame_of_another_orientation_is_listed_and_the_others_are_read(tmp_path):
    dataset = pydicom.dcmread(write_enhanced(tmp_path / "enhanced.dcm"))
    coronal = item(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    dataset.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = Sequence([coronal])
    dataset.save_as(tmp_path / "enhanced.dcm")
    headers, reasons = read_headers(tmp_path / "enhanced.dcm")
    assert len(headers) == FRAMES - 1 and {header.acquisition_number for header in headers} == {3}
    assert reasons == ["frame 2: not an axial slice but coronal: its normal is [-0.0, 1.0, 0.0]"]


def test_a_frame_without_a_position_does_not_take_that_of_another(tmp_path):
    dataset = pydicom.dcmread(write_enhanced(tmp_path / "enhanced.dcm"))
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(tmp_path / "enhanced.dcm")
    headers, reasons = read_headers(tmp_path / "enhanced.dcm")
    assert [header.frame for header in headers] == [1, 2, 4, 5]
    assert reasons == ["frame 3: ImagePositionPatient is [], expected 3 finite number(s)"]


def test_a_damaged_frame_is_quarantined(tmp_path):
    path = write_enhanced(tmp_path / "enhanced.dcm", JPEGLSLossless)
    header = read_headers(path)[0][2]
    data = bytearray(path.read_bytes())
    data[header.pixel_offset + 60 : header.pixel_offset + header.pixel_length - 4] = bytes(header.pixel_length - 64)
    path.write_bytes(data)
    series = read_series(tmp_path)
    assert len(series.hu) == FRAMES - 1
    ((faulty, reason),) = series.quarantined
    assert faulty == path and reason.startswith("frame 3: ")


def test_the_contest_reader_takes_single_slices_only(tmp_path):
    with pytest.raises(DicomError, match="missing from the header"):
        read_header(write_enhanced(tmp_path / "enhanced.dcm"))
