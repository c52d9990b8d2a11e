"""Sensitivity and specificity for PE at a threshold that was chosen on other exams."""

import dataclasses

import numpy as np

from submissions.bootstrap_intervals import Interval, wilson
from submissions.score import Score

#: The operating point: the highest threshold with this sensitivity on the exams that choose it.
SENSITIVITY = 0.9
#: Share of exams with PE for the predictive values; synthetic contests have more than clinical practice.
PREVALENCE = 0.15


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """The result of a threshold on exams that did not choose it.

    Attributes:
        sensitivity, specificity: with Wilson intervals.
        ppv, npv: predictive values at PREVALENCE.
        true_positives, false_negatives: exams with PE.
        false_positives, true_negatives: exams without PE.
    """

    sensitivity: Interval
    specificity: Interval
    ppv: float
    npv: float
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


def operating_points(out_of_fold: Score, test: Score | None, folds: np.ndarray) -> dict[str, OperatingPoint]:
    """Evaluate the operating point out of fold and, if there is a test truth, on the test exams.

    Args:
        out_of_fold: score of the training exams.
        test: score of the test exams.
        folds: (training exams,) the fold of each.

    Returns:
        `out of fold`: each fold at the threshold of the other folds; `test`: at the threshold of all training exams.
    """
    pe_scores, positive = out_of_fold.pe_scores, out_of_fold.positive
    points = {"out of fold": cross_fitted(pe_scores, positive, folds)}
    if test:
        points["test"] = operating_point(test.pe_scores >= threshold(pe_scores, positive), test.positive)
    return points


def threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The highest threshold at which `scores >= threshold` has SENSITIVITY; NaN without positive exams.

    Args:
        scores: (exams,) higher means PE.
        positive: (exams,) booleans.
    """
    descending = np.sort(scores[positive])[::-1]
    if not len(descending):
        return float("nan")
    return float(descending[int(np.ceil(SENSITIVITY * len(descending) - 1e-9)) - 1])


def cross_fitted(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> OperatingPoint:
    """Evaluate each fold at the threshold of the other folds.

    Args:
        scores: (exams,) out-of-fold, higher means PE.
        positive: (exams,) booleans.
        folds: (exams,) fold of each exam.
    """
    called = np.zeros(len(scores), bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        called[held_out] = scores[held_out] >= threshold(scores[~held_out], positive[~held_out])
    return operating_point(called, positive)


def operating_point(called: np.ndarray, positive: np.ndarray) -> OperatingPoint:
    """Rates and counts of a set of exams.

    Args:
        called: (exams,) booleans, called positive.
        positive: (exams,) booleans, truly positive.
    """
    true_positives, false_positives = int((called & positive).sum()), int((called & ~positive).sum())
    false_negatives = int(positive.sum()) - true_positives
    true_negatives = int((~positive).sum()) - false_positives
    sensitivity = wilson(true_positives, true_positives + false_negatives)
    specificity = wilson(true_negatives, true_negatives + false_positives)
    return OperatingPoint(
        sensitivity,
        specificity,
        ppv=_share(sensitivity.value * PREVALENCE, (1 - specificity.value) * (1 - PREVALENCE)),
        npv=_share(specificity.value * (1 - PREVALENCE), (1 - sensitivity.value) * PREVALENCE),
        true_positives=true_positives,
        false_negatives=false_negatives,
        false_positives=false_positives,
        true_negatives=true_negatives,
    )


def _share(part: float, remainder: float) -> float:
    return part / (part + remainder) if part + remainder > 0 else float("nan")
