"""All faults of a submission are reported at once, by name and with an example id."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ensemble.decode import decode
from input.contest import SOP, STUDY
from submissions.check_submission import check_file
from submissions.kaggle_csv import layout_of, write_submission
from tests.support.submission_cases import predict, random_labels, write_tree

LABELS = random_labels(12, seed=1)
LAYOUT = layout_of(LABELS)


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    write_submission(path, *decode(*predict(LABELS, 3.0, seed=2)), LAYOUT)
    return path


def faults_after(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> list[str]:
    rows = pd.read_csv(path, dtype=str)
    change(rows).to_csv(path, index=False)
    return [str(fault) for fault in check_file(path, LAYOUT)]


def with_label(row: int, text: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[row, "label"] = text
        return rows

    return change


def test_a_decoded_submission_passes(submission: Path) -> None:
    assert check_file(submission, LAYOUT) == []


def test_any_order_of_rows_is_valid(submission: Path) -> None:
    assert faults_after(submission, lambda rows: rows.sample(frac=1, random_state=0)) == []


def test_a_missing_id_is_reported(submission: Path) -> None:
    assert faults_after(submission, lambda rows: rows.drop(5)) == [f"missing id: {LAYOUT.ids[5]}"]


def test_an_unknown_id_is_reported(submission: Path) -> None:
    unknown = pd.DataFrame({"id": ["ffff_central_pe"], "label": ["0.1"]})
    assert faults_after(submission, lambda rows: pd.concat([rows, unknown])) == ["unknown id: ffff_central_pe"]


def test_a_duplicate_is_reported(submission: Path) -> None:
    assert faults_after(submission, lambda rows: pd.concat([rows, rows.iloc[[7]]])) == [
        f"duplicate id: {LAYOUT.ids[7]}"
    ]


@pytest.mark.parametrize("text", ["", "NaN", "null"])
def test_nan_is_reported(submission: Path, text: str) -> None:
    assert faults_after(submission, with_label(3, text)) == [f"NaN or empty label: {LAYOUT.ids[3]}: {text!r}"]


@pytest.mark.parametrize("text", ["1.2", "-0.1", "inf", "1.0000001"])
def test_a_probability_out_of_range_is_reported(submission: Path, text: str) -> None:
    assert faults_after(submission, with_label(4, text)) == [f"probability outside [0, 1]: {LAYOUT.ids[4]}: {text!r}"]


@pytest.mark.parametrize("text", ["high", "0,5", "True", "0x1", "1_0"])
def test_a_label_that_is_not_a_number_is_reported(submission: Path, text: str) -> None:
    assert faults_after(submission, with_label(4, text)) == [f"label is not a number: {LAYOUT.ids[4]}: {text!r}"]


def test_a_wrong_header_is_reported(submission: Path) -> None:
    faults = faults_after(submission, lambda rows: rows.rename(columns={"label": "prediction"}))
    assert faults == ["wrong header: expected 'id,label', got 'id,prediction'"]


def test_a_third_column_is_a_wrong_header(submission: Path) -> None:
    assert faults_after(submission, lambda rows: rows.assign(note="x")) == [
        "wrong header: expected 'id,label', got 'id,label,note'"
    ]


def test_a_rule_violation_is_reported_with_its_exam(submission: Path) -> None:
    study = LABELS[STUDY].iloc[0]

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[rows["id"].isin([f"{study}_negative_exam_for_pe", f"{study}_indeterminate"]), "label"] = "0.9"
        rows.loc[rows["id"].isin(LABELS.loc[LABELS[STUDY] == study, SOP]), "label"] = "0.1"
        rows.loc[rows["id"].str.startswith(study) & (rows["label"].astype(float) > 0.5), "label"] = "0.9"
        return rows

    faults = faults_after(submission, change)
    assert any(fault.startswith("rule violation negative_or_indeterminate") and study in fault for fault in faults)


def test_all_faults_are_reported_at_once(submission: Path) -> None:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[:3, "label"] = ["nan", "1.2", "x", "7"]
        rows = pd.concat([rows.drop(20), rows.iloc[[30]]])
        return rows.rename(columns={"id": "ID"})

    names = [fault.split(":")[0] for fault in faults_after(submission, change)]
    assert names == [
        "wrong header",
        "missing id",
        "duplicate id",
        "NaN or empty label",
        "label is not a number",
        "probability outside [0, 1]",
    ]


@pytest.mark.parametrize("text", ["", "id,label\na,b,c,d\n"])
def test_a_file_that_is_not_a_table_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert [fault.name for fault in check_file(tmp_path / "a.csv", LAYOUT)] == ["unreadable file"]


def test_in_a_file_without_rows_every_id_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,label\n")
    faults = check_file(tmp_path / "a.csv", LAYOUT)
    assert [(fault.name, fault.count) for fault in faults] == [("missing id", len(LAYOUT.ids))]


def test_the_command_fails_only_for_a_faulty_file(submission: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", LABELS, LABELS)
    command = [
        sys.executable,
        "-m",
        "submissions",
        "check-submission",
        str(submission),
        "--data",
        str(tmp_path / "tree"),
    ]
    good = subprocess.run(command, capture_output=True, text=True)
    assert good.returncode == 0 and "valid (180 rows, 12 exams, 72 slices, no rule violation)" in good.stdout
    faults_after(submission, with_label(4, "1.2"))
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1 and "probability outside [0, 1]" in bad.stdout
