"""Confidence intervals: bootstrap over exams, paired differences, Wilson intervals.

Exams are resampled, never slices: slices of one exam are not independent, and resampling them makes intervals several
times too narrow. Every metric is computed from per-exam sums, so a resample is a vector of counts.
"""

import dataclasses

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and the limits of its central 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})" if np.isfinite(self.value) else "-"


UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


def resample_counts(exams: int, resamples: int, seed: int) -> np.ndarray:
    """How often every exam occurs in every resample: int array (resamples, exams), rows sum to `exams`.

    Args:
        exams: number of exams.
        resamples: number of resamples.
        seed: of the random numbers.
    """
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, exams), dtype=np.int32)
    for row in counts:
        row[:] = np.bincount(generator.integers(exams, size=exams), minlength=exams)
    return counts


def interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """The percentile interval of a figure; undefined resamples, e.g. without a positive exam, are left out.

    Args:
        value: the figure on all exams.
        resampled: (resamples,) the figure on every resample.
        level: of the interval.
    """
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(resampled) < 2:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray) -> Interval:
    """Interval of sum(numerator) / sum(denominator).

    Args:
        numerator, denominator: (exams,) per-exam sums.
        counts: (resamples, exams) from `resample_counts`.
    """
    each_once = np.ones(len(numerator))
    return interval(float(_ratios(numerator, denominator, each_once)), _ratios(numerator, denominator, counts))


def paired_difference(first: np.ndarray, second: np.ndarray, denominator: np.ndarray, counts: np.ndarray) -> Interval:
    """Interval of the difference first - second of two ratios on the same exams in the same order.

    Args:
        first, second: (exams,) numerators.
        denominator: (exams,) their common denominator.
        counts: (resamples, exams) from `resample_counts`.
    """
    return ratio_interval(np.asarray(first) - np.asarray(second), denominator, counts)


def _ratios(numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ratio of each row of `counts` (..., exams); NaN where the denominator is 0."""
    top, bottom = counts @ np.asarray(numerator, float), counts @ np.asarray(denominator, float)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


class RankedScores:
    """Scores sorted once, so that the AUC of many resamples of exams costs one pass each.

    Args:
        scores: (n,) higher means more positive.
        labels: (n,) 0 or 1.
        exams: (n,) row number of the exam that each score belongs to.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray, exams: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = np.asarray(scores)[order]
        # One group per distinct score: ties count one half.
        self._group = np.cumsum(np.r_[0, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
        self._positive = np.asarray(labels)[order] > 0.5
        self._exams = np.asarray(exams)[order]

    def auc(self, exam_counts: np.ndarray | None = None) -> float:
        """Area under the ROC curve; NaN with one class only.

        Args:
            exam_counts: (exams,) how often each exam counts; None counts each once.
        """
        weights = np.ones(len(self._exams)) if exam_counts is None else exam_counts[self._exams].astype(float)
        positive = np.bincount(self._group, weights * self._positive)
        negative = np.bincount(self._group, weights * ~self._positive)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return float("nan")
        return float(positive @ (np.cumsum(negative) - negative / 2) / pairs)

    def interval(self, counts: np.ndarray) -> Interval:
        """AUC with its bootstrap interval; `counts` is (resamples, exams)."""
        return interval(self.auc(), self.resampled_auc(counts))

    def resampled_auc(self, counts: np.ndarray) -> np.ndarray:
        """(resamples,) the AUC of every resample; comparable pairwise between two scores of the same exams."""
        return np.array([self.auc(row) for row in counts])


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; undefined without trials.

    Args:
        successes: at most `trials`.
        trials: number of cases.
        level: of the interval.
    """
    if trials == 0:
        return UNDEFINED
    limits = stats.binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return Interval(successes / trials, float(limits.low), float(limits.high))
