"""The jobs of this stage: one (backbone, fold) a process, each leaving one product.

models/runs/<backbone>/fold<k>/
    slices.parquet   a row a slice of the held-out fold ("oof") and of the test exams ("test"):
                     study, SOP, role, row of the embedding, pe, one probability an exam label
    embeddings.npy   float16 (rows, d)
    weights.npz      the network's variables in order
    network.xml/.bin the same network for OpenVINO, where that is the engine of inference
    history.csv      a row an epoch: mean training loss, inner loss where there is one, learning rate
    learning.png     the same as curves
    manifest.json    written last; until then .checkpoint.npz holds the last finished epoch
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from features.store import open_exam, stored_studies
from input.contest import EXAM_LABELS, QA_LABELS, SLICE_LABEL, SOP, STUDY
from models.batches import loader_threads
from models.check_recipe import EXAM_KINDS, check_recipe
from models.history import History
from models.inference import (
    GRAPH,
    GRAPH_WEIGHTS,
    Engine,
    chosen_engine,
    export_graph,
    keras_engine,
    openvino_engine,
    predict_slices,
)
from models.learning_curves import draw_curves
from models.precision import policy_of
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_table, write_table
from pipeline.settings import FOR_ALL_BACKBONES, ModelsSettings, Settings, exam_network_name, told_weights

VERSION = 2
EXAM_VERSION = 2
#: Settings of [models.exam] that say which networks there are, not how one is trained.
NOT_RECIPE = ("kinds", "backbones")


def network_artifact(settings: Settings, backbone: str, fold: int) -> Artifact:
    """The product of one job."""
    resolved = dataclasses.asdict(settings.models.of(backbone))
    recipe = {key: value for key, value in resolved.items() if key not in FOR_ALL_BACKBONES}
    return Artifact(
        paths.model_run(backbone, fold), f"models/{backbone}/fold{fold}", version=VERSION,
        settings={**recipe, "weights": told_weights(recipe["weights"]), "backbone": backbone, "fold": fold},
        inputs={
            "input/prepared": read_manifest(paths.prepared())["identity"],
            "features/store": read_manifest(paths.store())["identity"],
        },
    )  # fmt: skip


def exam_network_artifact(settings: Settings, backbone: str, fold: int, kind: str) -> Artifact:
    """The product of one exam network over one slice network (see models.exam_runs)."""
    recipe = {key: value for key, value in dataclasses.asdict(settings.models.exam).items() if key not in NOT_RECIPE}
    name = exam_network_name(backbone, kind)
    return Artifact(
        paths.model_run(name, fold), f"models/{name}/fold{fold}", version=EXAM_VERSION,
        settings={**recipe, "backbone": backbone, "fold": fold, "kind": kind},
        inputs={"slice network": network_artifact(settings, backbone, fold).identity},
    )  # fmt: skip


def job_artifacts(settings: Settings, backbone: str, fold: int) -> list[Artifact]:
    """The products of one (backbone, fold) job: the slice network's, then those of the exam networks over it."""
    exams = [exam_network_artifact(settings, backbone, fold, kind) for kind in settings.models.exam_kinds(backbone)]
    return [network_artifact(settings, backbone, fold), *exams]


def plane_table(split: str | None = None) -> pd.DataFrame:
    """A row a stored slice: study, SOP, plane in the store, z_mm, slice label, exam labels, split, fold.

    Args:
        split: "train", "test", or None for both.
    """
    verify(paths.prepared(), ["exams.parquet", "slices.parquet"])
    exams = read_table(paths.prepared() / "exams.parquet")
    exams = exams if split is None else exams[exams["split"] == split]
    wanted = set(exams[STUDY])
    planes = [planes_of(paths.store(), study) for study in stored_studies(paths.store()) if study in wanted]
    if not planes:
        raise UserError(
            f"{paths.shown(paths.store())}: holds none of the {len(wanted)} exams; run ./run.sh --from features"
        )
    labels = read_table(paths.prepared() / "slices.parquet")[[STUDY, SOP, SLICE_LABEL]]
    table = pd.concat(planes, ignore_index=True).merge(labels, on=[STUDY, SOP], how="left", validate="one_to_one")
    exam_columns = [STUDY, "split", "fold", *EXAM_LABELS, *QA_LABELS]
    return table.merge(exams[exam_columns], on=STUDY, how="left", validate="many_to_one")


def planes_of(store: Path, study: str) -> pd.DataFrame:
    """A row a slice of one stored exam: study, SOP, plane in the store, z_mm (mm, ascending)."""
    exam = open_exam(store, study)
    return pd.DataFrame({STUDY: study, SOP: exam.sop_uids, "plane": np.arange(len(exam)), "z_mm": exam.z_mm})


def train_fold(settings: Settings, backbone: str, fold: int, threads: int, *, force: bool = False) -> list[str]:
    """Train one network on the exams outside a fold; predict the fold and the test exams; what to tell of it."""
    recipe = settings.models.of(backbone)
    check_recipe(recipe, backbone)
    prepare_backend(recipe, threads)
    import keras

    from models.progress import TrainingLog
    from models.slice_network import in_float32
    from models.slice_training import train_network

    product = network_artifact(settings, backbone, fold)
    if product.is_current(force=force):
        return []
    for kind in EXAM_KINDS:  # they have read this network; their identities do not tell that it was trained again
        exam_network_artifact(settings, backbone, fold, kind).discard()
    table = plane_table()
    train = table[(table["split"] == "train") & (table["fold"] != fold)].reset_index(drop=True)
    held_out = table[(table["split"] == "train") & (table["fold"] == fold)].assign(role="oof")
    scored = pd.concat([held_out, table[table["split"] == "test"].assign(role="test")], ignore_index=True)
    _check_disjoint(train, scored)
    views = SliceViews(paths.store(), recipe)
    with product.building(fresh=force) as directory:
        checkpoint = directory / ".checkpoint.npz"
        with TrainingLog(recipe.epochs, paths.training_events(backbone, fold)) as log:
            model, history = train_network(
                train, views, recipe, backbone, checkpoint, log, loaders=loader_threads(threads)
            )
        if chosen_engine(recipe.engine) == "openvino":
            export_graph(in_float32(model, recipe, backbone), directory)
            engine = openvino_engine(directory, threads)
        else:
            engine = keras_engine(model)
        auc = _write_predictions(directory, engine, scored, views, recipe, loader_threads(threads))
        _write_network(directory, model, history, f"{backbone}/fold{fold}")
        loss = history.losses[history.best_epoch - 1]
        product.finish(
            rows={"training slices": len(train), "predicted slices": len(scored)},
            metrics={"final_loss": loss, "oof_slice_auc": auc, "best_epoch": history.best_epoch},
            seed=recipe.seed, threads=threads, backend=keras.backend.backend(), precision=policy_of(recipe, backbone),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    return [f"loss {loss:.4f}, out-of-fold slice AUC {auc:.3f}"]


def slice_engine(recipe: ModelsSettings, backbone: str, directory: Path, threads: int) -> Engine:
    """The engine that a finished run was predicted with; Keras is loaded only where it is that."""
    if (directory / GRAPH).is_file():
        verify(directory, [GRAPH, GRAPH_WEIGHTS])
        return openvino_engine(directory, threads)
    from models.checkpoint import load_weights
    from models.slice_network import slice_network

    verify(directory, ["weights.npz"])
    model = slice_network(recipe, backbone, "none")
    load_weights(directory / "weights.npz", model)
    return keras_engine(model)


def prepare_backend(settings: ModelsSettings, threads: int) -> None:
    """Fix seeds, thread counts and the order of sums before the first operation, as far as the backend can.

    That a killed training ends with the same bytes is promised for TensorFlow on one machine. PyTorch warns of
    operations that have no deterministic form; JAX takes all cores, and what it sums on a GPU may differ.
    """
    import keras

    keras.utils.set_random_seed(settings.seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.config.experimental.enable_op_determinism()


def _check_disjoint(train: pd.DataFrame, scored: pd.DataFrame) -> None:
    shared = set(train[STUDY]) & set(scored[STUDY])
    if shared:
        raise UserError(f"leak: {len(shared)} exams are both trained on and scored, e.g. {min(shared)}")


def _write_predictions(
    directory: Path, engine: Engine, scored: pd.DataFrame, views: SliceViews, settings: ModelsSettings, loaders: int
) -> float:
    """Write slices.parquet and embeddings.npy; the AUC of `pe` on the held-out fold's slices."""
    from numpy.lib.format import open_memmap
    from sklearn.metrics import roc_auc_score

    frames = []
    with atomic_path(directory / "embeddings.npy") as temporary:
        embeddings = open_memmap(temporary, "w+", np.float16, (len(scored), settings.embedding))
        first = 0
        for frame, vectors in predict_slices(engine, scored, views, settings, loaders=loaders):
            embeddings[first : first + len(frame)] = vectors
            frames.append(frame)
            first += len(frame)
        embeddings.flush()
    table = pd.concat(frames, ignore_index=True)
    table.insert(2, "role", scored["role"].to_numpy())
    table.insert(3, "row", np.arange(len(table)))
    write_table(directory / "slices.parquet", table)
    held_out = (scored["role"] == "oof").to_numpy()
    truth = scored.loc[held_out, SLICE_LABEL].to_numpy()
    if len(np.unique(truth)) < 2:
        say("the held-out fold has slices of one class only: no AUC")
        return 0.5
    return float(roc_auc_score(truth, table.loc[held_out, "pe"]))


def _write_network(directory: Path, model, history: History, title: str) -> None:
    from models.checkpoint import save_weights

    save_weights(directory / "weights.npz", model)
    write_table(directory / "history.csv", history.table())
    draw_curves(directory / "learning.png", history.table(), title)
