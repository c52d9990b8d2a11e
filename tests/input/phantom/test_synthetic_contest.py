"""The synthetic contest tree: files, tables, orientation, resuming and reproducibility."""

from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import UID

from input.contest import EXAM_LABELS, ID_COLUMNS, NEGATIVE, SLICE_LABEL, SOP, STUDY, TRAIN_COLUMNS
from input.dicom import read_series
from input.phantom import dicom_writer
from input.phantom import synthetic_contest as contest
from input.phantom.dicom_quirks import POSITIONS, PRONE_POSITIONS, SYNTAXES, Quirks
from input.phantom.dicom_writer import stored_values, write_exam
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.exam_generator import SyntheticExam, generate_exam
from input.phantom.example_page import write_example_page
from input.phantom.labels import ExamState
from input.phantom.synthetic_contest import generate_contest, plan_contest, read_masks
from pipeline.errors import UserError
from pipeline.settings import PhantomSettings

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

TINY = PhantomSettings(name="t", seed=6, train_exams=4, test_exams=2, difficulty="easy", rows=96, slices=14)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "tree"
    generate_contest(TINY, folder, force=False, workers=1)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json")
    return {f.relative_to(folder).as_posix(): sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_tables_have_the_contests_columns_and_cover_every_file(tree: Path) -> None:
    train, test = pd.read_csv(tree / "train.csv", dtype={SOP: str}), pd.read_csv(tree / "test.csv", dtype={SOP: str})
    assert tuple(train.columns) == TRAIN_COLUMNS
    assert tuple(test.columns) == ID_COLUMNS
    assert train[STUDY].nunique() == 4
    for split, table in (("train", train), ("test", test)):
        paths = {f"{split}/{a}/{b}/{c}.dcm" for a, b, c in table[list(ID_COLUMNS)].itertuples(index=False)}
        assert paths == {p.relative_to(tree).as_posix() for p in (tree / split).rglob("*.dcm")}
    assert all(len(uid) == 12 and int(uid, 16) >= 0 for uid in train[SOP])


def test_rows_are_shuffled_and_exam_labels_repeat(tree: Path) -> None:
    train = pd.read_csv(tree / "train.csv")
    assert (train[STUDY] != train[STUDY].shift()).sum() > 20
    assert (train.groupby(STUDY)[list(EXAM_LABELS)].nunique() == 1).all().all()
    positive = train.groupby(STUDY)[SLICE_LABEL].max()
    negative = train.groupby(STUDY)[NEGATIVE].first()
    assert (positive + negative <= 1).all()


def test_the_sample_submission_lists_exam_blocks_then_slices(tree: Path) -> None:
    sample = pd.read_csv(tree / "sample_submission.csv")
    test = pd.read_csv(tree / "test.csv")
    studies = list(dict.fromkeys(test[STUDY]))
    expected = [f"{study}_{label}" for label in EXAM_LABELS for study in studies] + test[SOP].tolist()
    assert sample["id"].tolist() == expected
    assert set(sample["label"]) == {0.5}


def test_the_truth_of_the_test_exams_is_separate(tree: Path) -> None:
    truth = pd.read_csv(tree / "truth" / "test_truth.csv")
    assert tuple(truth.columns) == TRAIN_COLUMNS
    assert set(truth[SOP]) == set(pd.read_csv(tree / "test.csv")[SOP])
    exams = pd.read_csv(tree / "truth" / "exams.csv").set_index(STUDY)
    measured = exams["rv_mm"] / exams["lv_mm"]
    assert (measured[exams["rv_lv_ratio_gte_1"] == 1] >= 1).all()
    assert (measured[exams["rv_lv_ratio_lt_1"] == 1] < 1).all()
    for study, q in exams["q"].items():
        clot, artery = read_masks(tree, str(study))
        assert clot.shape == artery.shape
        assert bool(clot.any()) == (q > 0)


def test_files_are_readable_and_ordered(tree: Path) -> None:
    for _, split, study, _ in plan_contest(TINY):
        folder = next((tree / split / study).iterdir())
        series = read_series(folder)
        assert not series.quarantined
        assert np.all(np.diff(series.z_mm) > 0)
        assert series.study_uid == study


def test_the_same_settings_give_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    generate_contest(TINY, tmp_path / "again", force=False, workers=1)
    assert digests(tmp_path / "again") == digests(tree)


def test_a_killed_run_repeats_only_the_unfinished_exam(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    real = contest.write_masks
    written: list[str] = []

    def killed_at_the_third(path: Path, exam: object) -> None:
        written.append(path.stem)
        if len(written) == 3:
            raise Killed
        real(path, exam)

    monkeypatch.setattr(contest, "write_masks", killed_at_the_third)
    with pytest.raises(Killed):
        generate_contest(TINY, tmp_path / "tree", force=False, workers=1)
    assert not (tmp_path / "tree" / "manifest.json").exists()
    generate_contest(TINY, tmp_path / "tree", force=False, workers=1)
    assert len(written) == 3 + 4
    assert written[2] == written[3]
    assert digests(tmp_path / "tree") == digests(tree)


def test_a_finished_contest_is_skipped(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tree / "manifest.json").stat().st_mtime_ns
    generate_contest(TINY, tree, force=False, workers=1)
    assert "up to date" in capsys.readouterr().out
    assert (tree / "manifest.json").stat().st_mtime_ns == before


def test_all_invalid_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)rows.*positive_share"):
        generate_contest(PhantomSettings(rows=8, positive_share=2.0), tmp_path / "tree", force=False)
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("name", ["", "..", "/somewhere", "../victim", "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match=r"phantom\.name: expected letters"):
        generate_contest(PhantomSettings(name=name), tmp_path, force=False)
    assert (tmp_path / "precious.txt").is_file()


def test_the_page_shows_three_windows(tree: Path, tmp_path: Path) -> None:
    from PIL import Image

    write_example_page(tree, tmp_path / "page.png", slices=4)
    with Image.open(tmp_path / "page.png") as page:
        assert page.size == (4 * 96, 2 * 3 * 96)
        colours = np.asarray(page.convert("RGB")).reshape(-1, 3)
    assert (colours == (255, 160, 0)).all(axis=1).any(), "positive slices are framed"


POSITION_ROWS = [*POSITIONS, *PRONE_POSITIONS]


@pytest.mark.parametrize(("position", "row_sign", "column_sign", "_share"), POSITION_ROWS)
def test_left_stays_left_in_every_orientation(
    position: str, row_sign: int, column_sign: int, _share: float, tmp_path: Path
) -> None:
    exam = small_exam()
    quirks = Quirks(SYNTAXES[0][0], True, 1.0, -1024.0, None, position, row_sign, column_sign, True, 1)
    sops = [f"{i:012x}" for i in range(len(exam.hu))]
    write_exam(exam, quirks, tmp_path, study="0" * 12, series="1" * 12, sops=sops)
    series = read_series(tmp_path)
    assert list(series.sop_uids) == sops
    assert np.array_equal(series.hu, exam.hu)
    assert np.allclose(series.z_mm, exam.grid.z, atol=1e-3)


@pytest.mark.parametrize("syntax", [syntax for syntax, _ in SYNTAXES])
@pytest.mark.parametrize(("signed", "intercept"), [(True, -1024.0), (False, -1024.0), (True, 0.0)])
def test_every_pixel_encoding_decodes_to_the_same_hu(
    syntax: str, signed: bool, intercept: float, tmp_path: Path
) -> None:
    exam = small_exam()
    quirks = Quirks(syntax, signed, 1.0, intercept, -2000, "HFS", 1, 1, False, 1)
    sops = [f"{i:012x}" for i in range(len(exam.hu))]
    write_exam(exam, quirks, tmp_path, study="0" * 12, series="1" * 12, sops=sops)
    series = read_series(tmp_path)
    inside = (
        np.hypot(exam.grid.x - exam.grid.x.mean(), (exam.grid.y - exam.grid.y.mean())[:, None]) < exam.fov_mm / 2 - 1
    )
    assert np.array_equal(series.hu[:, inside], exam.hu[:, inside])
    assert series.hu[:, 0, 0].max() == -1024
    assert stored_values(exam, quirks)[0, 0, 0] == max(-2000 - intercept, -32768 if signed else 0)
    with pydicom.config.disable_value_validation():
        assert pydicom.dcmread(tmp_path / f"{sops[0]}.dcm").file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", [syntax for syntax, _ in SYNTAXES])
def test_files_are_those_that_pydicom_would_write(syntax: str, tmp_path: Path) -> None:
    exam = small_exam()
    quirks = Quirks(syntax, True, 1.0, -1024.0, -2000, "HFS", 1, 1, True, 1)
    sops = [f"{i:012x}" for i in range(len(exam.hu))]
    write_exam(exam, quirks, tmp_path, study="0" * 12, series="1" * 12, sops=sops)
    stored = stored_values(exam, quirks)
    for i, sop in enumerate(sops):
        expected, plain = dicom_writer._header(exam, quirks, "0" * 12, "1" * 12), BytesIO()
        with pydicom.config.disable_value_validation():
            expected.SeriesDescription, expected.InstanceNumber = "PE CHEST (PHANTOM)", len(sops) - i
            expected.SOPInstanceUID, expected.SliceLocation = UID(sop), round(float(exam.grid.z[i]), 4)
            corner = dicom_writer._corner(exam, quirks)
            expected.ImagePositionPatient = [*(round(value, 4) for value in corner), expected.SliceLocation]
            dicom_writer._set_pixels(expected, stored[i], quirks)
            expected.save_as(plain, enforce_file_format=True)
        assert (tmp_path / f"{sop}.dcm").read_bytes() == plain.getvalue()


@cache
def small_exam() -> SyntheticExam:
    return generate_exam(
        ExamState(frozenset({NEGATIVE}), -1), DIFFICULTIES["easy"], seed=1, index=1, rows=80, slices=12
    )


@pytest.mark.parametrize(("rows", "slices", "thinnest", "thickest"), [(512, 20, 8, 18), (96, 246, 0.6, 1.4)])
def test_full_resolution_and_thin_slices_are_generated(
    rows: int, slices: int, thinnest: float, thickest: float
) -> None:
    state = ExamState(frozenset({"rv_lv_ratio_lt_1", "rightsided_pe"}), 1)
    exam = generate_exam(state, DIFFICULTIES["contest"], seed=1, index=1, rows=rows, slices=slices)
    assert exam.hu.shape[1:] == (rows, rows)
    assert thinnest < exam.grid.step < thickest
    assert exam.labels == state.labels
