"""Selective prediction: exams with an uncertain score are deferred to a reader; sensitivity is promised for the rest.

Scores below `low` are called negative, scores from `high` on positive; those in between are deferred. Both limits are
fixed on out-of-fold exams by fixed-sequence testing: `low` rises from the lowest score of an exam with PE upwards, as
long as the one-sided Clopper-Pearson bound on the miss rate among answered exams with PE stays below the promise
(Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052). `high` is the highest at which the same bound on the
deferred share keeps its limit.
"""

import dataclasses

import numpy as np
from scipy import stats

from submissions.bootstrap_intervals import Interval, wilson

#: Promised sensitivity among the answered exams, largest deferred share, and the confidence of both.
SENSITIVITY, DEFERRED, CONFIDENCE = 0.95, 0.15, 0.95


@dataclasses.dataclass(frozen=True)
class Deferral:
    """Scores in [low, high) are deferred.

    Attributes:
        low, high: limits of the score.
        missed, answered: exams with PE below `low`, and those not deferred, among the exams that fixed the limits.
        miss_bound, deferred_bound: upper bounds of both rates at CONFIDENCE.
    """

    low: float
    high: float
    missed: int
    answered: int
    miss_bound: float
    deferred_bound: float


@dataclasses.dataclass(frozen=True)
class SelectiveResult:
    """The result of a deferral on exams that did not fix it; rates with Wilson intervals."""

    deferred: Interval
    sensitivity: Interval
    specificity: Interval
    missed: int


def upper_bound(events: int, trials: int) -> float:
    """One-sided Clopper-Pearson upper bound of a rate at CONFIDENCE; 1 without trials."""
    if events >= trials:
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, events + 1, trials - events))


def fix_deferral(scores: np.ndarray, positive: np.ndarray) -> Deferral | None:
    """Fix the limits; None where there are too few exams for the promise.

    Args:
        scores: (exams,) out-of-fold P(PE).
        positive: (exams,) booleans, exams with PE.
    """
    ascending = np.sort(scores)
    counts = np.arange(len(scores) + 1)
    may_defer = [count for count in counts if upper_bound(int(count), len(scores)) <= DEFERRED]
    if not may_defer:
        return None
    fixed = None
    for missed, low in enumerate(np.sort(scores[positive])):
        last = np.searchsorted(ascending, low) + may_defer[-1]
        high = float(ascending[last]) if last < len(ascending) else float("inf")
        is_deferred = (scores >= low) & (scores < high)
        answered = int((positive & ~is_deferred).sum())
        miss_bound = upper_bound(missed, answered)
        if miss_bound > 1 - SENSITIVITY:
            return fixed
        deferred_bound = upper_bound(int(is_deferred.sum()), len(scores))
        fixed = Deferral(float(low), high, missed, answered, miss_bound, deferred_bound)
    return fixed


def apply_deferral(deferral: Deferral, scores: np.ndarray, positive: np.ndarray) -> SelectiveResult:
    """Evaluate a deferral on exams that did not fix it.

    Args:
        deferral: from `fix_deferral`.
        scores: (exams,) P(PE).
        positive: (exams,) booleans, exams with PE.
    """
    is_deferred = (scores >= deferral.low) & (scores < deferral.high)
    called = scores >= deferral.high
    answered_positive, answered_negative = positive & ~is_deferred, ~positive & ~is_deferred
    missed = int((answered_positive & ~called).sum())
    return SelectiveResult(
        deferred=wilson(int(is_deferred.sum()), len(scores)),
        sensitivity=wilson(int(answered_positive.sum()) - missed, int(answered_positive.sum())),
        specificity=wilson(int((answered_negative & ~called).sum()), int(answered_negative.sum())),
        missed=missed,
    )


def cross_fitted_result(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> SelectiveResult | None:
    """Evaluate each fold with the limits that the other folds fix, all folds together; None where one cannot.

    Args:
        scores: (exams,) out-of-fold P(PE).
        positive: (exams,) booleans, exams with PE.
        folds: (exams,) fold of each exam.
    """
    relative = np.empty(len(scores))  # 0 called negative, 1 deferred, 2 called positive
    for fold in np.unique(folds):
        held_out = folds == fold
        deferral = fix_deferral(scores[~held_out], positive[~held_out])
        if deferral is None:
            return None
        relative[held_out] = np.digitize(scores[held_out], (deferral.low, deferral.high))
    return apply_deferral(Deferral(1.0, 2.0, 0, 0, 0.0, 0.0), relative, positive)
