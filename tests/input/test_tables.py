"""The tables of input/prepared: slice order, geometry, quarantine, folds, report."""

import json

import numpy as np
import pandas as pd
import pytest

from input.contest import EXAM_LABELS, ID_COLUMNS, LT_1, SERIES, SLICE_LABEL, SOP, STUDY
from input.tables import EXAM_COLUMNS, SLICE_COLUMNS, load_exams, load_slices, prepare
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import InputSettings, Settings
from tests.support.dicom_files import uid, write_slice, write_tree


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "work"))
    return write_tree(tmp_path / "contest")


def prepared(tree, **options):
    prepare(Settings(input=InputSettings(data=str(tree))), **options)
    return load_exams(), load_slices()


def report():
    return json.loads((paths.prepared() / "report.json").read_text())


def files_of(tree, number, split="train"):
    return sorted((tree / split / uid(number)).rglob("*.dcm"))


def test_every_row_of_the_contest_is_in_the_tables(tree):
    exams, slices = prepared(tree)
    assert tuple(exams.columns) == EXAM_COLUMNS and tuple(slices.columns) == SLICE_COLUMNS
    expected = pd.concat(pd.read_csv(tree / f"{split}.csv", dtype=str)[list(ID_COLUMNS)] for split in ("train", "test"))
    assert set(slices[SOP]) == set(expected[SOP]) and len(exams) == 8
    assert (tree / slices["path"].iloc[0]).is_file()


def test_positions_rank_the_slices_from_the_feet_to_the_head(tree):
    _, slices = prepared(tree)
    for _, exam in slices.groupby(STUDY):
        ordered = exam.sort_values("position")
        assert ordered["position"].tolist() == [0, 1, 2]
        assert ordered["z_mm"].tolist() == [0, 1.25, 2.5]
        assert ordered[SOP].tolist() == sorted(exam[SOP])


def test_labels_are_joined_by_uid_and_missing_for_test_exams(tree):
    exams, slices = prepared(tree)
    truth = pd.read_csv(tree / "train.csv", dtype=dict.fromkeys(ID_COLUMNS, str)).set_index(SOP)
    train = slices[slices["split"] == "train"].set_index(SOP)
    assert (train[SLICE_LABEL] == truth[SLICE_LABEL].reindex(train.index)).all()
    test = exams[exams["split"] == "test"]
    assert test[[*EXAM_LABELS, "q"]].isna().all(axis=None) and (test["fold"] == -1).all()
    second = exams.set_index(STUDY).loc[uid(0x14000)]
    assert second["rv_lv_ratio_gte_1"] == 1 and second[LT_1] == 0 and second["q"] == pytest.approx(1 / 3)


def test_folds_split_exams_evenly(tree):
    exams, _ = prepared(tree)
    assert exams.loc[exams["split"] == "train", "fold"].value_counts().to_dict() == {0: 2, 1: 2, 2: 2}


def test_geometry_is_measured(tree):
    exams, _ = prepared(tree)
    assert exams[["n_slices", "n_readable"]].to_numpy().tolist() == [[3, 3]] * 8
    assert (exams["slice_step_mm"] == 1.25).all() and (exams["spacing_y_mm"] == 0.7).all()


def test_unreadable_files_are_quarantined_and_keep_their_rows(tree):
    missing, truncated, incomplete = files_of(tree, 0xA000)
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:-9])
    write_slice(incomplete, RescaleIntercept=None)
    exams, slices = prepared(tree)
    exam = slices[slices[STUDY] == uid(0xA000)].set_index(SOP)
    assert exam.loc[missing.stem, "quarantine"] == "file missing"
    assert exam.loc[truncated.stem, "quarantine"].startswith("truncated")
    assert exam.loc[incomplete.stem, "quarantine"] == "missing from the header: RescaleIntercept"
    assert (exam["position"] == -1).all() and exam["z_mm"].isna().all()
    row = exams.set_index(STUDY).loc[uid(0xA000)]
    assert row["n_readable"] == 0 and np.isnan(row["spacing_y_mm"]) and row["fold"] >= 0
    assert report()["quarantined"] == 3 and report()["unreadable_exams"] == [uid(0xA000)]
    assert report()["quarantine_reasons"]["truncated: pixel data ends at byte #, the file at #"] == 1


def test_slices_are_ranked_without_the_unreadable_ones(tree):
    first, second, third = files_of(tree, 0xA000)
    second.write_bytes(b"")
    _, slices = prepared(tree)
    position = slices.set_index(SOP)["position"]
    assert (position[first.stem], position[second.stem], position[third.stem]) == (0, -1, 1)


def test_all_slices_of_an_exam_of_unknown_order_are_quarantined(tree):
    for path in files_of(tree, 0xA000):
        write_slice(path, z=3.0)
    exams, slices = prepared(tree)
    reasons = slices.loc[slices[STUDY] == uid(0xA000), "quarantine"]
    assert set(reasons) == {"geometry lost: all 3 slices are at z = 3 mm"}
    assert exams.set_index(STUDY).loc[uid(0xA000), "n_readable"] == 0


def test_irregularities_of_an_exam_are_flagged(tree):
    rotated = {"PatientPosition": "FFP", "ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}
    for z, path in enumerate(files_of(tree, 0xB00000, "test")):
        write_slice(path, z=z, InstanceNumber=1, **rotated)
    exams, _ = prepared(tree)
    flags = set(exams.set_index(STUDY).loc[uid(0xB00000), "flags"].split(";"))
    assert flags == {
        "feet_first", "prone", "not_display_orientation", "instance_order_differs", "study_uid_differs",
        "series_uid_differs",
    }  # fmt: skip
    assert report()["flags"]["prone"] == 1


def test_transfer_syntaxes_are_counted(tree):
    write_slice(files_of(tree, 0xA000)[0], syntax="implicit")
    write_slice(files_of(tree, 0xA000)[1], z=1.25, syntax="jpeg_lossless")
    prepared(tree)
    names = report()["transfer_syntaxes"]
    assert names["Explicit VR Little Endian"] == 22 and names["Implicit VR Little Endian"] == 1 and len(names) == 3


def test_current_tables_are_not_rebuilt(tree, capsys):
    prepared(tree)
    before = (paths.prepared() / "slices.parquet").stat().st_mtime_ns
    prepared(tree)
    assert "up to date" in capsys.readouterr().out
    assert (paths.prepared() / "slices.parquet").stat().st_mtime_ns == before


def test_a_changed_csv_rebuilds_the_tables(tree, capsys):
    prepared(tree)
    text = (tree / "train.csv").read_text().splitlines()
    (tree / "train.csv").write_text("\n".join([text[0], *text[:0:-1]]))
    prepared(tree)
    assert "its input train.csv changed" in capsys.readouterr().out


def test_the_same_tree_gives_the_same_bytes(tree):
    prepared(tree)
    names = ("exams.parquet", "slices.parquet", "report.json")
    first = [(paths.prepared() / name).read_bytes() for name in names]
    prepared(tree, force=True)
    assert first == [(paths.prepared() / name).read_bytes() for name in names]


def test_a_tree_with_faults_is_refused(tree):
    (tree / "test.csv").unlink()
    with pytest.raises(UserError, match="test.csv is missing"):
        prepared(tree)


def test_several_series_of_one_exam_are_refused(tree):
    table = pd.read_csv(tree / "test.csv", dtype=str)
    table[SERIES] = [uid(number) for number in range(6)]
    table.to_csv(tree / "test.csv", index=False)
    with pytest.raises(UserError, match="several series"):
        prepared(tree)


def test_fold_groups_are_used_and_are_an_input_of_the_artifact(tree, capsys):
    exams, _ = prepared(tree)
    train = exams.loc[exams["split"] == "train", STUDY].tolist()
    table = pd.DataFrame({STUDY: train[:4], "group": ["a", "a", "b", "b"]})
    table.to_csv(tree / "fold_groups.csv", index=False)
    grouped, _ = prepared(tree)
    fold = grouped.set_index(STUDY)["fold"]
    assert fold[train[0]] == fold[train[1]] and fold[train[2]] == fold[train[3]]
    assert capsys.readouterr().out.count("input/prepared: building") == 2


def test_all_faults_of_fold_groups_are_reported(tree):
    study = uid(0x10000)
    (tree / "fold_groups.csv").write_text(f"{STUDY},group\n{study},a\n{study},b\nother,\n")
    with pytest.raises(
        UserError, match=r"(?s)1 rows with empty cells, first in line 4.*1 rows with a duplicate .*line 3"
    ):
        prepared(tree)


def test_the_same_tables_with_another_first_image_are_another_artifact(tree, capsys):
    prepared(tree)
    first = min((tree / "train").rglob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    prepared(tree)
    assert capsys.readouterr().out.count("input/prepared: building") == 2
