"""Feature contributions: what each column of the exam table adds to the second-level model's logit of PE.

Exact, not an approximation, unless a regression reaches the bound of its logit (ensemble.logistic.LIMIT): the logit is
a weighted sum of logistic regressions plus the mean of several sums of trees. A regression contributes coefficient
times standardised value; the trees contribute LightGBM's `pred_contrib` (SHAP values of tree ensembles: Lundberg et al.
2018, arXiv 1802.03888). The base value and all contributions add up to the logit before decoding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ensemble.binary_targets import PE
from ensemble.blend import Blend
from ensemble.candidates import Candidate, load_candidate
from ensemble.exam_model import ExamModel
from ensemble.exam_table import exam_table
from ensemble.gradient_boosting import Trees
from ensemble.logistic import Logistic
from ensemble.predictions import Measured, make_view
from ensemble.stack import Stack
from ensemble.tree_bag import TreeBag
from ensemble.view import View
from pipeline import paths
from pipeline.artifact import verify
from pipeline.files import read_json

#: fold -> network -> its slice predictions.
Networks = dict[int, dict[str, pd.DataFrame]]


@dataclasses.dataclass(frozen=True)
class Contributions:
    """The contributions to one exam's logit of PE.

    Attributes:
        base: the base value, common to all exams.
        parts: (columns,) contribution of each column, indexed by its name.
        values: (columns,) the columns' values in this exam; NaN where not measured.
    """

    base: float
    parts: pd.Series
    values: pd.Series

    @property
    def logit(self) -> float:
        """The second-level model's logit of PE."""
        return self.base + float(self.parts.sum())

    def strongest(self, count: int) -> list[tuple[str, float, float]]:
        """(column, contribution, value) of the contributions with the largest magnitude."""
        order = self.parts.abs().sort_values(ascending=False, kind="stable").index[:count]
        return [(name, float(self.parts[name]), float(self.values[name])) for name in order]

    def remainder(self, count: int) -> float:
        """The sum of all contributions except the `count` strongest."""
        return float(self.parts.sum()) - sum(part for _, part, _ in self.strongest(count))


def candidate_contributions(
    name: str, role: str, networks: Networks, slices: pd.DataFrame, measured: Measured
) -> dict[str, Contributions]:
    """Compute the contributions for some exams with a candidate of the finished ensemble.

    Args:
        name: the candidate.
        role: "oof": each fold's exams are explained by the model fitted without that fold; "test": by the final model.
        networks: the networks' predictions for these exams.
        slices: STUDY, SOP and z_mm of their slices.
        measured: numbers measured on the pixels.

    Returns:
        StudyInstanceUID -> contributions; empty without network predictions.
    """
    views = {fold: make_view(tables, slices, measured) for fold, tables in sorted(networks.items())}
    if role == "oof":
        explained = [contributions(_load_candidate(name, f"fold{fold}"), [view]) for fold, view in views.items()]
        return {study: parts for fold_exams in explained for study, parts in fold_exams.items()}
    return contributions(_load_candidate(name, "final"), list(views.values())) if views else {}


def _load_candidate(name: str, part: str) -> Candidate:
    """A fitted candidate of the finished ensemble; `part` is `final`, or `fold<k>`: fitted without fold k."""
    directory = paths.ensemble_run()
    verify(directory, ["models.json"])
    return load_candidate(read_json(directory / "models.json")[part], name, directory / "trees" / part)


def contributions(candidate: Candidate, views: Sequence[View]) -> dict[str, Contributions]:
    """Compute the contributions for the exams of some views, averaged over the views.

    Args:
        candidate: the fitted second-level model; baselines use no columns and give an empty result.
        views: the same exams, each with the predictions of one fold's networks.

    Returns:
        StudyInstanceUID -> contributions.
    """
    if not isinstance(candidate, Blend | Stack):
        return {}
    tables = [exam_table(view.of_networks(candidate.networks)) for view in views]
    bases, parts = zip(*(_table_contributions(candidate, table) for table in tables), strict=True)
    columns = list(parts[0])
    base = np.mean(bases, axis=0)
    mean_parts = np.mean([part.to_numpy() for part in parts], axis=0)
    mean_values = np.mean([table.reindex(columns=columns).to_numpy() for table in tables], axis=0)
    return {
        study: Contributions(
            float(base[row]), pd.Series(mean_parts[row], columns), pd.Series(mean_values[row], columns)
        )
        for row, study in enumerate(views[0].studies)
    }


def _table_contributions(candidate: Blend | Stack, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Base values (exams,) and contributions (exams, columns used) for the rows of an exam table."""
    weighted_models, bag = _pe_models(candidate)
    model_columns = [name for _, model in weighted_models for name in model.columns]
    tree_columns = [name for trees in bag.members for name in trees.columns]
    columns = list(dict.fromkeys([*model_columns, *tree_columns]))
    table = table.reindex(columns=columns)  # a column that was never measured here is missing in every row
    base, parts = np.zeros(len(table)), pd.DataFrame(0.0, index=table.index, columns=columns)
    for weight, linear in weighted_models:
        if not isinstance(linear.model, Logistic):
            base += weight * linear.model
            continue
        base += weight * linear.model.intercept
        parts[list(linear.columns)] += weight * _linear_parts(linear.model, table[list(linear.columns)].to_numpy(float))
    for trees in bag.members:
        if trees.text:
            tree_parts = _tree_parts(trees, table) / len(bag.members)
            base += tree_parts[:, -1]
            parts[list(trees.columns)] += tree_parts[:, :-1]
    return base, parts


def _pe_models(candidate: Blend | Stack) -> tuple[list[tuple[float, ExamModel]], TreeBag]:
    """The weighted linear models and the trees whose sum is the logit of PE."""
    if isinstance(candidate, Blend):
        return [(1.0, candidate.exams[PE])], TreeBag()
    target = candidate.exams.targets[PE]
    return list(zip(target.weights, target.base_models, strict=True)), target.trees


def _linear_parts(model: Logistic, x: np.ndarray) -> np.ndarray:
    """(exams, columns): coefficient times standardised value; 0 for missing values."""
    z = (x - np.array(model.centre)) / np.array(model.scale)
    return np.where(np.isfinite(z), z, 0) * np.array(model.coefficients)


def _tree_parts(trees: Trees, table: pd.DataFrame) -> np.ndarray:
    """(exams, columns + 1): SHAP values of the trees, their expected value last."""
    import lightgbm

    values = table[list(trees.columns)].to_numpy(np.float32)
    return np.asarray(lightgbm.Booster(model_str=trees.text).predict(values, pred_contrib=True))
