"""Applies the finished networks to exams that no training saw."""

from pathlib import Path

import numpy as np
import pandas as pd

from features.store import open_exam, stored_studies
from input.contest import SOP, STUDY
from models.inference import GRAPH, GRAPH_WEIGHTS, Engine, keras_engine, openvino_engine, predict_slices
from models.runs import run_product
from models.views import SliceViews
from pipeline import paths
from pipeline.console import progress
from pipeline.errors import UserError
from pipeline.jobs import cores
from pipeline.product import verify
from pipeline.settings import ModelsSettings, Settings


def predict_exams(settings: Settings, store: Path) -> dict[int, dict[str, pd.DataFrame]]:
    """Run every (backbone, fold) network over all exams of a store.

    Args:
        settings: the experiment whose networks are finished.
        store: a pixel store (`features.store`) of unlabelled exams.

    Returns:
        fold -> backbone -> a row a slice: study, SOP, `pe` and a probability a further target.

    Raises:
        UserError: a network is missing or belongs to other settings; all at once.
    """
    jobs = [(fold, backbone) for fold in range(settings.input.folds) for backbone in settings.models.backbones]
    _require_finished(settings, jobs)
    slices = pd.concat([_planes(store, study) for study in stored_studies(store)], ignore_index=True)
    results: dict[int, dict[str, pd.DataFrame]] = {fold: {} for fold, _ in jobs}
    for fold, backbone in progress(jobs, what="networks", unit="network"):
        results[fold][backbone] = _predict_one(settings, backbone, fold, slices, store)
    return results


def _planes(store: Path, study: str) -> pd.DataFrame:
    exam = open_exam(store, study)
    return pd.DataFrame({STUDY: study, SOP: exam.sop_uids, "plane": np.arange(len(exam))})


def _require_finished(settings: Settings, jobs: list[tuple[int, str]]) -> None:
    faults = []
    for fold, backbone in jobs:
        reason = run_product(settings, backbone, fold).stale_reason()
        if reason:
            faults.append(f"{backbone} fold {fold}: {reason}")
    if faults:
        raise UserError.listing("Networks are not ready:", faults, "Train them: ./run.sh (with the same settings)")


def _predict_one(settings: Settings, backbone: str, fold: int, slices: pd.DataFrame, store: Path) -> pd.DataFrame:
    recipe = settings.models.of(backbone)
    engine = _engine(recipe, backbone, paths.model_run(backbone, fold))
    views = SliceViews(store, recipe)
    return pd.concat([frame for frame, _ in predict_slices(engine, slices, views, recipe)], ignore_index=True)


def _engine(recipe: ModelsSettings, backbone: str, directory: Path) -> Engine:
    """The engine that the run was predicted with; Keras is loaded only where it is that."""
    if (directory / GRAPH).is_file():
        verify(directory, [GRAPH, GRAPH_WEIGHTS])
        return openvino_engine(directory, cores())
    from models.checkpoint import load_weights
    from models.network import slice_network

    verify(directory, ["weights.npz"])
    model = slice_network(recipe, backbone, "none")
    load_weights(directory / "weights.npz", model)
    return keras_engine(model)
