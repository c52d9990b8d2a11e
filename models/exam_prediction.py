"""Prediction of exams by finished exam networks; no Keras is imported."""

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, SOP, STUDY
from models.arrays import load_arrays
from models.exam_forward import ExamForward, exam_forward
from models.exam_inputs import Scale, group_by_exam, network_inputs
from models.exam_sequences import from_grid, grid_of
from models.network_names import exam_network_name
from pipeline import paths
from pipeline.artifact import verify
from pipeline.settings import ExamNetworkSettings


def load_exam_network(backbone: str, fold: int, kind: str) -> tuple[ExamForward, Scale]:
    """Load a finished exam network and the scale of its inputs.

    Args:
        backbone: Backbone of the slice network.
        fold: The held-out fold.
        kind: One of `models.check_recipe.EXAM_KINDS`.

    Raises:
        UserError: A file differs from the manifest.
    """
    directory = paths.model_run(exam_network_name(backbone, kind), fold)
    verify(directory, ["weights.npz", "scale.npz"])
    arrays = load_arrays(directory / "weights.npz")
    return exam_forward(kind, [arrays[key] for key in sorted(arrays)]), Scale.load(directory / "scale.npz")


def predict_exams(
    forward: ExamForward, table: pd.DataFrame, inputs: np.ndarray, scale: Scale, settings: ExamNetworkSettings
) -> pd.DataFrame:
    """Predict the exams of a table, batch by batch.

    Args:
        forward: From `models.exam_forward.exam_forward`.
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
        tensors = network_inputs(batch, grids, scale)
        outputs = forward(tensors["sequence"], tensors["inside"])
        for exam, grid, slice_logits, exam_logits in zip(batch, grids, *outputs, strict=True):
            logits[exam.rows, :1] = from_grid(grid, exam.z_mm, slice_logits)
            logits[exam.rows, 1:] = exam_logits
    probabilities = pd.DataFrame(1 / (1 + np.exp(-logits)), columns=["pe", *EXAM_LABELS])
    return pd.concat([table[[STUDY, SOP]].reset_index(drop=True), probabilities], axis=1)
