"""Reading and checking a contest tree: all faults are reported together."""

import numpy as np
import pandas as pd
import pytest

from input.__main__ import check_data_command
from input.check_data import check_tree
from input.contest import NEGATIVE, SERIES, SOP, STUDY
from input.contest_tree import read_tree, submission_ids
from pipeline.errors import UserError
from tests.support.dicom_files import exam_rows, uid, write_tree


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "contest")


def edit(path, change):
    table = pd.read_csv(path, dtype=str)
    change(table).to_csv(path, index=False)


def faults_of(tree) -> str:
    return "\n".join(check_tree(tree)[1])


def test_a_valid_tree_passes(tree, capsys):
    assert check_data_command(tree, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train.csv: 6 exams, 18 slices",
        "test.csv: 2 exams, 6 slices",
        f"{tree}: ready",
    ]


def test_a_linked_study_folder_is_part_of_the_tree(tree, tmp_path):
    study = next((tree / "train").iterdir())
    study.rename(tmp_path / "elsewhere")
    study.symlink_to(tmp_path / "elsewhere")
    assert check_tree(tree)[1] == []


def test_the_sample_submission_is_optional(tree):
    (tree / "sample_submission.csv").unlink()
    assert check_tree(tree)[1] == []


def test_uids_of_digits_only_are_read_as_text(tree):
    table = read_tree(tree).tables["test"]
    assert set(table[STUDY]) == {"000000b00000", "000001600000"}


def test_missing_tables_are_reported_together(tmp_path):
    with pytest.raises(UserError) as caught:
        read_tree(tmp_path)
    assert "train.csv is missing" in str(caught.value) and "test.csv is missing" in str(caught.value)


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read_tree(tmp_path / "nowhere")


def test_missing_columns_are_reported(tree):
    edit(tree / "train.csv", lambda table: table.drop(columns=[NEGATIVE]))
    assert f"train.csv: missing columns {NEGATIVE}; got {STUDY}" in faults_of(tree)


def test_additional_columns_are_noted_and_ignored(tree):
    edit(tree / "train.csv", lambda table: table.assign(weight_kg=80))
    contest_tree = read_tree(tree)
    assert "weight_kg" not in contest_tree.tables["train"]
    assert contest_tree.notes == ["train.csv: ignoring the columns weight_kg, which are not the contest's"]


def test_duplicate_slices_are_reported_with_their_line(tree):
    edit(tree / "train.csv", lambda table: pd.concat([table, table.iloc[[0]]]))
    assert f"train.csv: 1 duplicate {SOP}, first in line 20" in faults_of(tree)


def test_a_uid_that_points_outside_the_tree_is_refused(tree):
    edit(tree / "test.csv", lambda table: table.assign(**{SERIES: "../../etc"}))
    assert f"test.csv: 6 rows with an empty or invalid {SERIES}, first in line 2" in faults_of(tree)


def test_labels_that_differ_within_an_exam_are_reported(tree):
    def change(table):
        row = table.index[table[STUDY] == uid(0xA000)][1]
        table.loc[row, NEGATIVE] = "0"
        return table

    edit(tree / "train.csv", change)
    assert f"train.csv: {NEGATIVE} differs within 1 exams" in faults_of(tree)


def test_values_other_than_0_and_1_are_reported(tree):
    edit(tree / "train.csv", lambda table: table.assign(central_pe="maybe"))
    assert "train.csv: 18 values of central_pe are not 0 or 1, first in line 2" in faults_of(tree)


def test_label_rules_are_checked(tree):
    edit(tree / "train.csv", lambda table: table.assign(indeterminate="1"))
    text = faults_of(tree)
    assert "train.csv: 3 exams break a label rule (an exam without a positive slice has exactly one" in text
    assert "train.csv: 3 exams break a label rule (an exam with a positive slice has negative_exam_for_pe" in text


def test_missing_and_additional_files_are_counted(tree):
    next((tree / "train").rglob("*.dcm")).unlink()
    (tree / "test" / "stray.dcm").write_bytes(b"")
    text = faults_of(tree)
    assert "train/: 1 files of train.csv are missing (1 exams)" in text
    assert "test/: 1 files are not in test.csv (1 exams), e.g. test/stray.dcm" in text


def test_an_exam_in_both_splits_is_reported(tree):
    edit(tree / "test.csv", lambda table: pd.concat([table, exam_rows(0xA000, 3)[table.columns]]))
    text = faults_of(tree)
    assert "1 exams are in both train.csv and test.csv" in text and "3 slices are in both" in text


def test_an_exam_with_several_series_is_reported(tree):
    edit(tree / "test.csv", lambda table: table.assign(**{SERIES: [uid(n) for n in range(6)]}))
    assert "test.csv: 2 exams have slices of several series" in faults_of(tree)


def test_the_sample_submission_is_compared_with_the_test_table(tree):
    def change(table):
        return pd.concat([table.iloc[1:], table.iloc[[3]], table.iloc[[5]].assign(id="x")])

    edit(tree / "sample_submission.csv", change)
    text = faults_of(tree)
    assert "sample_submission.csv: 1 ids are duplicates" in text
    assert "sample_submission.csv: 1 ids required by test.csv are missing" in text
    assert "sample_submission.csv: 1 ids belong to no exam or slice of test.csv, e.g. x" in text


def test_all_faults_are_listed_and_fail_the_command(tree, capsys):
    edit(tree / "train.csv", lambda table: pd.concat([table, table.iloc[[0]]]))
    edit(tree / "test.csv", lambda table: table.drop(columns=[SERIES]))
    assert check_data_command(tree, as_json=False) == 1
    printed = capsys.readouterr().out
    assert f"duplicate {SOP}" in printed and f"missing columns {SERIES}" in printed and ": 2 faults" in printed


def test_submission_ids_are_nine_blocks_of_exams_then_the_slices():
    slices = pd.DataFrame({STUDY: ["bbb", "bbb", "aaa"], SOP: ["s2", "s1", "s3"]})
    ids = submission_ids(slices).tolist()
    assert ids[:3] == ["bbb_negative_exam_for_pe", "aaa_negative_exam_for_pe", "bbb_rv_lv_ratio_gte_1"]
    assert ids[-5:] == ["bbb_indeterminate", "aaa_indeterminate", "s2", "s1", "s3"] and len(ids) == 2 * 9 + 3


def test_the_public_test_has_152_703_rows():
    slices = pd.DataFrame({STUDY: np.arange(146_853) % 650, SOP: np.arange(146_853)})
    assert len(submission_ids(slices)) == 152_703


@pytest.mark.parametrize("content", ["", "\0\0\0", '"unclosed'])
def test_a_damaged_csv_is_a_fault_not_a_crash(tree, content):
    (tree / "train.csv").write_text(content)
    assert "train.csv" in faults_of(tree)


def test_a_tree_in_a_sub_folder_is_suggested(tree):
    assert f"train.csv is in {tree}; use that folder" in faults_of(tree.parent)
