"""Calibration note beside each label: how often similar out-of-fold exams had the label."""

import dataclasses

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, STUDY
from submissions.bootstrap_intervals import Interval, wilson
from submissions.calibration import calibration

#: Number of similar exams; if a fifth of the exams is fewer, that many.
NEIGHBOURS = 24


@dataclasses.dataclass(frozen=True)
class SimilarExams:
    """The out-of-fold exams whose probability of a label is nearest to a given one.

    Attributes:
        low, high: range of their probabilities.
        exams: how many.
        positive: how many of them have the label.
        share: positive / exams with Wilson's 95 % interval.
    """

    low: float
    high: float
    exams: int
    positive: int
    share: Interval


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Decoded out-of-fold predictions and ground truth of every label.

    Attributes:
        studies: (exams,) StudyInstanceUIDs.
        probability, truth: label -> (exams,).
        ece, null_high: label -> expected calibration error, and its 95th percentile for perfect calibration.
    """

    studies: np.ndarray
    probability: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    ece: dict[str, float]
    null_high: dict[str, float]

    def similar(self, label: str, probability: float, study: str = "") -> SimilarExams:
        """Find the nearest out-of-fold exams: one bin of a reliability curve, centred on this probability.

        Args:
            label: one of the nine.
            probability: predicted for the exam that is shown.
            study: its StudyInstanceUID; a training exam is not its own neighbour.
        """
        others = self.studies != study
        p, y = self.probability[label][others], self.truth[label][others]
        count = min(NEIGHBOURS, max(1, len(p) // 5))
        nearest = np.argsort(np.abs(p - probability), kind="stable")[:count]
        positive = int(y[nearest].sum())
        return SimilarExams(float(p[nearest].min()), float(p[nearest].max()), count, positive, wilson(positive, count))


def reliability(truth: pd.DataFrame, predicted: pd.DataFrame, *, seed: int) -> Reliability:
    """Join out-of-fold predictions with the ground truth and measure the calibration of every label.

    Args:
        truth: STUDY and the nine labels (0 or 1) of the training exams.
        predicted: STUDY and the nine labels, decoded, out of fold.
        seed: of the simulated label sets.
    """
    predicted = predicted.set_index(STUDY).reindex(truth[STUDY])
    result = Reliability(truth[STUDY].to_numpy(), {}, {}, {}, {})
    for label in EXAM_LABELS:
        p, y = predicted[label].to_numpy(float), truth[label].to_numpy(float)
        result.probability[label], result.truth[label] = p, y
        check = calibration(p, y, seed=seed)
        result.ece[label], result.null_high[label] = check.ece, check.null_high
    return result
