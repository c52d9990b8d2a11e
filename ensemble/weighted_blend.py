"""The candidate between the mean and the stack: each label weighs the networks, and is calibrated where that helps.

Every network speaks for itself through its own `Blend`; a `Mixture` a question, and one for the slices, joins them.
Questions choose their mixture on cross-fitted logits of the training exams. Slices choose on fitted ones: a network's
slice model has four parameters for thousands of slices.

Off by default (`ensemble.weighted_blend`): out of fold one network of each backbone speaks and at test those of all folds
are averaged, so what weights and temperatures gain out of fold tends not to arrive.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.binary_targets import PE, QUESTIONS, Prediction, asked, rare
from ensemble.blend import Blend, ExamLogistics, q_scale
from ensemble.exam_table import exam_table
from ensemble.gradient_boosting import inner_folds
from ensemble.logistic import expit
from ensemble.logit_mixture import Mixture, fit_mixture, plain_mean
from ensemble.predictions import View
from pipeline.settings import EnsembleSettings


@dataclasses.dataclass(frozen=True)
class Weighted:
    """One blend a network, one mixture a question and one for the slices."""

    members: tuple[Blend, ...]
    questions: dict[str, Mixture]
    slices: Mixture
    q_scale: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "Weighted":
        """Learn from a view with truth."""
        alone = [view.of_networks([name]) for name in view.logits]
        members = tuple(Blend.fit(each, settings, who="") for each in alone)
        fold = inner_folds(asked(view.truth)[PE][1], np.arange(len(view.studies)), settings.inner_folds, settings.seed)
        crossed = _crossed(alone, fold, settings)
        questions = {}
        for question, (rows, answers) in asked(view.truth).items():
            if rare(answers):
                questions[question] = plain_mean(len(members))
            else:
                logits, asked_fold = crossed[question][:, rows], fold[rows]
                questions[question] = fit_mixture(logits, answers, asked_fold, exams=np.arange(len(answers)))
        return cls(members, questions, *_fit_slices(view, alone, members, fold))

    def predict(self, view: View) -> Prediction:
        """Answers, E[q | PE] and slice probabilities of a view."""
        alone = [view.of_networks(member.networks) for member in self.members]
        decisions = [member.exams.decisions(exam_table(each)) for member, each in zip(self.members, alone, strict=True)]
        answers = {
            question: expit(self.questions[question].decision(np.stack([each[question] for each in decisions])))
            for question in QUESTIONS
        }
        slices = expit(self.slices.decision(_slice_logits(self.members, alone)))
        mean = view.segments.mean(slices, np.ones_like(slices))
        return Prediction(answers, np.clip(self.q_scale * mean, 1e-3, 1), slices)

    def save(self, folder: Path) -> dict[str, Any]:
        """Plain values; no file is written."""
        return {
            "members": [each.save(folder) for each in self.members],
            "questions": {question: each.as_json() for question, each in self.questions.items()},
            "slices": self.slices.as_json(),
            "q_scale": self.q_scale,
        }

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Weighted":
        """Read what `save` returned."""
        return cls(
            tuple(Blend.load(folder, each) for each in value["members"]),
            {question: Mixture.from_json(each) for question, each in value["questions"].items()},
            Mixture.from_json(value["slices"]),
            value["q_scale"],
        )


def _crossed(alone: list[View], fold: np.ndarray, settings: EnsembleSettings) -> dict[str, np.ndarray]:
    """question -> (networks, e) logits of every exam by models that learned from the other inner folds."""
    crossed = {question: np.empty((len(alone), len(fold))) for question in QUESTIONS}
    for number, view in enumerate(alone):
        table = exam_table(view)
        for held_fold in np.unique(fold):
            held = fold == held_fold
            truth = view.truth[~held].reset_index(drop=True)
            fitted = ExamLogistics.fit(table[~held].reset_index(drop=True), truth, settings, "")
            for question, logits in fitted.decisions(table[held]).items():
                crossed[question][number, held] = logits
    return crossed


def _slice_logits(members: tuple[Blend, ...], alone: list[View]) -> np.ndarray:
    """(networks, n) logits of the slices by each network's own slice model."""
    return np.stack([member.slices.decision(view) for member, view in zip(members, alone, strict=True)])


def _fit_slices(view: View, alone: list[View], members: tuple[Blend, ...], fold: np.ndarray) -> tuple[Mixture, float]:
    """The mixture of the slices of exams with PE, weighted with q, and the ratio of q to its mean."""
    q = view.truth["q"].to_numpy(float)
    with_pe = q > 0
    rows = with_pe[view.owner]
    logits = _slice_logits(members, alone)[:, rows]
    owner = view.owner[rows]
    mixture = fit_mixture(logits, view.slice_truth[rows], fold[owner], exams=owner, weight=q[owner])
    fitted = expit(mixture.decision(logits))
    return mixture, q_scale(view.take(with_pe).segments, fitted, q[with_pe])
