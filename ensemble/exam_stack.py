"""The exam's questions answered by a mixture of plain models, corrected by LightGBM.

Small contests leave fewer than a hundred exams for most questions, so each answer starts from three plain models:
the prior, the blend's logistic on a few pooled logits, and a wide one that adds the columns of the exam table that
go along best with the answer. Their logits are mixed with weights of 0, 1/4, ..., 1 that sum to 1 and are chosen by
cross-validation inside the training exams. Trees learn what the mixture leaves over, on its cross-fitted logits.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import QUESTIONS, asked, prior, rare
from ensemble.blend import POOLED
from ensemble.exam_table import exam_table
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees, inner_folds, log_loss, ranks_of, strongest
from ensemble.logistic import Logistic, expit, logit
from ensemble.predictions import View
from pipeline.console import say
from pipeline.settings import EnsembleSettings

STEPS = 4
WEIGHTS = [np.array(each) / STEPS for each in itertools.product(range(STEPS + 1), repeat=3) if sum(each) == STEPS]


@dataclasses.dataclass(frozen=True)
class Plain:
    """A constant, or a logistic regression on named columns of the exam table."""

    columns: tuple[str, ...]
    model: Logistic | float

    @classmethod
    def fit(cls, table: pd.DataFrame, answers: np.ndarray, columns: list[str], penalty: float) -> "Plain":
        """Fit on the exams that the question is asked of; one answer only, or no column, gives the prior."""
        if not columns or answers.min() == answers.max():
            return cls((), float(logit(prior(answers))))
        model = Logistic.fit(table[columns].to_numpy(float), answers, penalty=penalty)
        return cls(tuple(columns), model)

    def decision(self, table: pd.DataFrame) -> np.ndarray:
        """(e,) logits."""
        if isinstance(self.model, Logistic):
            return self.model.decision(table.reindex(columns=list(self.columns)).to_numpy(float))
        return np.full(len(table), self.model)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        model = self.model.as_json() if isinstance(self.model, Logistic) else self.model
        return {"columns": list(self.columns), "model": model}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Plain":
        """The model that `as_json` wrote."""
        model = value["model"]
        return cls(tuple(value["columns"]), Logistic.from_json(model) if isinstance(model, dict) else model)


@dataclasses.dataclass(frozen=True)
class Question:
    """Plain models, their weights, and the trees on top, of one question."""

    plain: tuple[Plain, ...]
    weights: tuple[float, ...]
    trees: Trees

    def decision(self, table: pd.DataFrame) -> np.ndarray:
        """(e,) logit of yes."""
        mixed = sum(weight * each.decision(table) for weight, each in zip(self.weights, self.plain, strict=True))
        return mixed + self.trees.correction(table)


@dataclasses.dataclass(frozen=True)
class ExamStack:
    """A `Question` for every question."""

    questions: dict[str, Question]

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "ExamStack":
        """Learn every question from the exams it is asked of; a rare answer gets its prior, and that is said."""
        table = exam_table(view)
        ranks = ranks_of(table)
        questions = {}
        for question, (rows, answers) in asked(view.truth).items():
            if rare(answers):
                say(f"  stack: {question} has {int(answers.sum())} yes in {len(answers)} exams, predicting the prior")
                questions[question] = Question((Plain((), float(logit(prior(answers)))),), (1.0,), Trees())
            else:
                asked_table = table[rows].reset_index(drop=True)
                questions[question] = _fit_question(question, asked_table, ranks[rows], answers, settings)
        return cls(questions)

    def answers(self, view: View) -> dict[str, np.ndarray]:
        """question -> (e,) probability of yes."""
        table = exam_table(view)
        return {question: expit(self.questions[question].decision(table)) for question in QUESTIONS}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; returns the JSON value that `load` needs."""
        return {
            name: {
                "plain": [each.as_json() for each in question.plain],
                "weights": list(question.weights),
                "trees": question.trees.save(folder / f"{name}.txt"),
            }
            for name, question in self.questions.items()
        }

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "ExamStack":
        """Read what `save` wrote, digests first."""
        return cls(
            {
                name: Question(
                    tuple(map(Plain.from_json, each["plain"])),
                    tuple(each["weights"]),
                    Trees.load(folder, each["trees"]),
                )
                for name, each in value.items()
            }
        )


def _fit_question(
    question: str, table: pd.DataFrame, ranks: np.ndarray, answers: np.ndarray, settings: EnsembleSettings
) -> Question:
    fold = inner_folds(answers, np.arange(len(answers)), settings.inner_folds, settings.seed)
    crossed = np.empty((3, len(answers)))
    for number in range(settings.inner_folds):
        held = fold == number
        models = _fit_plain(question, table[~held], ranks[~held], answers[~held], settings)
        crossed[:, held] = [each.decision(table[held]) for each in models]
    weights = min(WEIGHTS, key=lambda each: log_loss(answers, each @ crossed, np.ones(len(answers))))
    shape = TreeShape(
        settings.exam_leaves, settings.exam_min_data, settings.exam_rate, settings.exam_rounds,
        max(settings.features, len(answers) // 10), 0.3, settings.inner_folds, settings.seed, settings.threads,
    )  # fmt: skip
    trees = fit_trees(table, answers, weights @ crossed, shape, exams=np.arange(len(answers)), ranks=ranks)
    plain = _fit_plain(question, table, ranks, answers, settings)
    return Question(plain, tuple(map(float, weights)), trees)


def _fit_plain(
    question: str, table: pd.DataFrame, ranks: np.ndarray, answers: np.ndarray, settings: EnsembleSettings
) -> tuple[Plain, Plain, Plain]:
    """Prior, pooled logistic, wide logistic."""
    pooled = [name for name in POOLED[question] if name in table]
    best = strongest(table.columns, ranks, answers - answers.mean(), np.ones(len(answers)), settings.wide_columns)
    wide = list(dict.fromkeys([*pooled, *best]))
    return (
        Plain.fit(table, answers, [], 0.0),
        Plain.fit(table, answers, pooled, settings.ridge),
        Plain.fit(table, answers, wide, settings.wide_ridge),
    )
