"""The exam networks' part of a (backbone, fold) job; each leaves one product beside the slice network's.

models/runs/<backbone>_<kind>/fold<k>/
    slices.parquet   the rows of the slice network's table: study, SOP, role, `pe`, and the nine exam labels,
                     which are the same on every slice of an exam
    weights.npz      the network's variables in order
    scale.npz        mean and deviation of the inputs
    history.csv      a row an epoch: mean training loss in units of the metric, learning rate
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
from models.checkpoint import load_weights, save_weights
from models.exam_network import exam_network
from models.exam_training import Scale, exams_of, predict_exams, train_exam_network
from models.inference import predict_slices
from models.learning_curves import draw_curves
from models.slice_runs import exam_network_artifact, plane_table, slice_engine
from models.slice_targets import TARGETS
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.artifact import verify
from pipeline.console import say
from pipeline.files import write_table
from pipeline.settings import Settings, exam_network_name


def train_exam_networks(
    settings: Settings, backbone: str, fold: int, threads: int, *, force: bool = False
) -> list[str]:
    """Train the exam networks of one finished slice network; predict the fold and the test exams; what to tell."""
    products = {
        kind: exam_network_artifact(settings, backbone, fold, kind) for kind in settings.models.exam_kinds(backbone)
    }
    waiting = {kind: product for kind, product in products.items() if not product.is_current(force=force)}
    if not waiting:
        return []
    told = []
    table = plane_table()
    held_out = ((table["split"] == "test") | (table["fold"] == fold)).to_numpy()
    train, scored = table[~held_out].reset_index(drop=True), table[held_out].reset_index(drop=True)
    seen = exams_of(train, _numbers_of_training_slices(settings, backbone, fold, train, threads))
    scored = scored.drop(columns=[SLICE_LABEL, *EXAM_LABELS])  # what is predicted is not at hand
    numbers = stored_numbers(paths.model_run(backbone, fold), scored)
    for kind, product in waiting.items():
        with product.building(fresh=force) as directory:
            model, scale, history = train_exam_network(seen, kind, settings.models.exam, _report(settings, kind))
            found = predict_exams(model, scored, numbers, scale, settings.models.exam)
            found.insert(2, "role", np.where(scored["split"] == "test", "test", "oof"))
            write_table(directory / "slices.parquet", found)
            save_weights(directory / "weights.npz", model)
            scale.save(directory / "scale.npz")
            write_table(directory / "history.csv", history.table())
            draw_curves(directory / "learning.png", history.table(), product.name.removeprefix("models/"))
            product.finish(
                rows={"training exams": len(seen), "predicted slices": len(scored)},
                metrics={"final_loss": history.losses[-1]}, seed=settings.models.exam.seed, threads=threads,
                backend=keras.backend.backend(), precision=model.dtype_policy.name,
            )  # fmt: skip
        told.append(f"{kind} loss {history.losses[-1]:.4f}")
    return told


def load_exam_network(settings: Settings, backbone: str, fold: int, kind: str) -> tuple[keras.Model, Scale]:
    """A finished exam network and the scale of its inputs."""
    directory = paths.model_run(exam_network_name(backbone, kind), fold)
    verify(directory, ["weights.npz", "scale.npz"])
    scale = Scale.load(directory / "scale.npz")
    model = exam_network(kind, 3 * len(scale.mean), settings.models.exam)
    load_weights(directory / "weights.npz", model)
    return model, scale


def predict_with(
    settings: Settings, backbone: str, fold: int, slices: pd.DataFrame, frame: pd.DataFrame, embeddings: np.ndarray
) -> dict[str, pd.DataFrame]:
    """Run the finished exam networks of one slice network on what it said of some slices.

    Args:
        slices: StudyInstanceUID, SOPInstanceUID and z_mm.
        frame, embeddings: of these slices, as `predict_slices` yields them.

    Returns:
        Name of the exam network -> StudyInstanceUID, SOPInstanceUID, `pe` and the nine exam labels, a row a slice.
    """
    found = {}
    for kind in settings.models.exam_kinds(backbone):
        model, scale = load_exam_network(settings, backbone, fold, kind)
        numbers = numbers_of(frame, embeddings)
        found[exam_network_name(backbone, kind)] = predict_exams(model, slices, numbers, scale, settings.models.exam)
    return found


def numbers_of(frame: pd.DataFrame, embeddings: np.ndarray) -> np.ndarray:
    """What an exam network reads of slices: float32 (n, d + targets), embedding and logits of every target.

    Args:
        frame: `pe` and one probability a further target, as `predict_slices` yields them.
        embeddings: (n, d).
    """
    probabilities = frame[["pe", *TARGETS[1:]]].to_numpy(float).clip(1e-6, 1 - 1e-6)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    return np.concatenate([embeddings, logits], axis=1).astype(np.float32)


def _numbers_of_training_slices(
    settings: Settings, backbone: str, fold: int, train: pd.DataFrame, threads: int
) -> np.ndarray:
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), threads)
    views = SliceViews(paths.store(), recipe)
    batches = predict_slices(engine, train, views, recipe, loaders=loader_threads(threads))
    return np.concatenate([numbers_of(*found) for found in batches])


def stored_numbers(directory: Path, scored: pd.DataFrame) -> np.ndarray:
    """What an exam network reads of slices that the slice network's run has predicted, rows as in `scored`."""
    verify(directory, ["slices.parquet", "embeddings.npy"])
    table = pd.read_parquet(directory / "slices.parquet").set_index(SOP).loc[scored[SOP]]
    embeddings = np.load(directory / "embeddings.npy", mmap_mode="r")
    return numbers_of(table, embeddings[table["row"].to_numpy()])


def _report(settings: Settings, kind: str) -> Callable[[int, float], None]:
    def report(epoch: int, loss: float) -> None:
        if epoch % 5 == 0:
            say(f"{kind} {epoch}/{settings.models.exam.epochs} loss {loss:.4f}")

    return report
