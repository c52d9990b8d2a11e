"""Jobs of this stage: one per (backbone, fold), one artifact per network.

artifacts/models/<backbone>-fold<k>-<identity>/
    slices.parquet   one row per slice of the held-out fold (role "oof") and of the test exams (role "test"): study,
                     SOP, role, row of the embedding, pe, one probability per exam label, numbers of the clot map
    maps.parquet     the same slices' clot maps: study, SOP, role, map (uint8 bytes, rows x columns)
    embeddings.npy   float16 (rows, d)
    weights.npz      the network's variables in order
    network.xml/.bin the same network for OpenVINO, if that is the engine
    history.csv      one row per epoch: mean training loss, inner loss if inner exams are set aside, learning rate
    learning.png     the same as curves
    manifest.json    written last; before that, .checkpoint.npz has the state after the last finished epoch
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from features.clot_masks import MaskStore
from features.store import read_sidecar, stored_studies
from input.contest import EXAM_LABELS, QA_LABELS, SLICE_LABEL, SOP, STUDY
from models.batches import loader_threads
from models.check_recipe import EXAM_KINDS, check_recipe
from models.device import prepare_backend
from models.history import History
from models.network_artifacts import exam_network_artifact, network_artifact
from models.precision import dtype_policy
from models.prediction_engine import (
    GRAPH,
    Engine,
    export_graph,
    keras_engine,
    openvino_engine,
    predict_slices,
    select_engine,
)
from models.progress_messages import Report, print_text
from models.slice_views import SliceViews, stored_enhancement
from models.stored_maps import MAPS, MapWriter
from pipeline import paths
from pipeline.artifact import verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_table, write_table
from pipeline.settings import ModelsSettings, Settings

if TYPE_CHECKING:
    import keras

    from models.training_run import TrainingRun

#: Parts of the predicted slices, in their order: those of the held-out fold and those of the test exams.
ROLES = ("oof", "test")


def plane_table(split: str | None = None) -> pd.DataFrame:
    """Return all stored slices with their labels.

    Args:
        split: "train", "test", or None for both.

    Returns:
        One row per stored slice: study, SOP, plane in the store, z_mm, slice label, exam labels, split, fold.

    Raises:
        UserError: The store has none of the exams, or the tables differ from their manifest.
    """
    verify(paths.prepared(), ["exams.parquet", "slices.parquet"])
    exams = read_table(paths.prepared() / "exams.parquet")
    exams = exams if split is None else exams[exams["split"] == split]
    expected = set(exams[STUDY])
    planes = [planes_of(paths.store(), study) for study in stored_studies(paths.store()) if study in expected]
    if not planes:
        raise UserError(
            f"no exam is stored: {paths.shown(paths.store())}. Expected some of {len(expected)} exams. "
            "Build the store: ./run.sh --from features"
        )
    labels = read_table(paths.prepared() / "slices.parquet")[[STUDY, SOP, SLICE_LABEL]]
    table = pd.concat(planes, ignore_index=True).merge(labels, on=[STUDY, SOP], how="left", validate="one_to_one")
    exam_columns = [STUDY, "split", "fold", *EXAM_LABELS, *QA_LABELS]
    return table.merge(exams[exam_columns], on=STUDY, how="left", validate="many_to_one")


def planes_of(store: Path, study: str) -> pd.DataFrame:
    """Return one row per slice of a stored exam: study, SOP, plane in the store, z_mm (mm, ascending)."""
    sidecar = read_sidecar(store, study)
    planes = np.arange(len(sidecar["sop_uids"]))
    return pd.DataFrame({STUDY: study, SOP: sidecar["sop_uids"], "plane": planes, "z_mm": sidecar["z_mm"]})


def train_fold(
    settings: Settings, backbone: str, fold: int, threads: int, *, force: bool = False, report: Report = print_text
) -> list[str]:
    """Train one slice network on the exams outside a fold, and predict the fold and the test exams.

    Args:
        settings: The experiment.
        backbone: A key of `models.backbones.BACKBONES`.
        fold: The held-out fold.
        threads: CPU threads; results depend on their number.
        force: Train even if the artifact is current.
        report: Receives the progress messages.

    Returns:
        A summary of the results; empty if the artifact was current.

    Raises:
        UserError: A recipe that cannot be trained, damaged inputs, or a diverged training.
    """
    recipe = settings.models.of(backbone)
    check_recipe(recipe, backbone)
    prepare_backend(recipe, threads)
    import keras

    from models.slice_network import has_local_map

    artifact = network_artifact(settings, backbone, fold)
    if artifact.is_current(force=force):
        return []
    for kind in EXAM_KINDS:  # they read this network, but their identities do not change when it is trained again
        exam_network_artifact(settings, backbone, fold, kind).discard()
    train, scored = _split_by_fold(plane_table(), fold)
    train, masks = _with_masks(train, recipe)
    views = SliceViews(paths.store(), recipe, masks, _enhancement(recipe))
    loaders = loader_threads(threads)
    with artifact.building(fresh=force) as directory:
        checkpoint = directory / ".checkpoint.npz"
        run = _train(train, views, recipe, backbone, checkpoint, fold, loaders, report)
        engines = _engines_of(run, scored, recipe, backbone, directory, threads)
        auc = _write_predictions(directory, engines, scored, views, recipe, loaders)
        model, history = run.model, run.history
        _write_network(directory, model, history, f"{backbone}/fold{fold}")
        loss = history.losses[history.best_epoch - 1]
        artifact.finish(
            rows={"training slices": len(train), "clot masks": len(masks), "predicted slices": len(scored)},
            metrics={"final_loss": loss, "oof_slice_auc": auc, "best_epoch": history.best_epoch},
            seed=recipe.seed, threads=threads, backend=keras.backend.backend(),
            precision=dtype_policy(recipe, backbone), local_map=has_local_map(model),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    return [f"loss {loss:.4f}, out-of-fold slice AUC {auc:.3f}"]


def _enhancement(recipe: ModelsSettings) -> dict[str, float] | None:
    """Read what the views of all exams are scaled by, if they are; say how many exams cannot be scaled."""
    if not recipe.artery_hu:
        return None
    enhancement = stored_enhancement(paths.store())
    unknown = sum(map(math.isnan, enhancement.values()))
    if unknown:
        say(f"models: {unknown} of {len(enhancement)} exams are not scaled: the HU of their arteries are unknown")
    return enhancement


def _with_masks(train: pd.DataFrame, recipe: ModelsSettings) -> tuple[pd.DataFrame, Mapping[str, np.ndarray]]:
    """Join what clot masks say of the training slices; also study -> mask. Neither without mask supervision."""
    if not recipe.mask_supervision:
        return train, {}
    verify(paths.masks(), ["slices.parquet"])
    natures = read_table(paths.masks() / "slices.parquet").drop(columns=["clot_mm2"])
    supervised = sorted(set(natures[STUDY]) & set(train[STUDY]))
    train = train.merge(natures, on=[STUDY, SOP], how="left", validate="one_to_one")
    return train, MaskStore(paths.masks(), supervised)


def _split_by_fold(table: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the slices into those to train on and those to predict, the latter with a column `role`."""
    train = table[(table["split"] == "train") & (table["fold"] != fold)].reset_index(drop=True)
    held_out = table[(table["split"] == "train") & (table["fold"] == fold)].assign(role="oof")
    scored = pd.concat([held_out, table[table["split"] == "test"].assign(role="test")], ignore_index=True)
    shared = set(train[STUDY]) & set(scored[STUDY])
    if shared:
        raise UserError(f"leak: {len(shared)} exams are in both the training and the scored part, e.g. {min(shared)}")
    return train, scored


def _train(
    train: pd.DataFrame, views: SliceViews, recipe: ModelsSettings, backbone: str, checkpoint: Path, fold: int,
    loaders: int, report: Report,
) -> "TrainingRun":  # fmt: skip
    from models.progress import TrainingLog
    from models.slice_training import train_network

    with TrainingLog(recipe.epochs, paths.training_events(backbone, fold), report) as log:
        return train_network(train, views, recipe, backbone, checkpoint, log, loaders=loaders)


def _engines_of(
    run: "TrainingRun", scored: pd.DataFrame, recipe: ModelsSettings, backbone: str, directory: Path, threads: int
) -> dict[str, Engine]:  # fmt: skip
    """Return role -> prediction engine of a trained network; writes the graph if that is OpenVINO."""
    from models.slice_network import in_float32

    if select_engine(recipe.engine) != "openvino":
        return dict.fromkeys(ROLES, keras_engine(run.model))
    every_fold = scored.loc[scored["role"] == "test", SOP].tolist()
    engines = run.split_engines(every_fold, threads, directory / GRAPH)
    if engines is None:
        export_graph(in_float32(run.model, recipe, backbone), directory)
        engines = (openvino_engine(directory, threads),) * 2
    return dict(zip(ROLES, engines, strict=True))


def _write_predictions(
    directory: Path, engines: Mapping[str, Engine], scored: pd.DataFrame, views: SliceViews, settings: ModelsSettings,
    loaders: int,
) -> float:  # fmt: skip
    """Write the predictions of a network; return the AUC of `pe` on the slices of the held-out fold."""
    from numpy.lib.format import dtype_to_descr, write_array_header_1_0
    from sklearn.metrics import roc_auc_score

    from models.slice_network import embedding_width

    frames = []
    roles = scored["role"].to_numpy()
    with (
        atomic_path(directory / "embeddings.npy") as temporary,
        atomic_path(directory / MAPS) as temporary_maps,
        MapWriter(temporary_maps) as map_writer,
        temporary.open("wb") as embeddings,  # not a memory map: on a full disk it ends the process with a bus error
    ):
        shape = (len(scored), embedding_width(settings))
        header = {"descr": dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        write_array_header_1_0(embeddings, header)
        first = 0
        parts = (
            predict_slices(engine, scored[roles == role], views, settings, loaders=loaders)
            for role, engine in engines.items()
        )
        for frame, vectors, maps in itertools.chain.from_iterable(parts):
            rows = slice(first, first + len(frame))
            embeddings.write(vectors.astype(np.float16, order="C").tobytes())
            map_writer.write(frame[STUDY], frame[SOP], roles[rows], maps)
            frames.append(frame)
            first += len(frame)
    table = pd.concat(frames, ignore_index=True)
    table.insert(2, "role", scored["role"].to_numpy())
    table.insert(3, "row", np.arange(len(table)))
    write_table(directory / "slices.parquet", table)
    held_out = (scored["role"] == "oof").to_numpy()
    truth = scored.loc[held_out, SLICE_LABEL].to_numpy()
    if len(np.unique(truth)) < 2:
        say("models: no AUC, all slices of the held-out fold have the same label")
        return 0.5
    return float(roc_auc_score(truth, table.loc[held_out, "pe"]))


def _write_network(directory: Path, model: "keras.Model", history: History, title: str) -> None:
    from models.checkpoint import save_weights
    from models.learning_curves import draw_curves

    save_weights(directory / "weights.npz", model)
    write_table(directory / "history.csv", history.table())
    draw_curves(directory / "learning.png", history.table(), title)
