"""Trains one exam network on the embeddings that its slice network gives to the exams that it learned from.

The embeddings of different folds' networks do not compare, so exam network k sees the training exams
through slice network k (which has seen their labels) and predicts the exams of fold k, which neither
has seen. The loss is the contest's metric.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, SLICE_LABEL, SOP, STUDY
from models.checkpoint import load_arrays, save_arrays
from models.exam_network import exam_loss, exam_network, slice_loss
from models.exam_sequences import Grid, from_grid, grid_of, onto_grid, with_neighbours
from models.history import History
from models.optimizer import compile_network
from pipeline.errors import UserError
from pipeline.settings import ExamNetworkSettings


@dataclass(frozen=True)
class ExamSlices:
    """What a slice network says of one exam.

    Attributes:
        rows: (n,) the slices' rows in the table that they come from.
        z_mm: (n,) ascending positions, mm.
        numbers: (n, d) embedding and logits.
        labels: (n,) 0/1 slice labels, and `exam`: (9,) exam labels in the order of EXAM_LABELS; None where unknown.
    """

    rows: np.ndarray
    z_mm: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray | None = None
    exam: np.ndarray | None = None


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation (d,) of the training slices' numbers."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, exams: list[ExamSlices]) -> "Scale":
        """Measure over all slices of some exams, one exam in float64 at a time: all at once would fill gigabytes."""
        count = sum(len(each.numbers) for each in exams)
        mean = _summed(each.numbers.astype(np.float64) for each in exams) / count
        variance = _summed(np.square(each.numbers.astype(np.float64) - mean) for each in exams) / count
        return cls(mean, np.maximum(np.sqrt(variance), 1e-3))

    def save(self, path: Path) -> None:
        """Write both arrays."""
        save_arrays(path, {"mean": self.mean, "deviation": self.deviation})

    @classmethod
    def load(cls, path: Path) -> "Scale":
        """Read what `save` wrote."""
        return cls(**load_arrays(path))

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """Standardised numbers; an embedding that was silent in training cannot shout later."""
        return np.clip((numbers - self.mean) / self.deviation, -8, 8).astype(np.float32)


def _summed(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sum (d,) over the rows of all parts (n, d), row after row as if they were one array: to the same bits (d > 1)."""
    total = None
    for part in parts:
        total = (part if total is None else np.concatenate([total[None], part])).sum(axis=0)
    return total


def train_exam_network(
    exams: list[ExamSlices], kind: str, settings: ExamNetworkSettings, report: Callable[[int, float], None]
) -> tuple[keras.Model, Scale, History]:
    """Train from scratch; order, shifts and noise are a pure function of (seed, epoch).

    Args:
        exams: the training exams, with labels.
        kind: "gru" or "transformer".
        settings: recipe.
        report: called with (epoch, mean loss) after every epoch.

    Returns:
        The network, the inputs' scale, and the history; losses are in units of the metric.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)  # whatever this process drew before
    scale = Scale.of(exams)
    model = exam_network(kind, 3 * exams[0].numbers.shape[1], settings)
    compile_exam_network(model, settings, -(-len(exams) // settings.batch), metric_unit(exams))
    history = History()
    for epoch in range(settings.epochs):
        history.losses.append(_train_epoch(model, exams, scale, settings, epoch))
        history.rates.append(float(model.optimizer.learning_rate))
        report(epoch + 1, history.losses[-1])
    return model, scale, history


def compile_exam_network(model: keras.Model, settings: ExamNetworkSettings, steps: int, unit: float) -> None:
    """Give a network from `models.exam_network` its optimiser and the contest's metric as its loss.

    Args:
        model: not compiled yet.
        settings: recipe.
        steps: batches an epoch; the first epoch is the warm-up.
        unit: the metric's denominator, from `metric_unit`.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, steps * settings.epochs, alpha=0.01, warmup_target=settings.learning_rate,
        warmup_steps=steps,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, global_clipnorm=1.0)
    losses = {"slices": slice_loss, "exams": exam_loss}
    compile_network(model, optimizer, losses, {"slices": 1 / unit, "exams": 1 / unit})


def metric_unit(exams: list[ExamSlices]) -> float:
    """What an exam's weights sum up to on average, the denominator of the metric."""
    return sum(EXAM_WEIGHTS.values()) + IMAGE_WEIGHT * float(np.mean([each.labels.sum() for each in exams]))


def _train_epoch(
    model: keras.Model, exams: list[ExamSlices], scale: Scale, settings: ExamNetworkSettings, epoch: int
) -> float:
    random = np.random.default_rng([settings.seed, epoch])
    order = random.permutation(len(exams))
    losses = []
    for first in range(0, len(order), settings.batch):
        batch = [exams[row] for row in order[first : first + settings.batch]]
        grids = [
            grid_of(each.z_mm, settings.length, settings.step_mm, shift=random.uniform(-1, 1),
                    stretch=np.exp(random.uniform(-0.1, 0.1)))
            for each in batch
        ]  # fmt: skip
        inputs = _inputs(batch, grids, scale, random, settings.noise)
        losses.append(model.train_on_batch(inputs, _targets(batch, grids), return_dict=True)["loss"])
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"training diverged: loss {losses[-1]} at epoch {epoch + 1}; lower models.exam.learning_rate"
            )
    return float(np.mean(losses))


def _inputs(
    exams: list[ExamSlices], grids: list[Grid], scale: Scale, random: np.random.Generator | None = None,
    noise: float = 0.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    inside = np.stack([grid.inside for grid in grids])
    values = np.stack(
        [onto_grid(grid, each.z_mm, scale.apply(each.numbers)) for each, grid in zip(exams, grids, strict=True)]
    )
    if random is not None and noise:
        values += noise * random.standard_normal(values.shape, dtype=np.float32) * inside[..., None]
    return {"sequence": with_neighbours(values, inside).astype(np.float32), "inside": inside[..., None]}


def _targets(exams: list[ExamSlices], grids: list[Grid]) -> dict[str, np.ndarray]:
    """Labels on the grid; a position stands for its share of the exam's slices, each worth q times the image weight."""
    slices = []
    for each, grid in zip(exams, grids, strict=True):
        truth = onto_grid(grid, each.z_mm, each.labels[:, None].astype(np.float32))[:, 0]
        weight = IMAGE_WEIGHT * each.labels.mean() * len(each.labels) / grid.inside.sum() * grid.inside
        slices.append(np.stack([truth, weight], axis=-1))
    return {
        "slices": np.stack(slices).astype(np.float32),
        "exams": np.stack([each.exam for each in exams]).astype(np.float32),
    }


def predict_exams(
    model: keras.Model, table: pd.DataFrame, numbers: np.ndarray, scale: Scale, settings: ExamNetworkSettings
) -> pd.DataFrame:
    """Predict the exams of a table, batch by batch.

    Args:
        model: from `train_exam_network`.
        table: StudyInstanceUID, SOPInstanceUID and z_mm, a row a slice.
        numbers: (rows, d) embedding and logits of the table's rows.
        scale: of the training exams.
        settings: recipe.

    Returns:
        StudyInstanceUID, SOPInstanceUID, `pe` and the nine exam labels, rows as in the table; probabilities.
    """
    exams = exams_of(table, numbers)
    logits = np.empty((len(table), 1 + len(EXAM_LABELS)))
    for first in range(0, len(exams), settings.batch):
        batch = exams[first : first + settings.batch]
        grids = [grid_of(each.z_mm, settings.length, settings.step_mm) for each in batch]
        outputs = model.predict_on_batch(_inputs(batch, grids, scale))
        for each, grid, slices, exam in zip(batch, grids, outputs["slices"], outputs["exams"], strict=True):
            logits[each.rows, :1] = from_grid(grid, each.z_mm, slices)
            logits[each.rows, 1:] = exam
    found = pd.DataFrame(1 / (1 + np.exp(-logits)), columns=["pe", *EXAM_LABELS])
    return pd.concat([table[[STUDY, SOP]].reset_index(drop=True), found], axis=1)


def exams_of(table: pd.DataFrame, numbers: np.ndarray) -> list[ExamSlices]:
    """What is known of every exam of a table, by ascending StudyInstanceUID.

    Args:
        table: a row a slice with StudyInstanceUID and z_mm, for training also the slice label and the exam labels.
        numbers: (rows, d) embedding and logits of the table's rows.
    """
    exams, z_mm, known = [], table["z_mm"].to_numpy(float), SLICE_LABEL in table
    for rows in table.groupby(STUDY, sort=True).indices.values():
        rows = rows[np.argsort(z_mm[rows], kind="stable")]
        labels = table[SLICE_LABEL].to_numpy(float)[rows] if known else None
        exam = table[list(EXAM_LABELS)].iloc[rows[0]].to_numpy(float) if known else None
        exams.append(ExamSlices(rows, z_mm[rows], numbers[rows], labels, exam))
    return exams
