"""The score of a submission: its parts and intervals, and files that cannot be scored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from input.contest_tree import submission_ids
from input.metric import contest_score
from pipeline.errors import UserError
from submissions.bootstrap_intervals import resample_counts
from submissions.kaggle_csv import layout_of, write_submission
from submissions.leaderboard import COLUMNS, FORMER_NAMES, LATER, append, read_leaderboard
from submissions.score import Truth, describe, differences, pe_score, read_truth, score, score_file
from tests.support.submission_cases import predict, random_labels

LABELS = random_labels(60, seed=3)
TRUTH = Truth(LABELS.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]], LABELS[[STUDY, SOP, SLICE_LABEL]])


def test_all_one_half_gives_log_two(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    pd.DataFrame({"id": submission_ids(LABELS), "label": 0.5}).to_csv(tmp_path / "a.csv", index=False)
    result = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    assert result.total.value == pytest.approx(np.log(2))
    assert result.total.low == pytest.approx(np.log(2)) == result.total.high
    assert result.slice_auc.value == 0.5


def test_the_parts_agree_with_the_metric_and_the_aucs_with_scikit_learn() -> None:
    exams, slices = predict(LABELS, 1.0, seed=4)
    result = score(TRUTH, exams.sample(frac=1, random_state=0), slices, counts=resample_counts(60, 200, seed=0))
    whole = contest_score(TRUTH.exams, TRUTH.slices, exams, slices)
    assert result.total.value == pytest.approx(whole.total)
    parts = result.image_share * result.image_part + (1 - result.image_share) * result.exam_part
    assert parts == pytest.approx(whole.total)
    assert result.total.low < result.total.value < result.total.high
    joined = LABELS.merge(slices, on=SOP)
    with_pe = joined[joined.groupby("StudyInstanceUID_x")[SLICE_LABEL].transform("max") == 1]
    assert result.slice_auc.value == pytest.approx(roc_auc_score(with_pe[SLICE_LABEL], with_pe["label"]))
    truth = LABELS.groupby(STUDY)[SLICE_LABEL].max().reindex(exams[STUDY])
    assert result.exam_auc.value == pytest.approx(roc_auc_score(truth, pe_score(exams)))
    assert result.positive_exams == 20


def test_the_score_of_a_file_is_that_of_its_predictions(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    exams, slices = predict(LABELS, 1.0, seed=4)
    write_submission(tmp_path / "a.csv", exams, slices, layout_of(LABELS))
    result = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    assert result.total.value == pytest.approx(score(TRUTH, exams, slices).total.value, abs=1e-5)


def test_only_the_exams_of_the_truth_are_scored(tmp_path: Path) -> None:
    subset = LABELS[LABELS[STUDY] < f"{20:012x}"]
    subset.to_csv(tmp_path / "truth.csv", index=False)
    write_submission(tmp_path / "a.csv", *predict(LABELS, 1.0, seed=4), layout_of(LABELS))
    assert score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20).exams == 20


def test_without_positive_exams_the_image_part_and_the_aucs_are_undefined() -> None:
    negative = LABELS[LABELS.groupby(STUDY)[SLICE_LABEL].transform("max") == 0]
    truth = Truth(negative.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]], negative[[STUDY, SOP, SLICE_LABEL]])
    result = score(truth, *predict(negative, 1.0, seed=4), counts=resample_counts(len(truth.exams), 20, seed=0))
    assert np.isnan(result.image_part) and np.isnan(result.slice_auc.value) and np.isnan(result.exam_auc.low)
    assert "metric" in describe(result)


def test_all_faults_of_an_unscorable_submission_are_listed(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    ids = list(submission_ids(LABELS))
    rows = pd.DataFrame({"id": [*ids[1:], ids[5]], "label": "0.5"})
    rows.loc[10, "label"] = "1.2"
    rows.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError) as fault:
        score_file(tmp_path / "a.csv", tmp_path / "truth.csv")
    text = str(fault.value)
    assert f"1 ids missing, e.g. {ids[0]}" in text
    assert f"1 ids given twice, e.g. {ids[5]}" in text
    assert f"1 ids without a probability in [0, 1], e.g. {ids[11]}" in text


def test_rows_outside_the_truth_may_be_repeated_or_invalid(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    write_submission(tmp_path / "a.csv", *predict(LABELS, 1.0, seed=4), layout_of(LABELS))
    plain = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("unknown,0.1\nunknown,0.2\nother,x\n")
    assert score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20).total == plain.total


@pytest.mark.parametrize("data", [b"", b'id,label\n"a,0.5\n', "StudyInstanceUID\nM\u00fcller".encode("latin-1")])
def test_a_truth_that_is_not_a_table_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "truth.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"Not a CSV table: .*truth\.csv.*the columns of train\.csv"):
        read_truth(tmp_path / "truth.csv")


def test_a_truth_without_rows_or_without_a_uid_is_an_error(tmp_path: Path) -> None:
    LABELS.iloc[:0].to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match="no rows"):
        read_truth(tmp_path / "truth.csv")
    LABELS.assign(**{STUDY: LABELS[STUDY].where(LABELS.index != 4)}).to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match="1 rows without StudyInstanceUID or SOPInstanceUID, first in line 6"):
        read_truth(tmp_path / "truth.csv")


def test_all_faults_of_an_unusable_truth_are_listed(tmp_path: Path) -> None:
    bad = LABELS.copy()
    bad.loc[0, SLICE_LABEL] = 2
    bad.loc[0, "central_pe"] = 1 - bad.loc[0, "central_pe"]
    bad.to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError) as fault:
        read_truth(tmp_path / "truth.csv")
    assert "pe_present_on_image: values other than 0 and 1" in str(fault.value)
    assert "exam labels vary within exam" in str(fault.value)
    LABELS.drop(columns="central_pe").to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match=r"Columns missing: .*: central_pe"):
        read_truth(tmp_path / "truth.csv")


def test_parts_and_aucs_have_intervals_and_paired_differences() -> None:
    counts = resample_counts(60, 300, seed=0)
    weak, strong = (score(TRUTH, *predict(LABELS, strength, seed=4), counts=counts) for strength in (0.5, 1.5))
    for interval in (weak.exam_interval, weak.image_interval, weak.slice_auc, weak.exam_auc):
        assert interval.low < interval.value < interval.high
    assert (weak.exam_interval.value, weak.image_interval.value) == pytest.approx((weak.exam_part, weak.image_part))
    result = differences(strong, weak, counts)
    assert list(result) == ["metric", "exam part", "image part", "slice AUC", "exam AUC"]
    assert result["image part"].value == pytest.approx(strong.image_part - weak.image_part)
    assert result["slice AUC"].value == pytest.approx(strong.slice_auc.value - weak.slice_auc.value)
    assert result["metric"].high < 0 and result["image part"].high < 0 and result["slice AUC"].low > 0
    alone = weak.slice_auc.high - weak.slice_auc.low + strong.slice_auc.high - strong.slice_auc.low
    assert result["slice AUC"].high - result["slice AUC"].low < alone


def test_an_older_leaderboard_is_read_with_renamed_and_with_empty_columns(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 0.5) | {"run": "r", "candidate": "old", "promoted": True, "decoding_cost": 0.25}
    former_name_of = {name: former_name for former_name, name in FORMER_NAMES.items()}
    old = pd.DataFrame([row]).rename(columns=former_name_of)
    old.to_csv(tmp_path / "leaderboard.csv", index=False)
    rows = read_leaderboard(tmp_path / "leaderboard.csv")
    assert rows.loc[0, "cv"] == 0.5 and rows.loc[0, "decoding_cost"] == 0.25 and rows[list(LATER)].isna().all(axis=None)
    append(tmp_path / "leaderboard.csv", [row | {"candidate": "new", "cv_exam_low": 0.25}])
    rows = read_leaderboard(tmp_path / "leaderboard.csv")
    assert rows["candidate"].tolist() == ["old", "new"] and rows["cv_exam_low"].iloc[1] == 0.25
