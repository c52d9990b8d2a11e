"""Sensitivity and specificity for PE at an operating point that other exams fixed."""

import dataclasses

import numpy as np

from submissions.bootstrap_intervals import Interval, wilson
from submissions.score import Score

#: The operating point: the highest threshold that finds this share of the exams with PE.
SENSITIVITY = 0.9
#: Share of exams with PE for the predictive values; drawn contests hold more than a clinic sees.
PREVALENCE = 0.15


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a threshold did on exams that did not choose it: rates, and the exams counted.

    Attributes:
        sensitivity, specificity: with Wilson intervals.
        ppv, npv: predictive values at PREVALENCE.
        found, missed: exams with PE.
        false_alarms, cleared: exams without.
    """

    sensitivity: Interval
    specificity: Interval
    ppv: float
    npv: float
    found: int
    missed: int
    false_alarms: int
    cleared: int


def operating_points(out_of_fold: Score, test: Score | None, folds: np.ndarray) -> dict[str, Operation]:
    """`out of fold` at the thresholds of the other folds; `test`, where there is a truth, at that of all of them.

    Args:
        out_of_fold: of the training exams.
        test: of the test exams.
        folds: (training exams,) the fold of each.
    """
    suspicion, positive = out_of_fold.suspicion, out_of_fold.positive
    found = {"out of fold": cross_fitted(suspicion, positive, folds)}
    if test:
        found["test"] = operation(test.suspicion >= threshold(suspicion, positive), test.positive)
    return found


def threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The highest threshold at which `score >= threshold` finds SENSITIVITY of the positive exams; NaN without any."""
    found = np.sort(scores[positive])[::-1]
    if not len(found):
        return float("nan")
    return float(found[int(np.ceil(SENSITIVITY * len(found) - 1e-9)) - 1])


def cross_fitted(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> Operation:
    """Each fold judged at the threshold of the other folds.

    Args:
        scores: (exams,) out-of-fold, higher means PE.
        positive: (exams,) booleans.
        folds: (exams,) fold of each exam.
    """
    called = np.zeros(len(scores), bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        called[held_out] = scores[held_out] >= threshold(scores[~held_out], positive[~held_out])
    return operation(called, positive)


def operation(called: np.ndarray, positive: np.ndarray) -> Operation:
    """Rates and counts of some exams.

    Args:
        called: (exams,) booleans, called positive.
        positive: (exams,) booleans, truly positive.
    """
    found, false_alarms = int((called & positive).sum()), int((called & ~positive).sum())
    missed, cleared = int(positive.sum()) - found, int((~positive).sum()) - false_alarms
    sensitivity, specificity = wilson(found, found + missed), wilson(cleared, cleared + false_alarms)
    true, false = sensitivity.value * PREVALENCE, (1 - specificity.value) * (1 - PREVALENCE)
    right, wrong = specificity.value * (1 - PREVALENCE), (1 - sensitivity.value) * PREVALENCE
    return Operation(
        sensitivity, specificity, _share(true, false), _share(right, wrong), found, missed, false_alarms, cleared
    )


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else float("nan")
