"""The LightGBM stack: trees for slices and for every exam question, on top of the plain blend's logits."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blend import Blend, q_scale
from ensemble.exam_table import exam_table
from ensemble.logistic import expit
from ensemble.predictions import View
from ensemble.questions import QUESTIONS, Prediction, asked, rare
from ensemble.slice_table import slice_table
from ensemble.trees import Trees, TreeShape, fit_trees
from pipeline.settings import EnsembleSettings

SLICES = "slices"


@dataclasses.dataclass(frozen=True)
class Stack:
    """Slice trees and exam trees, each added to the blend's logit."""

    blend: Blend
    trees: dict[str, Trees]
    q_scale: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "Stack":
        """Learn from a view with truth."""
        blend = Blend.fit(view, settings, who="stack")
        trees = _exam_trees(view, blend, settings)
        trees[SLICES] = _slice_trees(view, blend, settings)
        unscaled = cls(blend, trees, 1.0)
        scale = q_scale(view.segments, unscaled._slices(view), view.truth["q"].to_numpy(float))
        return dataclasses.replace(unscaled, q_scale=scale)

    def predict(self, view: View) -> Prediction:
        """Answers, E[q | PE] and slice probabilities of a view."""
        view = view.of_backbones(self.blend.backbones)
        table = exam_table(view)
        base = self.blend.exams.decisions(table)
        answers = {question: expit(base[question] + self.trees[question].correction(table)) for question in QUESTIONS}
        slices = self._slices(view)
        mean = view.segments.mean(slices, np.ones_like(slices))
        return Prediction(answers, np.clip(self.q_scale * mean, 1e-3, 1), slices)

    def _slices(self, view: View) -> np.ndarray:
        base = self.blend.slices.decision(view)
        trees = self.trees[SLICES]
        return expit(base + trees.correction(slice_table(view, base))) if trees.text else expit(base)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; returns the JSON value that `load` needs."""
        trees = {name: each.save(folder / f"{name}.txt") for name, each in self.trees.items()}
        return {"blend": self.blend.save(folder), "trees": trees, "q_scale": self.q_scale}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Stack":
        """Read what `save` wrote, digests first."""
        trees = {name: Trees.load(folder, each) for name, each in value["trees"].items()}
        return cls(Blend.load(folder, value["blend"]), trees, value["q_scale"])


def _exam_trees(view: View, blend: Blend, settings: EnsembleSettings) -> dict[str, Trees]:
    table = exam_table(view)
    base = blend.exams.decisions(table)
    trees = {}
    for question, (rows, answers) in asked(view.truth).items():
        if rare(answers):
            trees[question] = Trees()
            continue
        shape = TreeShape(
            settings.exam_leaves, settings.exam_min_data, settings.exam_rate, settings.exam_rounds,
            max(settings.features, len(answers) // 10), 0.3, settings.inner_folds, settings.seed, settings.threads,
        )  # fmt: skip
        asked_table = table[rows].reset_index(drop=True)
        trees[question] = fit_trees(asked_table, answers, base[question][rows], shape, exams=np.arange(len(answers)))
    return trees


def _slice_trees(view: View, blend: Blend, settings: EnsembleSettings) -> Trees:
    """Slices of exams with PE only, weighted with q: exactly what the metric counts."""
    with_pe = view.take(view.truth["q"].to_numpy() > 0)
    base = blend.slices.decision(with_pe)
    shape = TreeShape(
        settings.slice_leaves, settings.slice_min_data, settings.slice_rate, settings.slice_rounds,
        10_000, 0.5, settings.inner_folds, settings.seed, settings.threads,
    )  # fmt: skip
    q = with_pe.truth["q"].to_numpy(float)[with_pe.owner]
    table = slice_table(with_pe, base)
    return fit_trees(table, with_pe.slice_truth, base, shape, exams=with_pe.owner, weight=q)
