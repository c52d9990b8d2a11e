"""The nine labels as a chain of binary targets, so that any prediction gives coherent labels.

The chain: PE; without PE, indeterminate; with PE, RV/LV ratio at least 1, left-sided, right-sided, central, chronic,
acute and chronic. Each target is learned only from the exams that are eligible for it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from ensemble.label_states import GIVEN_PE, STATES, posterior
from ensemble.logistic import expit, logit
from input.contest import EXAM_LABELS, GTE_1, INDETERMINATE, LT_1, NEGATIVE

PE = "pe"
TARGETS = (PE, INDETERMINATE, *GIVEN_PE)
#: With fewer positive or negative training exams than this, the prior is predicted instead of a model.
MIN_CLASS_EXAMS = 2


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A candidate's prediction of a view.

    Attributes:
        target_probabilities: target -> (e,) its probability, given that the exam is eligible for the target.
        q_given_pe: (e,) expected share of positive slices if there is PE.
        slices: (n,) slice probability, conditional on the slice counting in the metric.
    """

    target_probabilities: dict[str, np.ndarray]
    q_given_pe: np.ndarray
    slices: np.ndarray

    def exams(self, studies: np.ndarray) -> pd.DataFrame:
        """StudyInstanceUID, the nine labels, and `expected_q`; one row per exam of `studies`."""
        table = label_probabilities(self.target_probabilities)
        table.insert(0, "StudyInstanceUID", studies)
        return table.assign(expected_q=self.target_probabilities[PE] * self.q_given_pe)


def average(predictions: list[Prediction]) -> Prediction:
    """The mean of several predictions of the same view, in logits (q: arithmetic)."""

    def mean(values_of: Callable[[Prediction], np.ndarray]) -> np.ndarray:
        return expit(np.mean([logit(values_of(prediction)) for prediction in predictions], axis=0))

    def target_mean(target: str) -> np.ndarray:
        return mean(lambda prediction: prediction.target_probabilities[target])

    return Prediction(
        {target: target_mean(target) for target in predictions[0].target_probabilities},
        np.mean([prediction.q_given_pe for prediction in predictions], axis=0),
        mean(lambda prediction: prediction.slices),
    )


def target_labels(truth: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """target -> (boolean mask (e,) of the eligible exams, 0/1 labels of those exams)."""
    has_pe = (truth["q"] > 0).to_numpy()
    every_exam = np.ones(len(truth), bool)
    table = {PE: (every_exam, has_pe.astype(float))}
    table[INDETERMINATE] = (~has_pe, truth.loc[~has_pe, INDETERMINATE].to_numpy(float))
    return table | {label: (has_pe, truth.loc[has_pe, label].to_numpy(float)) for label in GIVEN_PE}


def is_rare(labels: np.ndarray) -> bool:
    """Whether too few exams are positive, or negative, to fit a model."""
    positive = int(labels.sum())
    return min(positive, len(labels) - positive) < MIN_CLASS_EXAMS


def prior_probability(labels: np.ndarray) -> float:
    """Share of positives with half a positive and half a negative added (Jeffreys), so that it is never 0 or 1."""
    return float((labels.sum() + 0.5) / (len(labels) + 1))


def label_probabilities(target_probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """Coherent marginals of the nine labels, (e rows), of a posterior over joint states (see ensemble.label_states).

    negative + indeterminate + P(PE) = 1; gte_1 + lt_1 = P(PE); left + right + central >= P(PE);
    chronic + acute_and_chronic <= P(PE).
    """
    pe = target_probabilities[PE]
    given = dict(zip(GIVEN_PE, (posterior(target_probabilities) @ STATES).T, strict=True))
    labels = {
        NEGATIVE: (1 - pe) * (1 - target_probabilities[INDETERMINATE]),
        INDETERMINATE: (1 - pe) * target_probabilities[INDETERMINATE],
        LT_1: pe * (1 - given[GTE_1]),
        **{label: pe * value for label, value in given.items()},
    }
    return pd.DataFrame({label: labels[label] for label in EXAM_LABELS})
