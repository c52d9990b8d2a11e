"""What out-of-fold exams with a similar probability turned out to be: the calibration note beside each label."""

import dataclasses

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, STUDY
from submissions.calibration import calibration
from submissions.intervals import Interval, wilson

BINS = 5


@dataclasses.dataclass(frozen=True)
class Bin:
    """One bin of a label's reliability curve.

    Attributes:
        low, high: the probabilities of the out-of-fold exams in it.
        exams: how many.
        yes: how many of them have the label.
        share: yes / exams with Wilson's 95 % interval.
    """

    low: float
    high: float
    exams: int
    yes: int
    share: Interval


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The bins of every label, with ECE and its null, from decoded out-of-fold predictions."""

    bins: dict[str, tuple[Bin, ...]]
    ece: dict[str, float]
    null_high: dict[str, float]

    def bin_of(self, label: str, probability: float) -> Bin:
        """The bin that a probability falls into; those below the lowest and above the highest take the outer ones."""
        found = self.bins[label]
        place = int(np.searchsorted([each.low for each in found], probability, side="right")) - 1
        return found[max(0, place)]


def reliability(truth: pd.DataFrame, predicted: pd.DataFrame, *, seed: int) -> Reliability:
    """Bins of equal size of every label.

    Args:
        truth: STUDY and the nine labels (0 or 1) of the training exams.
        predicted: STUDY and the nine labels, decoded, out of fold.
        seed: of the null's draws.
    """
    predicted = predicted.set_index(STUDY).reindex(truth[STUDY])
    bins, ece, null_high = {}, {}, {}
    for label in EXAM_LABELS:
        p, y = predicted[label].to_numpy(float), truth[label].to_numpy(float)
        found = calibration(p, y, bins=BINS, seed=seed)
        ece[label], null_high[label] = found.ece, found.null_high
        bins[label] = _bins(np.sort(p), found.counts, np.rint(found.observed * found.counts).astype(int))
    return Reliability(bins, ece, null_high)


def _bins(ordered: np.ndarray, counts: np.ndarray, yes: np.ndarray) -> tuple[Bin, ...]:
    ends = np.cumsum(counts)
    return tuple(
        Bin(float(ordered[end - count]), float(ordered[end - 1]), int(count), int(hits), wilson(int(hits), int(count)))
        for end, count, hits in zip(ends, counts, yes, strict=True)
    )
