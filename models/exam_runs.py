"""The exam networks of a (backbone, fold) job; each writes an artifact of its own.

artifacts/models/<backbone>_<kind>-fold<k>-<identity>/
    slices.parquet   rows of the slice network's table: study, SOP, role, `pe`, and the nine exam labels, which are
                     equal on all slices of an exam
    weights.npz      the network's variables in order
    scale.npz        mean and standard deviation of the inputs
    history.csv      one row per epoch: mean training loss in units of the metric, learning rate
    learning.png     the same as curves
    manifest.json    written last
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, SLICE_LABEL, SOP
from models.batches import loader_threads
from models.checkpoint import save_weights
from models.exam_inputs import ExamSlices, exam_network_inputs, group_by_exam
from models.exam_prediction import predict_exams
from models.exam_training import forward_of, train_exam_network
from models.learning_curves import draw_curves
from models.network_artifacts import exam_network_artifact
from models.network_names import exam_network_kinds
from models.prediction_engine import predict_slices, slice_engine
from models.progress_messages import ExamEpochMessage, Report, print_text
from models.slice_runs import plane_table
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.artifact import Artifact, verify
from pipeline.files import write_table
from pipeline.settings import ExamNetworkSettings, Settings

EPOCHS_PER_MESSAGE = 5


def train_exam_networks(
    settings: Settings, backbone: str, fold: int, threads: int, *, force: bool = False, report: Report = print_text
) -> list[str]:
    """Train the exam networks of one finished slice network, and predict the fold and the test exams.

    Args:
        settings: The experiment.
        backbone: Backbone of the slice network.
        fold: The held-out fold.
        threads: CPU threads; results depend on their number.
        force: Train even the networks whose artifacts are current.
        report: Receives the progress messages.

    Returns:
        A summary of the results, one entry per trained network.

    Raises:
        UserError: Files of the slice network are damaged, or a training diverged.
    """
    artifacts = {
        kind: exam_network_artifact(settings, backbone, fold, kind)
        for kind in exam_network_kinds(settings.models, backbone)
    }
    stale_artifacts = {kind: artifact for kind, artifact in artifacts.items() if not artifact.is_current(force=force)}
    if not stale_artifacts:
        return []
    table = plane_table()
    held_out = ((table["split"] == "test") | (table["fold"] == fold)).to_numpy()
    train, scored = table[~held_out].reset_index(drop=True), table[held_out].reset_index(drop=True)
    exams = group_by_exam(train, _training_inputs(settings, backbone, fold, train, threads))
    scored = scored.drop(columns=[SLICE_LABEL, *EXAM_LABELS])  # labels of the scored exams must not be used
    inputs = stored_inputs(paths.model_run(backbone, fold), scored)
    summary = []
    for kind, artifact in stale_artifacts.items():
        with artifact.building(fresh=force) as directory:
            loss = _train_one(artifact, directory, kind, settings.models.exam, exams, scored, inputs, threads, report)
        summary.append(f"{kind} loss {loss:.4f}")
    return summary


def _train_one(
    artifact: Artifact, directory: Path, kind: str, recipe: ExamNetworkSettings, exams: list[ExamSlices],
    scored: pd.DataFrame, inputs: np.ndarray, threads: int, report: Report,
) -> float:  # fmt: skip
    """Train one network and write its artifact; return the final training loss."""
    model, scale, history = train_exam_network(exams, kind, recipe, _epoch_report(recipe, kind, report))
    predictions = predict_exams(forward_of(model, kind), scored, inputs, scale, recipe)
    predictions.insert(2, "role", np.where(scored["split"] == "test", "test", "oof"))
    write_table(directory / "slices.parquet", predictions)
    save_weights(directory / "weights.npz", model)
    scale.save(directory / "scale.npz")
    write_table(directory / "history.csv", history.table())
    draw_curves(directory / "learning.png", history.table(), artifact.name.removeprefix("models/"))
    artifact.finish(
        rows={"training exams": len(exams), "predicted slices": len(scored)},
        metrics={"final_loss": history.losses[-1]}, seed=recipe.seed, threads=threads,
        backend=keras.backend.backend(), precision=model.dtype_policy.name,
    )  # fmt: skip
    return history.losses[-1]


def _training_inputs(
    settings: Settings, backbone: str, fold: int, train: pd.DataFrame, threads: int
) -> np.ndarray:  # fmt: skip
    """Predict the training slices with their slice network; they are not stored."""
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), threads)
    views = SliceViews(paths.store(), recipe)
    batches = predict_slices(engine, train, views, recipe, loaders=loader_threads(threads))
    return np.concatenate([exam_network_inputs(frame, embeddings) for frame, embeddings, _ in batches])


def stored_inputs(directory: Path, scored: pd.DataFrame) -> np.ndarray:
    """Return the inputs of an exam network for slices that the slice network's run has predicted.

    Args:
        directory: Folder of the slice network's run.
        scored: Table with SOPInstanceUID.

    Returns:
        float32 (n, d + targets), rows as in `scored`.

    Raises:
        UserError: A file differs from the manifest.
    """
    verify(directory, ["slices.parquet", "embeddings.npy"])
    table = pd.read_parquet(directory / "slices.parquet").set_index(SOP).loc[scored[SOP]]
    embeddings = np.load(directory / "embeddings.npy", mmap_mode="r")
    return exam_network_inputs(table, embeddings[table["row"].to_numpy()])


def _epoch_report(recipe: ExamNetworkSettings, kind: str, report: Report) -> Callable[[int, float], None]:
    def report_epoch(epoch: int, loss: float) -> None:
        if epoch % EPOCHS_PER_MESSAGE == 0:
            report(ExamEpochMessage(kind, epoch, recipe.epochs, loss))

    return report_epoch
