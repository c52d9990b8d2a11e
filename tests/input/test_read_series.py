"""Reading series from folders, nested exports and zip archives."""

import zipfile

import numpy as np
import pytest

from input.dicom import read_series
from pipeline.errors import UserError
from tests.support.dicom_files import body_hu, write_slice


def write_series(folder, count, *, number, step=1.25, description="CTPA 1.25", syntax="explicit", **tags):
    for index in range(count):
        write_slice(
            folder / f"{number}-{index}.dcm", body_hu() + index, syntax=syntax, z=step * index,
            InstanceNumber=count - index, SeriesInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.2.{number}.{index + 1}",
            SeriesDescription=description, **tags,
        )  # fmt: skip
    return folder


def test_a_folder_is_read_in_ascending_order(tmp_path):
    series = read_series(write_series(tmp_path, 4, number=3, syntax="rle"))
    assert series.hu.shape == (4, 64, 64) and series.hu.dtype == np.int16
    np.testing.assert_array_equal(series.z_mm, [0, 1.25, 2.5, 3.75])
    np.testing.assert_array_equal(series.hu[2], body_hu() + 2)
    assert series.sop_uids == ("1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4")
    assert series.spacing_mm == (0.7, 0.7) and series.quarantined == [] and series.other_series == ()


def test_a_single_slice_is_a_series(tmp_path):
    series = read_series(write_series(tmp_path, 1, number=3))
    assert series.hu.shape == (1, 64, 64) and series.flags == ("single_slice",)


@pytest.mark.slow
def test_a_series_as_long_as_the_longest_contest_exam_is_sorted(tmp_path):
    template = write_slice(tmp_path / "s.dcm", z=1000.25).read_bytes()
    (tmp_path / "s.dcm").unlink()
    heights = np.random.default_rng(1).permutation(1083)
    for number, height in enumerate(heights):
        data = template.replace(b"1000.25", b"%07.2f" % (height / 4)).replace(b"1.2.3.4.5\x00", b"1.2.3%05d" % number)
        (tmp_path / f"{number}.dcm").write_bytes(data)
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.z_mm, np.arange(1083) / 4)
    assert [int(sop.removeprefix("1.2.3")) for sop in series.sop_uids] == np.argsort(heights).tolist()


def test_two_passes_are_kept_and_flagged(tmp_path):
    write_series(tmp_path, 3, number=3)
    for index in range(3):
        write_slice(tmp_path / f"again{index}.dcm", z=1.25 * index, InstanceNumber=9, SeriesInstanceUID="1.2.3")
    series = read_series(tmp_path)
    assert len(series.hu) == 6 and "duplicate_positions" in series.flags


def test_the_thin_angiographic_series_is_chosen_with_reasons_against_the_others(tmp_path):
    write_series(tmp_path / "a" / "scout", 2, number=1, description="Topogram")
    write_series(tmp_path / "a" / "thick", 30, number=2, step=5.0, description="CTA chest 5.0")
    write_series(tmp_path / "b" / "thin", 90, number=3, description="CTA chest 1.25")
    write_series(tmp_path / "b" / "lung", 90, number=4, description="CTA lung 1.25")
    write_series(tmp_path / "b" / "native", 90, number=5, description="chest non-contrast 1.25")
    write_series(
        tmp_path / "b" / "mip", 90, number=6, description="CTA 1.25", ImageType=["DERIVED", "SECONDARY", "MIP"]
    )
    series = read_series(tmp_path)
    assert series.series_uid == "1.2.3"
    assert series.selection_reason == "CTA chest 1.25: 90 axial slices 1.25 mm apart, best of 6 series"
    assert {other.series_uid: other.reason for other in series.other_series} == {
        "1.2.1": "covers only 1 mm",
        "1.2.2": "thick slices, 5 mm apart",
        "1.2.4": "sharp kernel according to its description",
        "1.2.5": "less angiographic according to its description and contrast agent",
        "1.2.6": "derived image (DERIVED SECONDARY MIP)",
    }


def test_bad_files_are_quarantined_and_the_others_are_read(tmp_path):
    write_series(tmp_path, 5, number=3)
    truncated = tmp_path / "3-1.dcm"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    (tmp_path / "notes.txt").write_text("hello")
    coronal = write_slice(tmp_path / "cor.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, -1], SeriesInstanceUID="1.2.3")
    series = read_series(tmp_path)
    assert len(series.hu) == 4 and "gaps" in series.flags
    reasons = dict(series.quarantined)
    assert reasons[truncated].startswith("truncated")
    assert reasons[coronal].startswith("not an axial slice but coronal")
    assert reasons[tmp_path / "notes.txt"].startswith("not a DICOM file")


def test_a_file_with_undecodable_pixels_is_quarantined(tmp_path):
    write_series(tmp_path, 3, number=3, syntax="jpeg_ls")
    bad = tmp_path / "3-1.dcm"
    data = bytearray(bad.read_bytes())
    data[-200:-8] = b"\xff" * 192
    bad.write_bytes(data)
    series = read_series(tmp_path)
    assert [path for path, _ in series.quarantined] == [bad] and len(series.hu) == 2


def test_an_archive_is_read_in_place(tmp_path):
    folder = write_series(tmp_path / "export", 3, number=3)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, f"patient/{path.name}")
    from_zip, from_folder = read_series(tmp_path / "export.zip"), read_series(folder)
    np.testing.assert_array_equal(from_zip.hu, from_folder.hu)
    assert from_zip.sop_uids == from_folder.sop_uids


@pytest.mark.parametrize("name", ["nowhere", "file.zip", "empty"])
def test_a_source_without_slices_is_a_user_error(tmp_path, name):
    (tmp_path / "file.zip").write_bytes(b"no archive")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        read_series(tmp_path / name)


@pytest.mark.parametrize(
    "description", ["CTA CHEST W/WO", "CT ANGIO CHEST W WO CONTRAST", "CTPA with and without contrast"]
)
def test_a_description_of_both_phases_does_not_mean_unenhanced(tmp_path, description):
    write_series(tmp_path / "a", 90, number=1, description=description)
    write_series(tmp_path / "b", 95, number=2, description="chest W/O contrast")
    write_series(tmp_path / "c", 95, number=3, description="abdomen portal", ContrastBolusAgent="iodine")
    assert read_series(tmp_path).series_uid == "1.2.1"
