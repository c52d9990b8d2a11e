"""Baselines that a model must beat: the label priors, and a LightGBM that reads only the position of a slice."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import Prediction, prior_probability, target_labels
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees
from ensemble.logistic import expit, logit
from ensemble.view import View
from pipeline.settings import EnsembleSettings


@dataclasses.dataclass(frozen=True)
class Prior:
    """The label shares of the training exams, and the constant slice probability with the lowest metric."""

    target_probabilities: dict[str, float]
    q_given_pe: float
    slice_probability: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "Prior":
        """Learn from a view with truth. The best constant weights every slice by its exam's q."""
        truth, slice_truth = view.require_truth()
        q = truth["q"].to_numpy(float)
        probabilities = {target: prior_probability(labels) for target, (_, labels) in target_labels(truth).items()}
        if not (q > 0).any():
            return cls(probabilities, 0.1, 0.3)
        constant = float(np.average(slice_truth, weights=q[view.owner]))
        return cls(probabilities, float(q[q > 0].mean()), constant)

    def predict(self, view: View) -> Prediction:
        """The same values for every exam and slice of the view."""
        return self.constant(len(view.studies), len(view.sops))

    def constant(self, exams: int, slices: int) -> Prediction:
        """The same values for the given numbers of exams and slices."""
        probabilities = {target: np.full(exams, value) for target, value in self.target_probabilities.items()}
        return Prediction(probabilities, np.full(exams, self.q_given_pe), np.full(slices, self.slice_probability))

    def save(self, folder: Path) -> dict[str, Any]:
        """JSON values; no file is written."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Prior":
        """Read what `save` returned."""
        return cls(**value)


@dataclasses.dataclass(frozen=True)
class PositionOnly:
    """Exam priors, and slice trees on the relative z alone: the score that is possible without looking at clots."""

    prior: Prior
    trees: Trees

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "PositionOnly":
        """Learn from the slices of exams with PE, weighted by q."""
        prior = Prior.fit(view, settings)
        with_pe = view.with_pe()
        truth, slice_truth = with_pe.require_truth()
        shape = TreeShape(
            settings.slice_leaves, settings.slice_min_data, settings.slice_rate, settings.slice_rounds,
            1, 1.0, settings.inner_folds, settings.seed, settings.threads,
        )  # fmt: skip
        base = np.full(len(with_pe.sops), float(logit(prior.slice_probability)))
        weight = truth["q"].to_numpy(float)[with_pe.owner]
        table = _position(with_pe)
        return cls(prior, fit_trees(table, slice_truth, base, shape, exams=with_pe.owner, weight=weight))

    def predict(self, view: View) -> Prediction:
        """Exam priors, and a slice probability that depends on the relative z."""
        constant = self.prior.predict(view)
        slices = expit(logit(constant.slices) + self.trees.correction(_position(view)))
        return dataclasses.replace(constant, slices=slices)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; return the JSON value that `load` needs."""
        return {"prior": self.prior.save(folder), "trees": self.trees.save(folder / "z_only.txt")}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "PositionOnly":
        """Read what `save` wrote; the digest is checked first."""
        return cls(Prior.load(folder, value["prior"]), Trees.load(folder, value["trees"]))


def _position(view: View) -> pd.DataFrame:
    return pd.DataFrame({"relative_z": view.segments.relative_z.astype(np.float32)})
