"""The nine labels as a chain of yes/no questions, so that every answer gives labels that cohere.

Is there PE? If not: is the exam indeterminate? If so: is RV/LV at least 1, is PE on the left, on the right,
central, is it chronic, is it acute and chronic? Each question is learned only from the exams that it is asked of.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from ensemble.label_states import GIVEN_PE, STATES, posterior
from ensemble.logistic import expit, logit
from input.contest import EXAM_LABELS, GTE_1, INDETERMINATE, LT_1, NEGATIVE

PE = "pe"
QUESTIONS = (PE, INDETERMINATE, *GIVEN_PE)
#: Fewer yes (or no) answers than this in the training exams: the prior is predicted instead of learned.
FEWEST = 2


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a candidate says of a view.

    Attributes:
        answers: question -> (e,) probability of yes given that the question is asked.
        q_given_pe: (e,) expected share of positive slices if there is PE.
        slices: (n,) slice probability, conditional on the slice counting in the metric.
    """

    answers: dict[str, np.ndarray]
    q_given_pe: np.ndarray
    slices: np.ndarray

    def exams(self, studies: np.ndarray) -> pd.DataFrame:
        """StudyInstanceUID, the nine labels, and `expected_q`."""
        table = labels_of(self.answers)
        table.insert(0, "StudyInstanceUID", studies)
        return table.assign(expected_q=self.answers[PE] * self.q_given_pe)


def average(predictions: list[Prediction]) -> Prediction:
    """The mean of several predictions of the same view, in logits (q: arithmetic)."""

    def mean(pick: Callable[[Prediction], np.ndarray]) -> np.ndarray:
        return expit(np.mean([logit(pick(each)) for each in predictions], axis=0))

    answers = {question: mean(lambda each, q=question: each.answers[q]) for question in predictions[0].answers}
    q_given_pe = np.mean([each.q_given_pe for each in predictions], axis=0)
    return Prediction(answers, q_given_pe, mean(lambda each: each.slices))


def asked(truth: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """question -> (mask (e,) of the exams it is asked of, answers 0/1 of those exams)."""
    has_pe = (truth["q"] > 0).to_numpy()
    everyone = np.ones(len(truth), bool)
    table = {PE: (everyone, has_pe.astype(float))}
    table[INDETERMINATE] = (~has_pe, truth.loc[~has_pe, INDETERMINATE].to_numpy(float))
    return table | {label: (has_pe, truth.loc[has_pe, label].to_numpy(float)) for label in GIVEN_PE}


def rare(answers: np.ndarray) -> bool:
    """Whether too few exams say yes, or no, to learn the question."""
    yes = int(answers.sum())
    return min(yes, len(answers) - yes) < FEWEST


def prior(answers: np.ndarray) -> float:
    """Share of yes with half a yes and half a no added (Jeffreys), so that an unseen answer stays possible."""
    return float((answers.sum() + 0.5) / (len(answers) + 1))


def labels_of(answers: dict[str, np.ndarray]) -> pd.DataFrame:
    """Coherent marginals of the nine labels, (e rows), of a posterior over joint states (see ensemble.label_states).

    negative + indeterminate + P(PE) = 1; gte_1 + lt_1 = P(PE); left, right and central together exceed P(PE);
    chronic and acute_and_chronic together fall short of it.
    """
    pe = answers[PE]
    given = dict(zip(GIVEN_PE, (posterior(answers) @ STATES).T, strict=True))
    labels = {
        NEGATIVE: (1 - pe) * (1 - answers[INDETERMINATE]),
        INDETERMINATE: (1 - pe) * answers[INDETERMINATE],
        LT_1: pe * (1 - given[GTE_1]),
        **{label: pe * value for label, value in given.items()},
    }
    return pd.DataFrame({label: labels[label] for label in EXAM_LABELS})
