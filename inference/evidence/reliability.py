"""What out-of-fold exams with a similar probability turned out to be: the calibration note beside each label."""

import dataclasses

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, STUDY
from submissions.bootstrap_intervals import Interval, wilson
from submissions.calibration import calibration

#: How many neighbours in probability a note tells of; of fewer exams, a fifth.
NEIGHBOURS = 24


@dataclasses.dataclass(frozen=True)
class Similar:
    """The out-of-fold exams whose probability of a label is nearest to one.

    Attributes:
        low, high: their probabilities.
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
    """Decoded out-of-fold predictions of every label beside their truth.

    Attributes:
        studies: (exams,) StudyInstanceUIDs.
        probability, truth: label -> (exams,).
        ece, null_high: label -> expected calibration error, and the 95th percentile that chance alone makes.
    """

    studies: np.ndarray
    probability: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    ece: dict[str, float]
    null_high: dict[str, float]

    def similar(self, label: str, probability: float, study: str = "") -> Similar:
        """The nearest out-of-fold exams: a bin of the reliability curve about this very probability.

        Args:
            label: of the nine.
            probability: of the exam that is shown.
            study: its StudyInstanceUID: a training exam is no neighbour of itself.
        """
        others = self.studies != study
        p, y = self.probability[label][others], self.truth[label][others]
        count = min(NEIGHBOURS, max(1, len(p) // 5))
        nearest = np.argsort(np.abs(p - probability), kind="stable")[:count]
        yes = int(y[nearest].sum())
        return Similar(float(p[nearest].min()), float(p[nearest].max()), count, yes, wilson(yes, count))


def reliability(truth: pd.DataFrame, predicted: pd.DataFrame, *, seed: int) -> Reliability:
    """Join out-of-fold predictions and truth.

    Args:
        truth: STUDY and the nine labels (0 or 1) of the training exams.
        predicted: STUDY and the nine labels, decoded, out of fold.
        seed: of the null's draws.
    """
    predicted = predicted.set_index(STUDY).reindex(truth[STUDY])
    found = Reliability(truth[STUDY].to_numpy(), {}, {}, {}, {})
    for label in EXAM_LABELS:
        p, y = predicted[label].to_numpy(float), truth[label].to_numpy(float)
        found.probability[label], found.truth[label] = p, y
        check = calibration(p, y, seed=seed)
        found.ece[label], found.null_high[label] = check.ece, check.null_high
    return found
