"""How sure a figure is: bootstrap over exams, paired differences, Wilson intervals.

Exams are drawn, never slices: slices of one exam are not independent, and drawing them makes intervals
several times too narrow. Every metric is computed from per-exam sums, so a resample is a vector of counts.
"""

import dataclasses
from statistics import NormalDist

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and the limits of its central 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})" if np.isfinite(self.value) else "-"


def resample_counts(exams: int, resamples: int, seed: int) -> np.ndarray:
    """How often every exam is drawn in every resample: int array (resamples, exams), rows sum to `exams`."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, exams), dtype=np.int32)
    for row in counts:
        row[:] = np.bincount(generator.integers(exams, size=exams), minlength=exams)
    return counts


def interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """The percentile interval of a resampled figure; undefined resamples (no positive exam, say) are left out."""
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or len(resampled) < 2:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray) -> Interval:
    """Interval of sum(numerator) / sum(denominator), both given per exam."""
    return interval(_ratio(numerator, denominator), _ratio(numerator, denominator, counts))


def paired_difference(first: np.ndarray, second: np.ndarray, denominator: np.ndarray, counts: np.ndarray) -> Interval:
    """Interval of the difference first - second of two ratios on the same exams in the same order."""
    return ratio_interval(np.asarray(first) - np.asarray(second), denominator, counts)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    if counts is None:
        counts = np.ones(len(numerator))
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
        # One group a distinct score: ties count one half.
        self._group = np.cumsum(np.r_[0, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
        self._positive = np.asarray(labels)[order] > 0.5
        self._exams = np.asarray(exams)[order]

    def auc(self, exam_counts: np.ndarray | None = None) -> float:
        """Area under the ROC curve with every exam counted as often as it was drawn; NaN with one class only."""
        weights = np.ones(len(self._exams)) if exam_counts is None else exam_counts[self._exams].astype(float)
        positive = np.bincount(self._group, weights * self._positive)
        negative = np.bincount(self._group, weights * ~self._positive)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return float("nan")
        return float(positive @ (np.cumsum(negative) - negative / 2) / pairs)

    def interval(self, counts: np.ndarray) -> Interval:
        """AUC with its bootstrap interval; `counts` is (resamples, exams)."""
        return interval(self.auc(), self.draws(counts))

    def draws(self, counts: np.ndarray) -> np.ndarray:
        """(resamples,) the AUC of every resample; of two scores of the same exams they compare pairwise."""
        return np.array([self.auc(row) for row in counts])


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209)."""
    if trials == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
