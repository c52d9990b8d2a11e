"""What moved the second level's answer to "is there PE?", column by column, in logits.

Exact, not an approximation, while no regression reaches the bound of its logit (ensemble.logistic.LIMIT): the answer
is a weighted sum of logistic regressions and a sum of trees. A regression's part of a column is coefficient times
standardised value; the trees' part is LightGBM's `pred_contrib` (SHAP values of a sum of trees: Lundberg et al. 2018,
arXiv 1802.03888). Base and all parts add up to the logit before decoding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ensemble.binary_targets import PE
from ensemble.blend import Blend
from ensemble.candidates import Candidate
from ensemble.exam_stack import Plain
from ensemble.exam_table import exam_table
from ensemble.gradient_boosting import Trees
from ensemble.logistic import Logistic, logit
from ensemble.predictions import View
from ensemble.stack import Stack


@dataclasses.dataclass(frozen=True)
class Contributions:
    """The parts of one exam's logit of PE.

    Attributes:
        base: what an exam starts from, the parts' common reference.
        parts: (columns,) what each column adds, indexed by its name.
        values: (columns,) the columns' values in this exam.
    """

    base: float
    parts: pd.Series
    values: pd.Series

    @property
    def logit(self) -> float:
        """The second level's logit of PE."""
        return self.base + float(self.parts.sum())

    def strongest(self, count: int) -> list[tuple[str, float, float]]:
        """(column, part, value) of the largest parts, in either direction."""
        order = self.parts.abs().sort_values(ascending=False, kind="stable").index[:count]
        return [(name, float(self.parts[name]), float(self.values[name])) for name in order]

    def rest(self, count: int) -> float:
        """What all columns but the strongest add together."""
        return float(self.parts.sum()) - sum(part for _, part, _ in self.strongest(count))


def contributions(candidate: Candidate, views: Sequence[View]) -> dict[str, Contributions]:
    """StudyInstanceUID -> parts, the mean over the views: each fold's networks give one.

    Args:
        candidate: the fitted second level; baselines read no columns and give an empty result.
        views: the same exams as each fold's networks see them.
    """
    if not isinstance(candidate, Blend | Stack):
        return {}
    bases, parts, values = [], [], []
    for view in views:
        seen = view.of_networks(candidate.networks)
        table = exam_table(seen)
        base, part = _of_table(candidate, table)
        bases.append(base)
        parts.append(part)
        values.append(table.reindex(columns=list(part)))
    base = np.mean(bases, axis=0)
    part, value = (np.mean([frame.to_numpy() for frame in each], axis=0) for each in (parts, values))
    names = list(parts[0])
    return {
        study: Contributions(float(base[row]), pd.Series(part[row], names), pd.Series(value[row], names))
        for row, study in enumerate(views[0].studies)
    }


def _of_table(candidate: Blend | Stack, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """(base (e,), parts (e, columns used)) of an exam table."""
    if isinstance(candidate, Blend):
        model = candidate.exams.models[PE]  # a prior is kept as a probability there
        known = isinstance(model, Logistic)
        plain = [(1.0, Plain(candidate.exams.columns[PE], model) if known else Plain((), float(logit(model))))]
        trees = Trees()
    else:
        question = candidate.exams.questions[PE]
        plain, trees = list(zip(question.weights, question.plain, strict=True)), question.trees
    columns = list(dict.fromkeys([name for _, each in plain for name in each.columns] + list(trees.columns)))
    table = table.reindex(columns=columns)  # a column that was never measured here is missing in every row
    base, parts = np.zeros(len(table)), pd.DataFrame(0.0, index=table.index, columns=columns)
    for weight, each in plain:
        if not isinstance(each.model, Logistic):
            base += weight * each.model
            continue
        base += weight * each.model.intercept
        parts[list(each.columns)] += weight * _linear(each.model, table[list(each.columns)].to_numpy(float))
    if trees.text:
        found = _tree_parts(trees, table)
        base += found[:, -1]
        parts[list(trees.columns)] += found[:, :-1]
    return base, parts


def _linear(model: Logistic, x: np.ndarray) -> np.ndarray:
    z = (x - np.array(model.centre)) / np.array(model.scale)
    return np.where(np.isfinite(z), z, 0) * np.array(model.coefficients)


def _tree_parts(trees: Trees, table: pd.DataFrame) -> np.ndarray:
    """(e, columns + 1): SHAP values of the trees, their expectation last."""
    import lightgbm

    values = table[list(trees.columns)].to_numpy(np.float32)
    return np.asarray(lightgbm.Booster(model_str=trees.text).predict(values, pred_contrib=True))
