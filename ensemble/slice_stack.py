"""Slice probabilities by LightGBM, on top of a regression on the networks' logits, from neighbours and exam."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blend import SliceModel, q_scale
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees
from ensemble.logistic import expit
from ensemble.slice_table import slice_table
from ensemble.tree_bag import TreeBag, fit_members
from ensemble.view import View
from pipeline.settings import EnsembleSettings


@dataclasses.dataclass(frozen=True)
class SliceStack:
    """The base slice model, the trees that correct it, and the ratio of q to the mean slice probability."""

    base_model: SliceModel
    trees: TreeBag
    q_scale: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "SliceStack":
        """Learn from the slices of exams with PE, weighted by q: exactly what the metric counts."""
        base_model = SliceModel.fit(view, settings, weigh_networks=True)
        with_pe = view.with_pe()
        truth, slice_truth = with_pe.require_truth()
        base = base_model.decision(with_pe)
        shape = TreeShape(
            settings.slice_leaves, settings.slice_min_data, settings.slice_rate, settings.slice_rounds,
            0, 0.5, settings.inner_folds, settings.seed, settings.threads,
        )  # fmt: skip
        q = truth["q"].to_numpy(float)
        table = slice_table(with_pe, base)

        def fit_member(seed: int) -> Trees:
            own = dataclasses.replace(shape, seed=seed)
            return fit_trees(table, slice_truth, base, own, exams=with_pe.owner, weight=q[with_pe.owner])

        trees = TreeBag(tuple(fit_members(fit_member, table.size, settings)))
        fitted = expit(base + trees.correction(table))
        return cls(base_model, trees, q_scale(with_pe.segments, fitted, q))

    def predict(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Slice probabilities (n,) and E[q | PE] (e,)."""
        base = self.base_model.decision(view)
        slices = expit(base + self.trees.correction(slice_table(view, base)))
        mean = view.segments.mean(slices, np.ones_like(slices))
        return slices, np.clip(self.q_scale * mean, 1e-3, 1)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; return the JSON value that `load` needs."""
        trees = self.trees.save(folder / "slices.txt")
        return {"base_model": self.base_model.as_json(), "trees": trees, "q_scale": self.q_scale}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "SliceStack":
        """Read what `save` wrote; the digest is checked first."""
        base_model = SliceModel.from_json(value["base_model"])
        return cls(base_model, TreeBag.load(folder, value["trees"]), value["q_scale"])
