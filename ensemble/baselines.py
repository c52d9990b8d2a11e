"""What a model must beat: the label priors, and a LightGBM that knows only where a slice lies."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import Prediction, asked, prior
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees
from ensemble.logistic import expit, logit
from ensemble.predictions import View
from pipeline.settings import EnsembleSettings


@dataclasses.dataclass(frozen=True)
class Prior:
    """The training exams' shares, and the constant slice probability that the metric likes best."""

    answers: dict[str, float]
    q_given_pe: float
    slice_probability: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "Prior":
        """Learn from a view with truth. The best constant weighs every slice with its exam's q."""
        q = view.truth["q"].to_numpy(float)
        answers = {question: prior(found) for question, (_, found) in asked(view.truth).items()}
        if not (q > 0).any():
            return cls(answers, 0.1, 0.3)
        constant = float(np.average(view.slice_truth, weights=q[view.owner]))
        return cls(answers, float(q[q > 0].mean()), constant)

    def predict(self, view: View) -> Prediction:
        """The same for every exam and slice."""
        return self.constant(len(view.studies), len(view.sops))

    def constant(self, exams: int, slices: int) -> Prediction:
        """The prediction for so many exams and slices of which nothing is known."""
        answers = {question: np.full(exams, value) for question, value in self.answers.items()}
        return Prediction(answers, np.full(exams, self.q_given_pe), np.full(slices, self.slice_probability))

    def save(self, folder: Path) -> dict[str, Any]:
        """Plain values; no file is written."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Prior":
        """Read what `save` returned."""
        return cls(**value)


@dataclasses.dataclass(frozen=True)
class PositionOnly:
    """Exam priors, and slice trees on the relative z alone: what a network may learn without looking at clots."""

    prior: Prior
    trees: Trees

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "PositionOnly":
        """Learn from the slices of exams with PE, weighted with q."""
        known = Prior.fit(view, settings)
        with_pe = view.take(view.truth["q"].to_numpy() > 0)
        shape = TreeShape(
            settings.slice_leaves, settings.slice_min_data, settings.slice_rate, settings.slice_rounds,
            1, 1.0, settings.inner_folds, settings.seed, settings.threads,
        )  # fmt: skip
        base = np.full(len(with_pe.sops), float(logit(known.slice_probability)))
        weight = with_pe.truth["q"].to_numpy(float)[with_pe.owner]
        table = _position(with_pe)
        return cls(known, fit_trees(table, with_pe.slice_truth, base, shape, exams=with_pe.owner, weight=weight))

    def predict(self, view: View) -> Prediction:
        """Exam priors and a slice probability by height."""
        plain = self.prior.predict(view)
        return dataclasses.replace(plain, slices=expit(logit(plain.slices) + self.trees.correction(_position(view))))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; returns the JSON value that `load` needs."""
        return {"prior": self.prior.save(folder), "trees": self.trees.save(folder / "z_only.txt")}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "PositionOnly":
        """Read what `save` wrote, digest first."""
        return cls(Prior.load(folder, value["prior"]), Trees.load(folder, value["trees"]))


def _position(view: View) -> pd.DataFrame:
    return pd.DataFrame({"relative_z": view.segments.relative_z.astype(np.float32)})
