"""The score of a file: its parts, its intervals, and what cannot be scored."""

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
from submissions.leaderboard import COLUMNS, LATER, append, read_leaderboard
from submissions.score import Truth, describe, differences, pe_score, read_truth, score, score_file
from tests.support.submission_cases import draw_labels, predict

LABELS = draw_labels(60, seed=3)
TRUTH = Truth(LABELS.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]], LABELS[[STUDY, SOP, SLICE_LABEL]])


def test_all_one_half_gives_log_two(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    pd.DataFrame({"id": submission_ids(LABELS), "label": 0.5}).to_csv(tmp_path / "a.csv", index=False)
    found = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    assert found.total.value == pytest.approx(np.log(2))
    assert found.total.low == pytest.approx(np.log(2)) == found.total.high
    assert found.slice_auc.value == 0.5


def test_the_parts_agree_with_the_metric_and_the_aucs_with_scikit_learn() -> None:
    exams, slices = predict(LABELS, 1.0, seed=4)
    found = score(TRUTH, exams.sample(frac=1, random_state=0), slices, counts=resample_counts(60, 200, seed=0))
    whole = contest_score(TRUTH.exams, TRUTH.slices, exams, slices)
    assert found.total.value == pytest.approx(whole.total)
    parts = found.image_share * found.image_part + (1 - found.image_share) * found.exam_part
    assert parts == pytest.approx(whole.total)
    assert found.total.low < found.total.value < found.total.high
    joined = LABELS.merge(slices, on=SOP)
    with_pe = joined[joined.groupby("StudyInstanceUID_x")[SLICE_LABEL].transform("max") == 1]
    assert found.slice_auc.value == pytest.approx(roc_auc_score(with_pe[SLICE_LABEL], with_pe["label"]))
    truth = LABELS.groupby(STUDY)[SLICE_LABEL].max().reindex(exams[STUDY])
    assert found.exam_auc.value == pytest.approx(roc_auc_score(truth, pe_score(exams)))
    assert found.positive_exams == 20


def test_the_score_of_a_file_is_that_of_its_predictions(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    exams, slices = predict(LABELS, 1.0, seed=4)
    write_submission(tmp_path / "a.csv", exams, slices, layout_of(LABELS))
    found = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    assert found.total.value == pytest.approx(score(TRUTH, exams, slices).total.value, abs=1e-5)


def test_a_truth_of_some_exams_scores_those(tmp_path: Path) -> None:
    some = LABELS[LABELS[STUDY] < f"{20:012x}"]
    some.to_csv(tmp_path / "truth.csv", index=False)
    write_submission(tmp_path / "a.csv", *predict(LABELS, 1.0, seed=4), layout_of(LABELS))
    assert score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20).exams == 20


def test_without_positive_exams_parts_are_undefined_and_nothing_crashes() -> None:
    none = LABELS[LABELS.groupby(STUDY)[SLICE_LABEL].transform("max") == 0]
    truth = Truth(none.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]], none[[STUDY, SOP, SLICE_LABEL]])
    found = score(truth, *predict(none, 1.0, seed=4), counts=resample_counts(len(truth.exams), 20, seed=0))
    assert np.isnan(found.image_part) and np.isnan(found.slice_auc.value) and np.isnan(found.exam_auc.low)
    assert "metric" in describe(found)


def test_every_reason_against_scoring_is_listed(tmp_path: Path) -> None:
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


def test_rows_that_the_truth_does_not_speak_of_may_be_there_twice_or_be_no_number(tmp_path: Path) -> None:
    LABELS.to_csv(tmp_path / "truth.csv", index=False)
    write_submission(tmp_path / "a.csv", *predict(LABELS, 1.0, seed=4), layout_of(LABELS))
    plain = score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("stranger,0.1\nstranger,0.2\nother,x\n")
    assert score_file(tmp_path / "a.csv", tmp_path / "truth.csv", bootstrap=20).total == plain.total


@pytest.mark.parametrize("data", [b"", b'id,label\n"a,0.5\n', "StudyInstanceUID\nM\u00fcller".encode("latin-1")])
def test_a_truth_that_is_no_table_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "truth.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"truth\.csv: not a CSV table .*the columns of train\.csv"):
        read_truth(tmp_path / "truth.csv")


def test_a_truth_without_rows_or_without_a_uid_is_refused(tmp_path: Path) -> None:
    LABELS.iloc[:0].to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match="no row"):
        read_truth(tmp_path / "truth.csv")
    LABELS.assign(**{STUDY: LABELS[STUDY].where(LABELS.index != 4)}).to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match="1 rows without StudyInstanceUID or SOPInstanceUID, first line 6"):
        read_truth(tmp_path / "truth.csv")


def test_an_unusable_truth_is_refused(tmp_path: Path) -> None:
    bad = LABELS.copy()
    bad.loc[0, SLICE_LABEL] = 2
    bad.loc[0, "central_pe"] = 1 - bad.loc[0, "central_pe"]
    bad.to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError) as fault:
        read_truth(tmp_path / "truth.csv")
    assert "pe_present_on_image: values other than 0 and 1" in str(fault.value)
    assert "exam labels vary within exam" in str(fault.value)
    LABELS.drop(columns="central_pe").to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(UserError, match="columns missing: central_pe"):
        read_truth(tmp_path / "truth.csv")


def test_parts_and_aucs_have_intervals_and_paired_differences() -> None:
    counts = resample_counts(60, 300, seed=0)
    weak, strong = (score(TRUTH, *predict(LABELS, strength, seed=4), counts=counts) for strength in (0.5, 1.5))
    for each in (weak.exam_interval, weak.image_interval, weak.slice_auc, weak.exam_auc):
        assert each.low < each.value < each.high
    assert (weak.exam_interval.value, weak.image_interval.value) == pytest.approx((weak.exam_part, weak.image_part))
    found = differences(strong, weak, counts)
    assert list(found) == ["metric", "exam part", "image part", "slice AUC", "exam AUC"]
    assert found["image part"].value == pytest.approx(strong.image_part - weak.image_part)
    assert found["slice AUC"].value == pytest.approx(strong.slice_auc.value - weak.slice_auc.value)
    assert found["metric"].high < 0 and found["image part"].high < 0 and found["slice AUC"].low > 0
    alone = weak.slice_auc.high - weak.slice_auc.low + strong.slice_auc.high - strong.slice_auc.low
    assert found["slice AUC"].high - found["slice AUC"].low < alone


def test_a_leaderboard_of_before_is_read_with_empty_new_columns(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 0.5) | {"run": "r", "candidate": "old", "promoted": True}
    pd.DataFrame([row]).to_csv(tmp_path / "leaderboard.csv", index=False)
    rows = read_leaderboard(tmp_path / "leaderboard.csv")
    assert rows.loc[0, "cv"] == 0.5 and rows[list(LATER)].isna().all(axis=None)
    append(tmp_path / "leaderboard.csv", [row | {"candidate": "new", "cv_exam_low": 0.25}])
    rows = read_leaderboard(tmp_path / "leaderboard.csv")
    assert rows["candidate"].tolist() == ["old", "new"] and rows["cv_exam_low"].iloc[1] == 0.25
