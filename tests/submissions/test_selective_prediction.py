"""Selective prediction: the limits keep their promise on new exams of the same kind."""

import numpy as np
import pytest
from scipy import stats

from submissions.selective_prediction import (
    DEFERRED,
    SENSITIVITY,
    apply_deferral,
    cross_fitted_result,
    fix_deferral,
    upper_bound,
)


def exams(count: int, seed: int, separation: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores in (0, 1) and truth of exams, half of them with PE."""
    generator = np.random.default_rng(seed)
    positive = generator.random(count) < 0.5
    return 1 / (1 + np.exp(-generator.normal(separation * (positive - 0.5), 1.0))), positive


def test_the_bound_is_clopper_pearson() -> None:
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(3, 100) == pytest.approx(stats.binomtest(3, 100).proportion_ci(0.9, "exact").high)
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1.0


def test_limits_keep_both_promises_on_the_exams_that_fixed_them() -> None:
    deferral = fix_deferral(*exams(240, seed=1))
    assert deferral is not None and deferral.low < deferral.high
    assert deferral.miss_bound <= 1 - SENSITIVITY and deferral.deferred_bound <= DEFERRED


@pytest.mark.slow
def test_promises_hold_on_new_exams_as_often_as_stated() -> None:
    """The true miss rate, measured on many exams, exceeds the promise in at most about 5 % of the repetitions."""
    scores, positive = exams(20_000, seed=0)
    broken = 0
    for seed in range(1, 101):
        deferral = fix_deferral(*exams(300, seed))
        assert deferral is not None
        result = apply_deferral(deferral, scores, positive)
        broken += result.sensitivity.value < SENSITIVITY
    assert broken <= 10


def test_too_few_exams_promise_nothing() -> None:
    assert fix_deferral(*exams(40, seed=1)) is None
    scores, positive = exams(60, seed=1)
    assert cross_fitted_result(scores, positive, np.arange(60) % 3) is None


def test_each_fold_is_judged_by_the_others() -> None:
    scores, positive = exams(600, seed=2)
    result = cross_fitted_result(scores, positive, np.arange(600) % 3)
    assert result is not None
    assert result.deferred.value < 0.2 and result.sensitivity.value > 0.93
    assert result.missed == round((1 - result.sensitivity.value) * (positive.sum() - _deferred(scores, positive)), 0)


def _deferred(scores: np.ndarray, positive: np.ndarray) -> int:
    count = 0
    for fold in range(3):
        held_out = np.arange(len(scores)) % 3 == fold
        deferral = fix_deferral(scores[~held_out], positive[~held_out])
        assert deferral is not None
        inside = (scores >= deferral.low) & (scores < deferral.high)
        count += int((inside & positive & held_out).sum())
    return count
