"""The pre-flight check: every fault of a contest tree, at once."""

import numpy as np
import pandas as pd
import pytest

from input.__main__ import check_command
from input.contest import NEGATIVE, SERIES, SOP, STUDY
from input.contest_tree import check_tree, read_tree, submission_ids
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


def test_a_faultless_tree_passes(tree, capsys):
    assert check_command(tree) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train.csv: 6 exams, 18 slices",
        "test.csv: 2 exams, 6 slices",
        f"{tree}: ready",
    ]


def test_truth_and_sample_submission_may_be_absent(tree):
    (tree / "sample_submission.csv").unlink()
    assert check_tree(tree)[1] == []


def test_uids_of_digits_alone_stay_text(tree):
    table = read_tree(tree).tables["test"]
    assert set(table[STUDY]) == {"000000b00000", "000001600000"}


def test_both_tables_missing_are_told_together(tmp_path):
    with pytest.raises(UserError) as caught:
        read_tree(tmp_path)
    assert "train.csv is missing" in str(caught.value) and "test.csv is missing" in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read_tree(tmp_path / "nowhere")


def test_header_faults_name_the_columns(tree):
    edit(tree / "train.csv", lambda table: table.drop(columns=[NEGATIVE]))
    assert f"train.csv: its header lacks the columns {NEGATIVE}; found {STUDY}" in faults_of(tree)


def test_columns_of_other_people_are_told_and_left_out(tree):
    edit(tree / "train.csv", lambda table: table.assign(weight_kg=80))
    found = read_tree(tree)
    assert "weight_kg" not in found.tables["train"]
    assert found.notes == ["train.csv: the columns weight_kg are not the contest's and are not used"]


def test_repeated_slices_are_told_with_their_line(tree):
    edit(tree / "train.csv", lambda table: pd.concat([table, table.iloc[[0]]]))
    assert f"train.csv: 1 repeated {SOP}, first line 20" in faults_of(tree)


def test_a_uid_that_would_leave_the_tree_is_refused(tree):
    edit(tree / "test.csv", lambda table: table.assign(**{SERIES: "../../etc"}))
    assert f"test.csv: 6 rows with an empty or impossible {SERIES}, first line 2" in faults_of(tree)


def test_labels_that_differ_within_an_exam_are_told(tree):
    def change(table):
        row = table.index[table[STUDY] == uid(0xA000)][1]
        table.loc[row, NEGATIVE] = "0"
        return table

    edit(tree / "train.csv", change)
    assert f"train.csv: {NEGATIVE} differs within 1 exams" in faults_of(tree)


def test_values_that_are_no_labels_are_told(tree):
    edit(tree / "train.csv", lambda table: table.assign(central_pe="maybe"))
    assert "train.csv: 18 values of central_pe are not 0 or 1, first line 2" in faults_of(tree)


def test_label_rules_are_checked(tree):
    edit(tree / "train.csv", lambda table: table.assign(indeterminate="1"))
    text = faults_of(tree)
    assert "train.csv: 3 exams break a label rule (an exam without a positive slice has exactly one" in text
    assert "train.csv: 3 exams break a label rule (an exam with a positive slice has negative_exam_for_pe" in text


def test_missing_and_surplus_files_are_counted(tree):
    next((tree / "train").rglob("*.dcm")).unlink()
    (tree / "test" / "stray.dcm").write_bytes(b"")
    text = faults_of(tree)
    assert "train/: 1 files of train.csv are missing (1 exams)" in text
    assert "test/: 1 files are in no row of test.csv (1 exams), e.g. test/stray.dcm" in text


def test_an_exam_in_both_splits_is_told(tree):
    edit(tree / "test.csv", lambda table: pd.concat([table, exam_rows(0xA000, 3)[table.columns]]))
    text = faults_of(tree)
    assert "1 exams are in both train.csv and test.csv" in text and "3 slices are in both" in text


def test_an_exam_of_two_series_is_told(tree):
    edit(tree / "test.csv", lambda table: table.assign(**{SERIES: [uid(n) for n in range(6)]}))
    assert "test.csv: 2 exams have slices of several series" in faults_of(tree)


def test_a_sample_submission_is_held_against_the_test_table(tree):
    def change(table):
        return pd.concat([table.iloc[1:], table.iloc[[3]], table.iloc[[5]].assign(id="x")])

    edit(tree / "sample_submission.csv", change)
    text = faults_of(tree)
    assert "sample_submission.csv: 1 ids are repeated" in text
    assert "sample_submission.csv: 1 ids that test.csv asks for are missing" in text
    assert "sample_submission.csv: 1 ids belong to no exam or slice of test.csv, e.g. x" in text


def test_all_faults_come_at_once_and_fail_the_command(tree, capsys):
    edit(tree / "train.csv", lambda table: pd.concat([table, table.iloc[[0]]]))
    edit(tree / "test.csv", lambda table: table.drop(columns=[SERIES]))
    assert check_command(tree) == 1
    printed = capsys.readouterr().out
    assert f"repeated {SOP}" in printed and f"lacks the columns {SERIES}" in printed and ": 2 faults" in printed


def test_submission_ids_are_nine_blocks_of_exams_then_the_slices():
    slices = pd.DataFrame({STUDY: ["bbb", "bbb", "aaa"], SOP: ["s2", "s1", "s3"]})
    ids = submission_ids(slices).tolist()
    assert ids[:3] == ["bbb_negative_exam_for_pe", "aaa_negative_exam_for_pe", "bbb_rv_lv_ratio_gte_1"]
    assert ids[-5:] == ["bbb_indeterminate", "aaa_indeterminate", "s2", "s1", "s3"] and len(ids) == 2 * 9 + 3


def test_the_public_test_has_152_703_rows():
    slices = pd.DataFrame({STUDY: np.arange(146_853) % 650, SOP: np.arange(146_853)})
    assert len(submission_ids(slices)) == 152_703


@pytest.mark.parametrize("content", ["", "\0\0\0", '"unclosed'])
def test_a_broken_csv_is_a_fault_and_no_crash(tree, content):
    (tree / "train.csv").write_text(content)
    assert "train.csv" in faults_of(tree)


def test_a_tree_one_folder_further_down_is_named(tree):
    assert f"train.csv lies in {tree}: give that folder" in faults_of(tree.parent)
