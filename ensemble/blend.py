"""The plain rival of the stack: the mean of the networks' logits, and two or three parameters a label.

Each question is answered by a ridge logistic regression on a few pooled logits of the exam; slices by one
on the mean logit smoothed along z and the exam's level. With one network it is that network's own score.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import PE, QUESTIONS, Prediction, asked, prior, rare
from ensemble.exam_table import exam_table
from ensemble.label_states import GIVEN_PE
from ensemble.logistic import Logistic, expit, logit
from ensemble.predictions import View
from ensemble.segments import Segments
from input.contest import CENTRAL, GTE_1, INDETERMINATE, LEFT, NEGATIVE, QA_CONTRAST, QA_MOTION, RIGHT
from pipeline.console import say
from pipeline.settings import EnsembleSettings

#: question -> columns of the exam table that it is read from, where present.
POOLED = {
    PE: ("mean.contrast", "mean.top_20mm", "mean.top_100mm", f"{NEGATIVE}.mean.mean"),
    INDETERMINATE: (f"{QA_MOTION}.mean.mean", f"{QA_CONTRAST}.mean.mean", f"{INDETERMINATE}.mean.mean"),
    **{label: (f"{label}.mean.attended", "mean.top_100mm") for label in GIVEN_PE},
    GTE_1: (f"{GTE_1}.mean.mean", f"{GTE_1}.mean.attended", "mean.top_100mm"),
    LEFT: (f"{LEFT}.mean.attended", "left_minus_right", "mean.top_100mm"),
    RIGHT: (f"{RIGHT}.mean.attended", "left_minus_right", "mean.top_100mm"),
    CENTRAL: (f"{CENTRAL}.mean.attended", f"{CENTRAL}.mean.top_20mm", "mean.top_100mm"),
}
SMOOTHING_MM = (0.0, 3.0, 6.0, 12.0)


@dataclasses.dataclass(frozen=True)
class ExamLogistics:
    """A logistic regression, or a prior, for every question."""

    models: dict[str, Logistic | float]
    columns: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, table: pd.DataFrame, truth: pd.DataFrame, settings: EnsembleSettings, who: str) -> "ExamLogistics":
        """Learn every question from the exams it is asked of; a rare answer gets its prior, and that is said.

        `who` names the candidate where it is said; empty, where the caller's own models say it, stays silent.
        """
        models: dict[str, Logistic | float] = {}
        columns = {}
        for question, (rows, answers) in asked(truth).items():
            columns[question] = tuple(name for name in POOLED[question] if name in table)
            if rare(answers) or not columns[question]:
                models[question] = prior(answers)
                if who:
                    say(
                        f"  {who}: {question} has {int(answers.sum())} yes in {len(answers)} exams, "
                        "predicting the prior"
                    )
            else:
                x = table.loc[rows, list(columns[question])].to_numpy(float)
                models[question] = Logistic.fit(x, answers, penalty=settings.ridge)
        return cls(models, columns)

    def decisions(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """question -> (e,) logit of yes."""
        found = {}
        for question in QUESTIONS:
            model = self.models[question]
            if isinstance(model, Logistic):
                found[question] = model.decision(table.reindex(columns=list(self.columns[question])).to_numpy(float))
            else:
                found[question] = np.full(len(table), float(logit(np.array(model))))
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        models = {q: m.as_json() if isinstance(m, Logistic) else m for q, m in self.models.items()}
        return {"models": models, "columns": {q: list(names) for q, names in self.columns.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ExamLogistics":
        """The models that `as_json` wrote."""
        models = {q: Logistic.from_json(m) if isinstance(m, dict) else m for q, m in value["models"].items()}
        return cls(models, {q: tuple(names) for q, names in value["columns"].items()})


@dataclasses.dataclass(frozen=True)
class SliceLogistic:
    """Slice probability from the smoothed mean logit and its exam's level; `q_scale` turns its mean into E[q]."""

    model: Logistic
    sigma_mm: float
    q_scale: float

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "SliceLogistic":
        """Learn from the slices of exams with PE, weighted with q, as the metric counts them."""
        view = view.take(view.truth["q"].to_numpy() > 0)
        q = view.truth["q"].to_numpy(float)
        y, weight = view.slice_truth, q[view.owner]
        best: tuple[float, Logistic, float] | None = None
        for sigma in SMOOTHING_MM:
            x = _slice_columns(view, sigma)
            model = Logistic.fit(x, y, weight=weight, penalty=settings.ridge)
            p = expit(model.decision(x))
            loss = -np.average(y * np.log(p) + (1 - y) * np.log1p(-p), weights=weight)
            if best is None or loss < best[0]:
                best = (loss, model, sigma)
        _, model, sigma = best
        p = expit(model.decision(_slice_columns(view, sigma)))
        return cls(model, sigma, q_scale(view.segments, p, q))

    def decision(self, view: View) -> np.ndarray:
        """(n,) logits."""
        return self.model.decision(_slice_columns(view, self.sigma_mm))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"model": self.model.as_json(), "sigma_mm": self.sigma_mm, "q_scale": self.q_scale}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SliceLogistic":
        """The model that `as_json` wrote."""
        return cls(Logistic.from_json(value["model"]), value["sigma_mm"], value["q_scale"])


def q_scale(segments: Segments, probability: np.ndarray, q: np.ndarray) -> float:
    """Ratio of q to the mean slice probability over exams with PE.

    The slice probability is q-weighted, so its mean overstates q.
    """
    mean = segments.mean(probability, np.ones_like(probability))
    return float(q[q > 0].sum() / max(mean[q > 0].sum(), 1e-9))


def _slice_columns(view: View, sigma_mm: float) -> np.ndarray:
    values = view.mean_logit()
    smooth = view.segments.smooth(values, sigma_mm)
    level = view.segments.top_mm(values, (50.0,))[:, 0]
    base = view.segments.mean(values)
    return np.column_stack([smooth, level[view.owner], base[view.owner]])


@dataclasses.dataclass(frozen=True)
class Blend:
    """Logit mean of a view's networks with a small calibration: `fit`, `predict`, kept as JSON."""

    networks: tuple[str, ...]
    exams: ExamLogistics
    slices: SliceLogistic

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings, *, who: str = "mean") -> "Blend":
        """Learn from a view with truth. `who` names the candidate where a prior has to stand in."""
        table = exam_table(view)
        return cls(
            tuple(view.logits),
            ExamLogistics.fit(table, view.truth, settings, who),
            SliceLogistic.fit(view, settings),
        )

    def predict(self, view: View) -> Prediction:
        """Answers, E[q | PE] and slice probabilities of a view."""
        view = view.of_networks(self.networks)
        answers = {q: expit(value) for q, value in self.exams.decisions(exam_table(view)).items()}
        slices = expit(self.slices.decision(view))
        mean = view.segments.mean(slices, np.ones_like(slices))
        return Prediction(answers, np.clip(self.slices.q_scale * mean, 1e-3, 1), slices)

    def save(self, folder: Path) -> dict[str, Any]:
        """Plain values; no file is written."""
        return {
            "networks": list(self.networks), "exams": self.exams.as_json(), "slices": self.slices.as_json()
        }  # fmt: skip

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Blend":
        """Read what `save` returned."""
        return cls(
            tuple(value["networks"]),
            ExamLogistics.from_json(value["exams"]),
            SliceLogistic.from_json(value["slices"]),
        )
