"""Sensitivity and specificity for PE at an operating point that other exams fixed."""

import dataclasses

import numpy as np

from submissions.intervals import Interval, wilson

#: The operating point: the highest threshold that finds this share of the exams with PE.
SENSITIVITY = 0.9
#: Share of exams with PE for the predictive values; drawn contests hold more than a clinic sees.
PREVALENCE = 0.15


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a threshold did on exams that did not choose it; ppv and npv hold at PREVALENCE."""

    sensitivity: Interval
    specificity: Interval
    ppv: float
    npv: float


def threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The highest threshold at which `score >= threshold` finds SENSITIVITY of the positive exams; NaN without any."""
    found = np.sort(scores[positive])[::-1]
    if not len(found):
        return float("nan")
    return float(found[int(np.ceil(SENSITIVITY * len(found) - 1e-9)) - 1])


def cross_fitted(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> Operation:
    """Each fold judged at the threshold of the other folds; the arguments are those of `cross_fitted_calls`."""
    return operation(cross_fitted_calls(scores, positive, folds), positive)


def cross_fitted_calls(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(exams,) which exams are called positive, each fold at the threshold of the other folds.

    Args:
        scores: (exams,) out-of-fold, higher means PE.
        positive: (exams,) booleans.
        folds: (exams,) fold of each exam.
    """
    called = np.zeros(len(scores), bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        called[held_out] = scores[held_out] >= threshold(scores[~held_out], positive[~held_out])
    return called


def operation(called: np.ndarray, positive: np.ndarray) -> Operation:
    """Sensitivity and specificity with Wilson intervals, and predictive values at PREVALENCE.

    Args:
        called: (exams,) booleans, called positive.
        positive: (exams,) booleans, truly positive.
    """
    sensitivity = wilson(int((called & positive).sum()), int(positive.sum()))
    specificity = wilson(int((~called & ~positive).sum()), int((~positive).sum()))
    true, false = sensitivity.value * PREVALENCE, (1 - specificity.value) * (1 - PREVALENCE)
    right, missed = specificity.value * (1 - PREVALENCE), (1 - sensitivity.value) * PREVALENCE
    return Operation(sensitivity, specificity, _share(true, false), _share(right, missed))


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else float("nan")
