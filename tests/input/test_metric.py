"""The contest's metric against values computed by hand."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.contest import (
    CENTRAL,
    EXAM_LABELS,
    EXAM_WEIGHTS,
    GTE_1,
    IMAGE_WEIGHT,
    LEFT,
    NEGATIVE,
    SLICE_LABEL,
    SOP,
    STUDY,
)
from input.metric import bootstrap_totals, contest_score, contributions, score_of
from pipeline.errors import UserError


@pytest.fixture
def truth():
    """A positive exam of four slices, one of them with PE, and a negative exam of two."""
    exams = pd.DataFrame(0.0, index=range(2), columns=list(EXAM_LABELS))
    exams.loc[0, [GTE_1, LEFT]] = 1.0
    exams.loc[1, NEGATIVE] = 1.0
    exams.insert(0, STUDY, ["p", "n"])
    slices = pd.DataFrame(
        {STUDY: list("ppppnn"), SOP: [f"s{number}" for number in range(6)], SLICE_LABEL: [0, 1, 0, 0, 0, 0]}
    )
    return exams, slices


def constant(truth, value=0.5):
    exams, slices = truth
    return exams.assign(**dict.fromkeys(EXAM_LABELS, value)), slices[[SOP]].assign(label=value)


def test_the_weights_are_those_of_the_contest():
    assert EXAM_WEIGHTS[NEGATIVE] == 0.0736196319 and EXAM_WEIGHTS[CENTRAL] == 0.1877300613
    assert sum(EXAM_WEIGHTS.values()) == pytest.approx(1.0) and IMAGE_WEIGHT == 0.07361963


def test_constant_predictions_of_one_half_score_log_2(truth):
    score = contest_score(*truth, *constant(truth))
    for value in (score.total, score.image, score.exam, *score.labels.values()):
        assert value == pytest.approx(0.693147, abs=1e-6)


def test_the_score_of_two_exams_agrees_with_a_hand_computation(truth):
    exams, slices = constant(truth)
    exams[GTE_1] = [0.8, 0.1]
    exams[NEGATIVE] = [0.3, 0.9]
    slices["label"] = [0.2, 0.7, 0.1, 0.4, 0.9, 0.9]
    half = math.log(2)
    other_labels = 2 * (1 - 0.2346625767 - 0.0736196319) * half
    gte_1, negative = -math.log(0.8) - math.log(0.9), -math.log(0.7) - math.log(0.9)
    exam_loss = 0.2346625767 * gte_1 + 0.0736196319 * negative + other_labels
    image_loss = 0.25 * 0.07361963 * (-math.log(0.8) - math.log(0.7) - math.log(0.9) - math.log(0.6))
    score = contest_score(*truth, exams, slices)
    assert score.total == pytest.approx((exam_loss + image_loss) / (2 + 0.07361963), abs=1e-8)
    assert score.exam == pytest.approx(exam_loss / 2, abs=1e-8)
    assert score.image == pytest.approx(image_loss / 0.07361963, abs=1e-8)
    assert score.image_share == pytest.approx(0.07361963 / 2.07361963, abs=1e-8)
    assert score.labels[GTE_1] == pytest.approx((-math.log(0.8) - math.log(0.9)) / 2)


def test_slices_of_exams_without_pe_have_no_weight(truth):
    exams, slices = constant(truth)
    changed = slices.assign(label=[0.5, 0.5, 0.5, 0.5, 0.99, 0.01])
    assert contest_score(*truth, exams, changed) == contest_score(*truth, exams, slices)


def test_weights_are_matched_by_name_not_by_position(truth):
    exams, slices = constant(truth)
    exams[GTE_1] = 0.9
    reordered = exams[[STUDY, *reversed(EXAM_LABELS)]]
    assert contest_score(*truth, reordered, slices) == contest_score(*truth, exams, slices)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_rows_are_joined_by_uid(seed):
    exams, slices = random_truth(8, seed=seed)
    generator = np.random.default_rng(seed)
    predicted = exams.assign(**{label: generator.random(len(exams)) for label in EXAM_LABELS})
    probabilities = slices[[SOP]].assign(label=generator.random(len(slices)))
    expected = contest_score(exams, slices, predicted, probabilities)
    shuffled = contest_score(exams, slices, predicted.sample(frac=1), probabilities.sample(frac=1))
    assert shuffled == expected


def random_truth(count, seed=0, slices_per_exam=5):
    generator = np.random.default_rng(seed)
    exams = pd.DataFrame(generator.integers(0, 2, (count, 9)).astype(float), columns=list(EXAM_LABELS))
    exams.insert(0, STUDY, [f"{number:012x}" for number in range(count)])
    slices = pd.DataFrame({STUDY: np.repeat(exams[STUDY].to_numpy(), slices_per_exam)})
    slices[SOP] = [f"{number:012x}" for number in range(len(slices))]
    slices[SLICE_LABEL] = generator.integers(0, 2, len(slices))
    return exams, slices


def test_slices_are_weighted_by_the_proportion_of_positive_slices_of_their_exam():
    exams, slices = random_truth(20, seed=3)
    predicted, _ = constant((exams, slices))
    probability = np.random.default_rng(4).random(len(slices))
    losses = np.where(slices[SLICE_LABEL] == 1, -np.log(probability), -np.log(1 - probability))
    q = slices.groupby(STUDY)[SLICE_LABEL].transform("mean")
    parts = contributions(exams, slices, predicted, slices[[SOP]].assign(label=probability))
    assert parts["image_loss"].sum() == pytest.approx(0.07361963 * (q * losses).sum())
    assert parts["image_weight"].sum() == pytest.approx(0.07361963 * slices[SLICE_LABEL].sum())


def test_the_loss_of_a_wrong_certain_prediction_is_finite(truth):
    exams, slices = constant(truth, 0.0)
    assert 5 < contest_score(*truth, exams, slices).total < 35


def test_without_positive_slices_the_total_is_the_exam_part(truth):
    exams, slices = truth[0], truth[1].assign(**{SLICE_LABEL: 0})
    score = contest_score(exams, slices, *constant(truth))
    assert score.image_share == 0 and score.total == score.exam and math.isnan(score.image)


def test_scores_of_resampled_exams_are_sums_of_contributions():
    exams, slices = random_truth(40, seed=1)
    predicted, probabilities = constant((exams, slices), 0.3)
    parts = contributions(exams, slices, predicted, probabilities)
    doubled = score_of(pd.concat([parts, parts]))
    assert doubled.total == pytest.approx(score_of(parts).total)
    totals = bootstrap_totals(parts, 200, seed=5)
    assert totals.shape == (200,) and abs(totals.mean() - score_of(parts).total) < 3 * totals.std()
    np.testing.assert_array_equal(totals, bootstrap_totals(parts, 200, seed=5))


def test_all_faults_of_the_predictions_are_reported_together(truth):
    exams, slices = constant(truth)
    exams.loc[0, CENTRAL] = np.nan
    exams.loc[1, LEFT] = 1.2
    slices = pd.concat([slices.iloc[1:], slices.iloc[[2]]])
    with pytest.raises(UserError) as caught:
        contest_score(*truth, exams, slices)
    text = str(caught.value)
    assert "1 exam values of central_pe are not in [0, 1], e.g. nan" in text
    assert "1 exam values of leftsided_pe are not in [0, 1], e.g. 1.2" in text
    assert "1 duplicate slice keys in the predictions, e.g. s2" in text


def test_missing_predictions_are_counted(truth):
    exams, slices = constant(truth)
    with pytest.raises(UserError, match="2 slices have no prediction, e.g. s4"):
        contest_score(*truth, exams, slices.iloc[:4])
    with pytest.raises(UserError, match="the exam predictions are missing the columns central_pe"):
        contest_score(*truth, exams.drop(columns=[CENTRAL]), slices)


@pytest.mark.slow
def test_the_whole_contest_is_scored_within_seconds():
    exams, slices = random_truth(7279, slices_per_exam=246)
    predicted, probabilities = constant((exams, slices))
    probabilities = probabilities.sample(frac=1, random_state=0)
    start = time.process_time()
    assert contest_score(exams, slices, predicted, probabilities).total == pytest.approx(math.log(2))
    assert time.process_time() - start < 4  # about one second on a quiet core
