"""The exam targets predicted by a mixture of linear models, corrected by LightGBM.

Small contests have fewer than a hundred eligible exams for most targets, so each prediction starts from three base
models: the prior, the blend's logistic regression on a few pooled logits, and a wide one that adds the columns of the
exam table that correlate best with the label. Their logits are mixed with weights of 0, 1/4, ..., 1 that sum to 1 and
are chosen by cross-validation inside the training exams. Trees are fitted on the residual of the mixture, using its
cross-fitted logits. Both are repeated with other inner folds (see `ensemble.tree_bag`), and averaged.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import TARGETS, is_rare, target_labels
from ensemble.blend import POOLED, report_prior
from ensemble.exam_model import ExamModel
from ensemble.exam_table import exam_table
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees, inner_folds, log_loss, ranks_of, strongest
from ensemble.logistic import expit
from ensemble.tree_bag import TreeBag, fit_members
from ensemble.view import View
from pipeline.settings import EnsembleSettings

STEPS = 4
WEIGHTS = [np.array(parts) / STEPS for parts in itertools.product(range(STEPS + 1), repeat=3) if sum(parts) == STEPS]


@dataclasses.dataclass(frozen=True)
class TargetModel:
    """Base models of one target, their weights, and the trees on top."""

    base_models: tuple[ExamModel, ...]
    weights: tuple[float, ...]
    trees: TreeBag

    def decision(self, table: pd.DataFrame) -> np.ndarray:
        """(e,) logit of the target."""
        weighted = zip(self.weights, self.base_models, strict=True)
        mixed = np.sum([weight * model.decision(table) for weight, model in weighted], axis=0)
        return mixed + self.trees.correction(table)

    def save(self, path: Path) -> dict[str, Any]:
        """Write the trees to `path`; return the JSON value that `load` needs."""
        return {
            "base_models": [model.as_json() for model in self.base_models],
            "weights": list(self.weights),
            "trees": self.trees.save(path),
        }

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "TargetModel":
        """Read what `save` wrote; the digest is checked first."""
        base_models = tuple(map(ExamModel.from_json, value["base_models"]))
        return cls(base_models, tuple(value["weights"]), TreeBag.load(folder, value["trees"]))


@dataclasses.dataclass(frozen=True)
class ExamStack:
    """A `TargetModel` for every target."""

    targets: dict[str, TargetModel]

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "ExamStack":
        """Learn every target from the eligible exams; a rare target gets its prior, which is logged."""
        truth, _ = view.require_truth()
        table = exam_table(view)
        ranks = ranks_of(table)
        targets = {}
        for target, (eligible, labels) in target_labels(truth).items():
            if is_rare(labels):
                report_prior("stack", target, labels)
                targets[target] = TargetModel((ExamModel.prior(labels),), (1.0,), TreeBag())
            else:
                eligible_table = table[eligible].reset_index(drop=True)
                targets[target] = _fit_target(target, eligible_table, ranks[eligible], labels, settings)
        return cls(targets)

    def predict(self, view: View) -> dict[str, np.ndarray]:
        """target -> (e,) probability."""
        table = exam_table(view)
        return {target: expit(self.targets[target].decision(table)) for target in TARGETS}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; return the JSON value that `load` needs."""
        return {target: model.save(folder / f"{target}.txt") for target, model in self.targets.items()}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "ExamStack":
        """Read what `save` wrote; the digests are checked first."""
        return cls({target: TargetModel.load(folder, saved) for target, saved in value.items()})


def _fit_target(
    target: str, table: pd.DataFrame, ranks: np.ndarray, labels: np.ndarray, settings: EnsembleSettings
) -> TargetModel:
    """Choose the weights of the base models by cross-validation, fit the trees, refit the base models on all exams."""
    shape = TreeShape(
        settings.exam_leaves, settings.exam_min_data, settings.exam_rate, settings.exam_rounds,
        max(settings.features, len(labels) // 10), 0.3, settings.inner_folds, settings.seed, settings.threads,
    )  # fmt: skip
    exams = np.arange(len(labels))

    def fit_member(seed: int) -> tuple[np.ndarray, Trees]:
        cross_fitted = _cross_fit(target, table, ranks, labels, dataclasses.replace(settings, seed=seed))
        weights = min(WEIGHTS, key=lambda mixture: log_loss(labels, mixture @ cross_fitted, np.ones(len(labels))))
        own = dataclasses.replace(shape, seed=seed)
        return weights, fit_trees(table, labels, weights @ cross_fitted, own, exams=exams, ranks=ranks)

    weights, members = zip(*fit_members(fit_member, table.size, settings), strict=True)
    models = _fit_base_models(target, table, ranks, labels, settings)
    return TargetModel(models, tuple(map(float, np.mean(weights, axis=0))), TreeBag(members))


def _cross_fit(
    target: str, table: pd.DataFrame, ranks: np.ndarray, labels: np.ndarray, settings: EnsembleSettings
) -> np.ndarray:
    """(3, e) logits of the base models, of each exam by those that were fitted without its inner fold."""
    fold = inner_folds(labels, np.arange(len(labels)), settings.inner_folds, settings.seed)
    cross_fitted = np.empty((3, len(labels)))
    for number in range(settings.inner_folds):
        held_out = fold == number
        models = _fit_base_models(target, table[~held_out], ranks[~held_out], labels[~held_out], settings)
        cross_fitted[:, held_out] = [model.decision(table[held_out]) for model in models]
    return cross_fitted


def _fit_base_models(
    target: str, table: pd.DataFrame, ranks: np.ndarray, labels: np.ndarray, settings: EnsembleSettings
) -> tuple[ExamModel, ExamModel, ExamModel]:
    """Prior, pooled logistic regression, wide logistic regression."""
    pooled = [name for name in POOLED[target] if name in table]
    best = strongest(table.columns, ranks, labels - labels.mean(), np.ones(len(labels)), settings.wide_columns)
    wide = list(dict.fromkeys([*pooled, *best]))
    return (
        ExamModel.prior(labels),
        ExamModel.fit(table, labels, pooled, settings.ridge),
        ExamModel.fit(table, labels, wide, settings.wide_ridge),
    )
