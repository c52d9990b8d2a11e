"""Inputs of the exam networks: the embeddings and logits of an exam's slices, standardised and on a grid along z."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, SLICE_LABEL, STUDY
from models.arrays import load_arrays, save_arrays
from models.exam_sequences import Grid, onto_grid, with_neighbours
from models.slice_targets import TARGETS


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


def exam_network_inputs(frame: pd.DataFrame, embeddings: np.ndarray) -> np.ndarray:
    """Return the inputs of an exam network: embedding and logits of every target.

    Args:
        frame: `pe` and one probability per further target, from `predict_slices`.
        embeddings: Embeddings, shape (n, d).

    Returns:
        float32 (n, d + targets).
    """
    probabilities = frame[["pe", *TARGETS[1:]]].to_numpy(float).clip(1e-6, 1 - 1e-6)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    return np.concatenate([embeddings, logits], axis=1).astype(np.float32)


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


def network_inputs(
    exams: list[ExamSlices], grids: list[Grid], scale: Scale, random: np.random.Generator | None = None,
    noise: float = 0.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the inputs of a network of `models.exam_network`, standardised and on the grids.

    Args:
        exams: A batch of exams.
        grids: Their grids.
        scale: Scale of the training exams.
        random: Source of the noise.
        noise: Standard deviation of noise added inside the exams.
    """
    inside = np.stack([grid.inside for grid in grids])
    values = np.stack(
        [onto_grid(grid, exam.z_mm, scale.apply(exam.inputs)) for exam, grid in zip(exams, grids, strict=True)]
    )
    if random is not None and noise:
        values += noise * random.standard_normal(values.shape, dtype=np.float32) * inside[..., None]
    return {"sequence": with_neighbours(values, inside).astype(np.float32), "inside": inside[..., None]}
