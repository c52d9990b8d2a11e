"""The linear model of one binary target of an exam."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import prior_probability
from ensemble.logistic import Logistic, logit


@dataclasses.dataclass(frozen=True)
class ExamModel:
    """A constant logit, or a logistic regression on named columns of the exam table."""

    columns: tuple[str, ...]
    model: Logistic | float

    @classmethod
    def fit(cls, table: pd.DataFrame, labels: np.ndarray, columns: list[str], penalty: float) -> "ExamModel":
        """Fit on the eligible exams; the prior where only one class, or no column, is given.

        Args:
            table: (e rows) the exam table of the eligible exams.
            labels: (e,) 0/1.
            columns: the columns to use.
            penalty: ridge on the standardised coefficients.
        """
        if not columns or labels.min() == labels.max():
            return cls.prior(labels)
        return cls(tuple(columns), Logistic.fit(table[columns].to_numpy(float), labels, penalty=penalty))

    @classmethod
    def prior(cls, labels: np.ndarray) -> "ExamModel":
        """The constant logit of the labels' prior."""
        return cls((), float(logit(prior_probability(labels))))

    def decision(self, table: pd.DataFrame) -> np.ndarray:
        """(e,) logits."""
        if isinstance(self.model, Logistic):
            return self.model.decision(table.reindex(columns=list(self.columns)).to_numpy(float))
        return np.full(len(table), self.model)

    def as_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        model = self.model.as_json() if isinstance(self.model, Logistic) else self.model
        return {"columns": list(self.columns), "model": model}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ExamModel":
        """The model that `as_json` wrote."""
        model = value["model"]
        return cls(tuple(value["columns"]), Logistic.from_json(model) if isinstance(model, dict) else model)
