"""The baseline of the stack: the mean of the networks' logits, with two or three parameters per label.

Each exam target is a ridge logistic regression on a few pooled logits of the exam; the slice probability is one on the
mean logit smoothed along z and the exam's level. With one network it is that network's own score. The stack's slices
start from the same model on every network's logit instead of their mean.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.binary_targets import PE, Prediction, is_rare, target_labels
from ensemble.exam_model import ExamModel
from ensemble.exam_table import exam_table
from ensemble.label_states import GIVEN_PE
from ensemble.logistic import Logistic, expit
from ensemble.segments import Segments
from ensemble.view import View
from input.contest import (
    CENTRAL,
    GTE_1,
    INDETERMINATE,
    LABEL_TITLES,
    LEFT,
    NEGATIVE,
    QA_CONTRAST,
    QA_MOTION,
    RIGHT,
)
from pipeline.console import say
from pipeline.settings import EnsembleSettings

#: target -> the columns of the exam table that its model reads, where the table has them.
POOLED = {
    PE: ("mean.contrast", "mean.top_20mm", "mean.top_100mm", f"{NEGATIVE}.mean.mean", "clot.mean.peak"),
    INDETERMINATE: (f"{QA_MOTION}.mean.mean", f"{QA_CONTRAST}.mean.mean", f"{INDETERMINATE}.mean.mean"),
    **{label: (f"{label}.mean.attended", "clot.mean.chronic_share", "clot.mean.hu") for label in GIVEN_PE},
    GTE_1: (f"{GTE_1}.mean.mean", f"{GTE_1}.mean.attended", "mean.top_100mm"),
    LEFT: (f"{LEFT}.mean.attended", f"{LEFT}.mean.top_20mm", "clot.mean.left_volume", "clot.mean.left_area"),
    RIGHT: (f"{RIGHT}.mean.attended", f"{RIGHT}.mean.top_20mm", "clot.mean.right_volume", "clot.mean.right_area"),
    CENTRAL: (
        f"{CENTRAL}.mean.attended",
        f"{CENTRAL}.mean.top_20mm",
        "clot.mean.central_volume",
        "clot.mean.central_area",
    ),
}
SMOOTHING_MM = (0.0, 3.0, 6.0, 12.0)


def fit_exam_models(
    table: pd.DataFrame, truth: pd.DataFrame, settings: EnsembleSettings, candidate: str
) -> dict[str, ExamModel]:
    """Fit one model per target on the eligible exams; a rare target gets its prior, which is logged.

    Args:
        table: (e rows) the exam table.
        truth: (e rows) the exams' labels and q.
        settings: the ridge penalty.
        candidate: name of the candidate in the log.

    Returns:
        target -> model.
    """
    models = {}
    for target, (eligible, labels) in target_labels(truth).items():
        columns = [name for name in POOLED[target] if name in table]
        if is_rare(labels) or not columns:
            report_prior(candidate, target, labels)
            models[target] = ExamModel.prior(labels)
        else:
            x = table.loc[eligible, columns].to_numpy(float)
            models[target] = ExamModel(tuple(columns), Logistic.fit(x, labels, penalty=settings.ridge))
    return models


def report_prior(candidate: str, target: str, labels: np.ndarray) -> None:
    """Log that a candidate predicts the prior of a target instead of a model."""
    title = LABEL_TITLES.get(target, "PE")
    say(f"  {candidate}: {title}: {int(labels.sum())} positive of {len(labels)} exams, predicting the prior")


@dataclasses.dataclass(frozen=True)
class SliceModel:
    """Slice probability from smoothed logits and their level in the exam; `q_scale` turns its mean into E[q].

    The smoothed logits are those of each network if networks are weighed, else their mean.
    """

    model: Logistic
    sigma_mm: float
    q_scale: float
    weigh_networks: bool = False

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings, *, weigh_networks: bool = False) -> "SliceModel":
        """Learn from the slices of exams with PE, weighted by q, as the metric counts them."""
        view = view.with_pe()
        truth, y = view.require_truth()
        q = truth["q"].to_numpy(float)
        weight = q[view.owner]
        fits = []
        for sigma in SMOOTHING_MM:
            x = _slice_columns(view, sigma, weigh_networks)
            model = Logistic.fit(x, y, weight=weight, penalty=settings.ridge)
            p = expit(model.decision(x))
            fits.append((-np.average(y * np.log(p) + (1 - y) * np.log1p(-p), weights=weight), model, sigma))
        _, model, sigma = min(fits, key=lambda fit: fit[0])
        p = expit(model.decision(_slice_columns(view, sigma, weigh_networks)))
        return cls(model, sigma, q_scale(view.segments, p, q), weigh_networks)

    def decision(self, view: View) -> np.ndarray:
        """(n,) logits."""
        return self.model.decision(_slice_columns(view, self.sigma_mm, self.weigh_networks))

    def as_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        return dataclasses.asdict(self) | {"model": self.model.as_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SliceModel":
        """The model that `as_json` wrote."""
        return cls(**(value | {"model": Logistic.from_json(value["model"])}))


def q_scale(segments: Segments, probability: np.ndarray, q: np.ndarray) -> float:
    """Ratio of q to the mean slice probability over exams with PE.

    The slice probability is q-weighted, so its mean overestimates q.

    Args:
        segments: n slices of e exams.
        probability: (n,) slice probabilities.
        q: (e,) share of positive slices.
    """
    mean = segments.mean(probability, np.ones_like(probability))
    return float(q[q > 0].sum() / max(mean[q > 0].sum(), 1e-9))


def _slice_columns(view: View, sigma_mm: float, weigh_networks: bool) -> np.ndarray:
    """(n, columns) smoothed logits, mean of the exam's top 50 mm, mean of the exam."""
    segments, mean = view.segments, view.mean_logit()
    smooth = [segments.smooth(values, sigma_mm) for values in (view.logits.values() if weigh_networks else [mean])]
    level = segments.top_mm(mean, (50.0,))[:, 0]
    base = segments.mean(mean)
    return np.column_stack([*smooth, level[view.owner], base[view.owner]])


@dataclasses.dataclass(frozen=True)
class Blend:
    """Logit mean of a view's networks with a small calibration: `fit`, `predict`, stored as JSON."""

    networks: tuple[str, ...]
    exams: dict[str, ExamModel]
    slices: SliceModel

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings, *, name: str = "mean") -> "Blend":
        """Learn from a view with truth.

        Args:
            view: the training exams, with the networks to average.
            settings: the ridge penalty.
            name: the candidate's name in the log.
        """
        truth, _ = view.require_truth()
        exams = fit_exam_models(exam_table(view), truth, settings, name)
        return cls(tuple(view.logits), exams, SliceModel.fit(view, settings))

    def predict(self, view: View) -> Prediction:
        """Target probabilities, E[q | PE] and slice probabilities of a view."""
        view = view.of_networks(self.networks)
        table = exam_table(view)
        probabilities = {target: expit(model.decision(table)) for target, model in self.exams.items()}
        slices = expit(self.slices.decision(view))
        mean = view.segments.mean(slices, np.ones_like(slices))
        return Prediction(probabilities, np.clip(self.slices.q_scale * mean, 1e-3, 1), slices)

    def save(self, folder: Path) -> dict[str, Any]:
        """JSON values; no file is written."""
        return {
            "networks": list(self.networks),
            "exams": {target: model.as_json() for target, model in self.exams.items()},
            "slices": self.slices.as_json(),
        }

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Blend":
        """Read what `save` returned."""
        return cls(
            tuple(value["networks"]),
            {target: ExamModel.from_json(model) for target, model in value["exams"].items()},
            SliceModel.from_json(value["slices"]),
        )
