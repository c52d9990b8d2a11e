"""Training of one exam network on the embeddings of its slice network.

Embeddings of different folds' networks are not comparable. Exam network k therefore sees the training exams through
slice network k (which was trained on their labels) and predicts the exams of fold k, which neither network has seen.
The loss is the contest's metric.
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
    """The slices of one exam as input of an exam network.

    Attributes:
        rows: Rows of the slices in their table, shape (n,).
        z_mm: Positions in mm, ascending, shape (n,).
        inputs: Embedding and logits of the slices, shape (n, d).
        slice_labels: 0/1 labels of the slices, shape (n,); None if unknown.
        exam_labels: Labels of the exam in the order of EXAM_LABELS, shape (9,); None if unknown.
    """

    rows: np.ndarray
    z_mm: np.ndarray
    inputs: np.ndarray
    slice_labels: np.ndarray | None = None
    exam_labels: np.ndarray | None = None

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return slice labels and exam labels of a training exam.

        Raises:
            ValueError: The labels are unknown.
        """
        if self.slice_labels is None or self.exam_labels is None:
            raise ValueError("an exam without labels cannot be trained on")
        return self.slice_labels, self.exam_labels


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation (d,) of the training slices' inputs."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, exams: list[ExamSlices]) -> "Scale":
        """Measure over all slices of the exams, one exam in float64 at a time: all at once would need gigabytes."""
        count = sum(len(exam.inputs) for exam in exams)
        mean = _sum_rows(exam.inputs.astype(np.float64) for exam in exams) / count
        variance = _sum_rows(np.square(exam.inputs.astype(np.float64) - mean) for exam in exams) / count
        return cls(mean, np.maximum(np.sqrt(variance), 1e-3))

    def save(self, path: Path) -> None:
        """Write both arrays."""
        save_arrays(path, {"mean": self.mean, "deviation": self.deviation})

    @classmethod
    def load(cls, path: Path) -> "Scale":
        """Read the file of `save`."""
        return cls(**load_arrays(path))

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Standardise inputs and clip them to +-8 SD: units constant in training can be huge at test."""
        return np.clip((inputs - self.mean) / self.deviation, -8, 8).astype(np.float32)


def _sum_rows(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sum the rows of all parts (n, d) one after another: the same bits as the sum of one array (for d > 1)."""
    total: np.ndarray | None = None
    for part in parts:
        total = (part if total is None else np.concatenate([total[None], part])).sum(axis=0)
    if total is None:
        raise ValueError("no exams to measure the scale of")
    return total


def train_exam_network(
    exams: list[ExamSlices], kind: str, settings: ExamNetworkSettings, report: Callable[[int, float], None]
) -> tuple[keras.Model, Scale, History]:
    """Train from scratch; order, shifts and noise are a pure function of (seed, epoch).

    Args:
        exams: The training exams, with labels.
        kind: "gru" or "transformer".
        settings: Training recipe.
        report: Called with (epoch from 1, mean loss) after every epoch.

    Returns:
        The network, the scale of its inputs, and the history with losses in units of the metric.

    Raises:
        UserError: The loss became NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)  # independent of earlier random draws of this process
    scale = Scale.of(exams)
    model = exam_network(kind, 3 * exams[0].inputs.shape[1], settings)
    compile_exam_network(model, settings, -(-len(exams) // settings.batch), metric_unit(exams))
    history = History()
    for epoch in range(settings.epochs):
        history.losses.append(_train_epoch(model, exams, scale, settings, epoch))
        history.rates.append(float(model.optimizer.learning_rate))
        report(epoch + 1, history.losses[-1])
    return model, scale, history


def compile_exam_network(model: keras.Model, settings: ExamNetworkSettings, steps: int, unit: float) -> None:
    """Compile a network of `models.exam_network` with its optimizer and the contest's metric as loss.

    Args:
        model: The network, not compiled yet.
        settings: Training recipe.
        steps: Batches per epoch; the first epoch is the warm-up.
        unit: The metric's denominator, from `metric_unit`.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, steps * settings.epochs, alpha=0.01, warmup_target=settings.learning_rate,
        warmup_steps=steps,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, global_clipnorm=1.0)
    losses = {"slices": slice_loss, "exams": exam_loss}
    compile_network(model, optimizer, losses, {"slices": 1 / unit, "exams": 1 / unit})


def metric_unit(exams: list[ExamSlices]) -> float:
    """Return the mean sum of an exam's weights: the denominator of the metric."""
    positive_slices = [exam.labels()[0].sum() for exam in exams]
    return sum(EXAM_WEIGHTS.values()) + IMAGE_WEIGHT * float(np.mean(positive_slices))


def _train_epoch(
    model: keras.Model, exams: list[ExamSlices], scale: Scale, settings: ExamNetworkSettings, epoch: int
) -> float:
    random = np.random.default_rng([settings.seed, epoch])
    order = random.permutation(len(exams))
    losses = []
    for first in range(0, len(order), settings.batch):
        batch = [exams[row] for row in order[first : first + settings.batch]]
        grids = [
            grid_of(exam.z_mm, settings.length, settings.step_mm, shift=random.uniform(-1, 1),
                    stretch=np.exp(random.uniform(-0.1, 0.1)))
            for exam in batch
        ]  # fmt: skip
        inputs = _network_inputs(batch, grids, scale, random, settings.noise)
        losses.append(model.train_on_batch(inputs, _targets(batch, grids), return_dict=True)["loss"])
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"training diverged: loss {losses[-1]} at epoch {epoch + 1}. Lower models.exam.learning_rate."
            )
    return float(np.mean(losses))


def _network_inputs(
    exams: list[ExamSlices], grids: list[Grid], scale: Scale, random: np.random.Generator | None = None,
    noise: float = 0.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    inside = np.stack([grid.inside for grid in grids])
    values = np.stack(
        [onto_grid(grid, exam.z_mm, scale.apply(exam.inputs)) for exam, grid in zip(exams, grids, strict=True)]
    )
    if random is not None and noise:
        values += noise * random.standard_normal(values.shape, dtype=np.float32) * inside[..., None]
    return {"sequence": with_neighbours(values, inside).astype(np.float32), "inside": inside[..., None]}


def _targets(exams: list[ExamSlices], grids: list[Grid]) -> dict[str, np.ndarray]:
    """Return labels on the grid.

    A position represents its share of the exam's slices, each with a weight of q times the image weight.
    """
    slice_targets, exam_targets = [], []
    for exam, grid in zip(exams, grids, strict=True):
        slice_labels, exam_labels = exam.labels()
        truth = onto_grid(grid, exam.z_mm, slice_labels[:, None].astype(np.float32))[:, 0]
        weight = IMAGE_WEIGHT * slice_labels.mean() * len(slice_labels) / grid.inside.sum() * grid.inside
        slice_targets.append(np.stack([truth, weight], axis=-1))
        exam_targets.append(exam_labels)
    return {"slices": np.stack(slice_targets).astype(np.float32), "exams": np.stack(exam_targets).astype(np.float32)}


def predict_exams(
    model: keras.Model, table: pd.DataFrame, inputs: np.ndarray, scale: Scale, settings: ExamNetworkSettings
) -> pd.DataFrame:
    """Predict the exams of a table, batch by batch.

    Args:
        model: From `train_exam_network`.
        table: One row per slice: StudyInstanceUID, SOPInstanceUID and z_mm.
        inputs: Embedding and logits of the table's rows, shape (rows, d).
        scale: Scale of the training exams.
        settings: Training recipe.

    Returns:
        Rows as in the table: StudyInstanceUID, SOPInstanceUID, and the probabilities of `pe` and of the nine exam
        labels.
    """
    exams = group_by_exam(table, inputs)
    logits = np.empty((len(table), 1 + len(EXAM_LABELS)))
    for first in range(0, len(exams), settings.batch):
        batch = exams[first : first + settings.batch]
        grids = [grid_of(exam.z_mm, settings.length, settings.step_mm) for exam in batch]
        outputs = model.predict_on_batch(_network_inputs(batch, grids, scale))
        for exam, grid, slice_logits, exam_logits in zip(
            batch, grids, outputs["slices"], outputs["exams"], strict=True
        ):
            logits[exam.rows, :1] = from_grid(grid, exam.z_mm, slice_logits)
            logits[exam.rows, 1:] = exam_logits
    probabilities = pd.DataFrame(1 / (1 + np.exp(-logits)), columns=["pe", *EXAM_LABELS])
    return pd.concat([table[[STUDY, SOP]].reset_index(drop=True), probabilities], axis=1)


def group_by_exam(table: pd.DataFrame, inputs: np.ndarray) -> list[ExamSlices]:
    """Group the slices of a table by exam, sorted by StudyInstanceUID.

    Args:
        table: One row per slice with StudyInstanceUID and z_mm; for training also the slice and exam labels.
        inputs: Embedding and logits of the table's rows, shape (rows, d).
    """
    exams, z_mm, labelled = [], table["z_mm"].to_numpy(float), SLICE_LABEL in table
    for rows in table.groupby(STUDY, sort=True).indices.values():
        rows = rows[np.argsort(z_mm[rows], kind="stable")]
        slice_labels = table[SLICE_LABEL].to_numpy(float)[rows] if labelled else None
        exam_labels = table[list(EXAM_LABELS)].iloc[rows[0]].to_numpy(float) if labelled else None
        exams.append(ExamSlices(rows, z_mm[rows], inputs[rows], slice_labels, exam_labels))
    return exams
