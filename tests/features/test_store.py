"""The pixel store: lossless, complete or absent, one chunk per plane."""

import numpy as np
import pytest

from features.lung_box import Box
from features.store import array_path, is_stored, open_exam, sidecar_path, stored_studies, write_exam
from pipeline.errors import UserError
from pipeline.files import sha256, write_json

BOX = Box(y0=2, y1=22, x0=4, x1=34, z0=0, z1=3, middle_x=16.0, found=True)


def write(directory, hu, study="a1", **changes):
    facts = {
        "z_mm": np.arange(len(hu)) * 1.25, "spacing_mm": (1.5, 1.5), "raw_spacing_mm": (0.75, 0.75),
        "sop_uids": tuple(f"s{index}" for index in range(len(hu))), "box": BOX, "quarantine": {"s9": "truncated"},
    }  # fmt: skip
    write_exam(directory, study, "series", hu, **(facts | changes))
    return open_exam(directory, study)


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 3072, (3, 10, 15)).astype(np.int16)


def test_pixels_are_read_back_exactly(tmp_path, hu):
    exam = write(tmp_path, hu)
    np.testing.assert_array_equal(exam.hu[:], hu)
    np.testing.assert_array_equal(exam.hu[1], hu[1])
    np.testing.assert_array_equal(exam.hu[0:2], hu[0:2])


def test_facts_are_read_back_exactly(tmp_path, hu):
    exam = write(tmp_path, hu)
    assert len(exam) == 3
    assert exam.sop_uids == ("s0", "s1", "s2")
    assert exam.z_mm.tolist() == [0, 1.25, 2.5]
    assert exam.spacing_mm == (1.5, 1.5)
    assert exam.box == BOX
    assert exam.sidecar["quarantine"] == {"s9": "truncated"}


def test_the_midline_is_in_stored_columns(tmp_path, hu):
    # The box's centre is raw column 19, the midline is 3 raw pixels of 0.75 mm to its left: 1.5 stored pixels.
    assert write(tmp_path, hu).middle_column == pytest.approx(7.5 - 1.5)


def test_a_chunk_is_one_plane(tmp_path, hu):
    assert write(tmp_path, hu).hu.chunks == (1, 10, 15)


def test_the_same_exam_gives_the_same_bytes(tmp_path, hu):
    write(tmp_path / "one", hu)
    write(tmp_path / "two", hu)
    assert array_path(tmp_path / "one", "a1").read_bytes() == array_path(tmp_path / "two", "a1").read_bytes()
    assert sidecar_path(tmp_path / "one", "a1").read_bytes() == sidecar_path(tmp_path / "two", "a1").read_bytes()


def test_an_exam_without_its_sidecar_is_not_in_the_store(tmp_path, hu):
    write(tmp_path, hu)
    sidecar_path(tmp_path, "a1").unlink()
    assert not is_stored(tmp_path, "a1")
    assert stored_studies(tmp_path) == []
    with pytest.raises(UserError, match="not in the store"):
        open_exam(tmp_path, "a1")


@pytest.mark.parametrize("suffix", [".b2nd", ".json"])
def test_a_file_that_is_gone_from_a_finished_store_is_an_error(tmp_path, hu, suffix):
    for study in ("a1", "b2"):
        write(tmp_path, hu, study)
    write_json(tmp_path / "manifest.json", {"files": {file.name: sha256(file) for file in tmp_path.iterdir()}})
    assert stored_studies(tmp_path) == ["a1", "b2"] and not is_stored(tmp_path, "c3")
    (tmp_path / f"b2{suffix}").unlink()
    for look in (lambda: stored_studies(tmp_path), lambda: is_stored(tmp_path, "b2")):
        with pytest.raises(UserError, match=rf"b2\{suffix}: missing\nRebuild it: \./run\.sh --name"):
            look()


@pytest.mark.parametrize("suffix", [".b2nd", ".json"])
def test_a_changed_file_of_a_finished_store_is_an_error(tmp_path, hu, suffix):
    write(tmp_path, hu)
    write_json(tmp_path / "manifest.json", {"files": {file.name: sha256(file) for file in tmp_path.iterdir()}})
    open_exam(tmp_path, "a1")
    path = tmp_path / f"a1{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(UserError, match=rf"a1\{suffix}: changed since it was written .*\nRebuild it: rm -f .*a1"):
        open_exam(tmp_path, "a1")
    path.write_bytes(data)
    np.testing.assert_array_equal(open_exam(tmp_path, "a1").hu[:], hu)


def test_a_truncated_array_of_an_unfinished_store_is_an_error(tmp_path, hu):
    write(tmp_path, hu)
    array_path(tmp_path, "a1").write_bytes(array_path(tmp_path, "a1").read_bytes()[:20])
    with pytest.raises(UserError, match=r"Unreadable array: .*a1\.b2nd \(.*\)\. Remove it: rm "):
        open_exam(tmp_path, "a1")


def test_an_exam_whose_rewriting_failed_is_not_in_the_store(tmp_path, hu, monkeypatch):
    write(tmp_path, hu)

    def fail_as_full_disk(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("features.store.write_bytes", fail_as_full_disk)
    with pytest.raises(UserError, match="No space"):
        write(tmp_path, hu[:2])
    assert not is_stored(tmp_path, "a1")


def test_a_sidecar_of_another_shape_is_an_error(tmp_path, hu):
    write(tmp_path, hu)
    array = array_path(tmp_path, "a1").read_bytes()
    write(tmp_path, hu[:2])
    array_path(tmp_path, "a1").write_bytes(array)
    with pytest.raises(UserError, match=r"Expected shape \[2, 10, 15\]"):
        open_exam(tmp_path, "a1")


@pytest.mark.parametrize("change", [{"sop_uids": ("s0",)}, {"z_mm": np.zeros(2)}])
def test_planes_without_uid_or_position_are_rejected(tmp_path, hu, change):
    with pytest.raises(ValueError, match="one position and one UID per plane"):
        write(tmp_path, hu, **change)
    assert stored_studies(tmp_path) == []
