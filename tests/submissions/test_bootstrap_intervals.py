"""Bootstrap over exams, AUC, Wilson intervals, calibration and operating points against independent values."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from submissions.bootstrap_intervals import (
    RankedScores,
    interval,
    paired_difference,
    ratio_interval,
    resample_counts,
    wilson,
)
from submissions.calibration import calibration
from submissions.operating_points import cross_fitted, operating_point, threshold


def test_every_resample_has_as_many_exams_as_the_data() -> None:
    counts = resample_counts(7, 20, seed=1)
    assert counts.shape == (20, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == resample_counts(7, 20, seed=1)).all()
    assert (counts != resample_counts(7, 20, seed=2)).any()


def test_the_ratio_interval_contains_the_ratio_of_sums() -> None:
    numerator, denominator = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 4.0, 4.0])
    ratio = ratio_interval(numerator, denominator, resample_counts(4, 500, seed=0))
    assert ratio.value == pytest.approx(1.0)
    assert 0.5 <= ratio.low < 1.0 < ratio.high <= 1.5


def test_bootstrap_standard_error_agrees_with_theory() -> None:
    values = np.random.default_rng(3).normal(size=400)
    mean = ratio_interval(values, np.ones(400), resample_counts(400, 2000, seed=0))
    assert (mean.high - mean.low) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_paired_difference_is_narrower_than_the_two_intervals() -> None:
    generator = np.random.default_rng(5)
    first = generator.exponential(size=200)
    second = first + 0.05 + 0.01 * generator.normal(size=200)
    counts = resample_counts(200, 500, seed=0)
    difference = paired_difference(first, second, np.ones(200), counts)
    assert difference.value == pytest.approx((first - second).mean())
    assert difference.high < 0
    alone = ratio_interval(first, np.ones(200), counts)
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)


def test_an_undefined_figure_has_an_undefined_interval() -> None:
    undefined = interval(float("nan"), np.array([np.nan, np.nan]))
    assert np.isnan(undefined.low)
    assert str(undefined) == "-"


def test_auc_equals_that_of_scikit_learn_with_ties_and_exam_counts() -> None:
    generator = np.random.default_rng(8)
    scores, labels = generator.integers(0, 6, 60) / 5, generator.integers(0, 2, 60)
    exams = np.repeat(np.arange(6), 10)
    ranked = RankedScores(scores, labels, exams)
    assert ranked.auc() == pytest.approx(roc_auc_score(labels, scores))
    counts = np.array([2, 0, 1, 3, 0, 0])
    rows = np.repeat(np.arange(60), counts[exams])
    assert ranked.auc(counts) == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


def test_auc_of_one_class_is_undefined() -> None:
    assert np.isnan(RankedScores(np.array([0.1, 0.2]), np.array([1, 1]), np.array([0, 1])).auc())
    assert np.isnan(RankedScores(np.array([]), np.array([]), np.array([], int)).auc())


def test_wilson_agrees_with_the_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81/263 and 0/20.
    large = wilson(81, 263)
    assert (large.low, large.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    zero = wilson(0, 20)
    assert (zero.low, zero.high) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert np.isnan(wilson(0, 0).value)


def test_calibrated_probabilities_have_an_ece_like_their_null() -> None:
    generator = np.random.default_rng(11)
    p = generator.random(2000)
    y = generator.random(2000) < p
    good = calibration(p, y)
    assert good.ece < good.null_high
    assert good.brier == pytest.approx(np.mean((p - y) ** 2))
    assert good.counts.sum() == 2000
    bad = calibration(np.clip(p + 0.2, 0, 1), y)
    assert bad.ece > 2 * bad.null_high


def test_ece_of_a_hand_computed_case() -> None:
    check = calibration(np.array([0.2, 0.2, 0.8, 0.8]), np.array([0, 1, 1, 1]), bins=2)
    assert check.observed.tolist() == [0.5, 1.0]
    assert check.ece == pytest.approx(0.25)


def test_the_threshold_has_a_sensitivity_of_nine_tenths() -> None:
    scores, positive = np.arange(20) / 20, np.arange(20) >= 10
    assert threshold(scores, positive) == 11 / 20
    assert np.isnan(threshold(scores, np.zeros(20, bool)))


def test_each_fold_is_evaluated_at_the_threshold_of_the_others() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.2])
    positive, folds = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    # Fold 1's threshold is 0.9 (its positive at 0.5 is missed), fold 0's is 0.5.
    point = cross_fitted(scores, positive, folds)
    assert (point.sensitivity.value, point.specificity.value) == (0.5, 1.0)
    counts = (point.true_positives, point.false_negatives, point.false_positives, point.true_negatives)
    assert counts == (1, 1, 0, 2)


def test_predictive_values_are_for_the_stated_prevalence() -> None:
    positive = np.repeat([True, False], 10)
    called = np.r_[np.arange(10) < 9, np.arange(10) < 2]
    point = operating_point(called, positive)
    assert point.ppv == pytest.approx(0.9 * 0.15 / (0.9 * 0.15 + 0.2 * 0.85))
    assert point.npv == pytest.approx(0.8 * 0.85 / (0.8 * 0.85 + 0.1 * 0.15))
