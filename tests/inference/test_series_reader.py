"""Unlabelled input: JPEG-256 folders, archives, nested exports, duplicate and broken files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.store import open_exam
from inference.series_reader import Study, read_studies
from inference.study_text import describe_missing_parts, describe_other_series
from input.contest import SOP
from input.jpeg256 import window_channels
from input.safe_decoding import Outcome
from pipeline.errors import UserError
from pipeline.settings import FeaturesSettings
from tests.support.dicom_files import body_hu, write_slice
from tests.support.synthetic_thorax import make_thorax


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Decode in this process: the process pool has its own tests, and starting it takes seconds."""
    monkeypatch.setattr(
        "inference.series_reader.decode_exams", lambda jobs, run: (Outcome(job, run(job, {})) for job in jobs)
    )


def read(source: Path, store: Path) -> list[Study]:
    store.mkdir()
    return read_studies(source, store, FeaturesSettings())


def write_jpegs(folder: Path, count: int, last: int = 0xFFF) -> Path:
    """Write a JPEG-256 series whose SOPInstanceUIDs decrease with the rank, starting at `last`."""
    folder.mkdir(parents=True)
    for rank in range(count):
        buffer = io.BytesIO()
        Image.fromarray(window_channels(body_hu(256) + 3 * rank)).save(buffer, "JPEG", quality=95)
        (folder / f"{rank:04d}_{last - rank:012x}.jpg").write_bytes(buffer.getvalue())
    return folder


def write_series(folder: Path, number: int, description: str, **tags: object) -> None:
    for index in range(22):
        write_slice(
            folder / f"{number:011d}{index:x}.dcm" if index < 16 else folder / f"{number + 100:011d}{index - 16:x}.dcm",
            z=5.0 * index, SeriesInstanceUID=f"1.2.{number}", SeriesDescription=description, **tags,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["series", "nested", "zip"])
def test_the_jpeg_derivative_is_read_from_a_folder_an_export_and_an_archive(tmp_path, kind):
    export = tmp_path / "export"
    series = write_jpegs(export / "patients" / "0123456789ab" / "ba9876543210", 3)
    write_jpegs(export / "patients" / "1123456789ab" / "ba9876543211", 2, last=0xEFF)
    (series / "0003_000000000bad.jpg").write_bytes((series / "0002_000000000ffd.jpg").read_bytes()[:400])
    (series / "0004_000000000bbb.jpg").write_bytes(b"no image")
    source = {"series": series, "nested": export, "zip": tmp_path / "export.zip"}[kind]
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for file in sorted(export.rglob("*.jpg")):
                archive.write(file, file.relative_to(tmp_path))
    studies = read(source, tmp_path / "store")
    assert [study.study_uid for study in studies] == ["0123456789ab", "1123456789ab"][: 1 if kind == "series" else 2]
    first = studies[0]
    assert first.slices[SOP].tolist() == ["000000000fff", "000000000ffe", "000000000ffd"]
    assert first.slices["z_mm"].tolist() == [0, 1, 2] and first.flags == ("jpeg256",)
    assert {path.name for path, _ in first.quarantined} == {"0003_000000000bad.jpg", "0004_000000000bbb.jpg"}
    stored = open_exam(tmp_path / "store", first.name)
    assert not stored.has_spacing and np.median(stored.hu[1]) == pytest.approx(46, abs=15)


def test_dicom_and_jpeg_studies_of_one_folder_are_all_read(tmp_path):
    write_jpegs(tmp_path / "in" / "0123456789ab" / "ba9876543210", 2)
    write_slice(tmp_path / "in" / "a00000000001.dcm")
    assert [study.study_uid for study in read(tmp_path / "in", tmp_path / "store")] == ["1.2.3", "0123456789ab"]


def test_a_second_file_of_a_slice_is_left_out_in_either_format(tmp_path, capsys):
    write_jpegs(tmp_path / "in" / "0123456789ab" / "ba9876543210", 2)
    write_jpegs(tmp_path / "in" / "copy" / "0123456789ab" / "ba9876543210", 3)
    write_slice(tmp_path / "in" / "a.dcm", SOPInstanceUID="000000000ffe")
    studies = read(tmp_path / "in", tmp_path / "store")
    assert [study.slices[SOP].tolist() for study in studies] == [["000000000ffe"], ["000000000fff"], ["000000000ffd"]]
    assert "  3 files: same SOPInstanceUID as " in capsys.readouterr().out


@pytest.mark.parametrize("syntax", ["explicit", "jpeg_ls"])
def test_a_truncated_file_is_named_and_the_other_files_are_read(tmp_path, capsys, syntax):
    for index in range(3):
        write_slice(tmp_path / "in" / f"a0000000000{index}.dcm", z=5.0 * index, syntax=syntax)
    cut = tmp_path / "in" / "a00000000001.dcm"
    cut.write_bytes(cut.read_bytes()[:-200])
    (study,) = read(tmp_path / "in", tmp_path / "store")
    assert study.slices[SOP].tolist() == ["a00000000000", "a00000000002"]
    reported = capsys.readouterr().out + "".join(f"{path}: {reason}" for path, reason in study.quarantined)
    assert f"{cut}: truncated: " in reported


def test_the_angiographic_series_of_a_nested_export_is_stored_and_the_other_has_a_reason(tmp_path):
    write_series(tmp_path / "in" / "DICOM" / "S1", 1, "Thorax nativ", ContrastBolusAgent=None)
    write_series(tmp_path / "in" / "DICOM" / "S2" / "deeper", 2, "CTPA 5.0")
    (study,) = read(tmp_path / "in", tmp_path / "store")
    assert study.series_uid == "1.2.2" and "best of 2 series" in study.selection_reason
    assert [(other.series_uid, other.slices) for other in study.other_series] == [("1.2.1", 22)]
    assert study.other_series[0].reason == "less angiographic according to its description and contrast agent"


def test_the_enhanced_series_is_chosen_whatever_the_descriptions_say(tmp_path):
    """An unenhanced thin series called CTPA beside an angiography without a description."""
    thorax = make_thorax(60, side=96, pixel_mm=4.0)
    plain = np.where((thorax > 150) & (thorax < 500), 45, thorax).astype(np.int16)
    for number, (hu, description) in enumerate(((plain, "CTPA 0.6"), (thorax, "")), start=1):
        for index, plane in enumerate(hu):
            write_slice(
                tmp_path / "in" / f"{number}-{index}.dcm", plane, z=(4.0 - number) * index, PixelSpacing=[4, 4],
                SeriesInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.2.{number}.{index}",
                SeriesDescription=description, InstanceNumber=index, SliceThickness=4 - number,
            )  # fmt: skip
    (study,) = read(tmp_path / "in", tmp_path / "store")
    assert study.series_uid == "1.2.2"
    assert study.other_series[0].reason.startswith("pulmonary arteries less enhanced, ")


def test_many_series_with_the_same_reason_share_a_line(tmp_path):
    for number in range(44):
        write_slice(
            tmp_path / "in" / f"{number}.dcm", z=float(number % 2), SOPInstanceUID=f"1.3.{number}",
            SeriesInstanceUID=f"1.2.{number:02d}",
        )  # fmt: skip
    (study,) = read(tmp_path / "in", tmp_path / "store")
    (line,) = describe_other_series(study)
    assert line.startswith("43 other series (CTPA 1.25, 43 slices), e.g. 1.2.01: equal in every criterion")


def test_a_missing_part_is_located_in_the_lungs(tmp_path):
    thorax = make_thorax(44, side=96, pixel_mm=4.0)
    for index in [*range(16), *range(30, 44)]:
        write_slice(
            tmp_path / "in" / f"{index}.dcm", thorax[index], z=5.0 * index, PixelSpacing=[4, 4], SliceThickness=5,
            SOPInstanceUID=f"1.3.{index}", InstanceNumber=index,
        )  # fmt: skip
    (study,) = read(tmp_path / "in", tmp_path / "store")
    assert study.flags == ("gaps",)
    assert describe_missing_parts(study) == [
        "missing: 75 mm between z 75.0 and 150.0 mm, in the middle third of the lungs"
    ]


def test_studies_left_out_for_the_same_reason_share_a_line(tmp_path, capsys):
    write_slice(tmp_path / "in" / "good" / "s.dcm")
    for number in range(5):
        tags = {"StudyInstanceUID": f"1.5.{number}", "SOPInstanceUID": f"1.6.{number}"}
        path = write_slice(tmp_path / "in" / f"{number}" / "s.dcm", syntax="jpeg_ls", **tags)
        data = bytearray(path.read_bytes())
        data[-200:-8] = b"\xff" * 192
        path.write_bytes(data)
    assert [study.study_uid for study in read(tmp_path / "in", tmp_path / "store")] == ["1.2.3"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert line.startswith("left out: 5 studies: no slice can be decoded: - ") and line.count("e.g.") == 1


def test_faults_shared_by_many_files_are_one_line_and_printed_once(tmp_path, capsys):
    for index in range(44):
        path = write_slice(tmp_path / "in" / f"{index:02d}.dcm", SOPInstanceUID=f"1.3.{index}", BitsAllocated=8)
    with pytest.raises(UserError) as fault:
        read(path.parent, tmp_path / "store")
    lines = str(fault.value).splitlines()
    assert lines[1:] == [f"  - 44 files: BitsAllocated is 8, not 16, e.g. {path.parent / '00.dcm'}"]
    assert capsys.readouterr().out == ""
