"""Prediction of new exams with the finished networks."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from features.store import stored_studies
from input.contest import SOP
from models.batches import loader_threads
from models.network_artifacts import job_artifacts
from models.network_names import exam_network_kinds
from models.prediction_engine import predict_slices
from models.slice_runs import planes_of, slice_engine
from models.slice_views import SliceViews
from models.stored_maps import MeanMaps, mapping_backbone
from pipeline import paths
from pipeline.console import progress
from pipeline.errors import UserError
from pipeline.machine import cores
from pipeline.settings import Settings


@dataclasses.dataclass(frozen=True)
class NetworkPredictions:
    """Predictions of all networks for the exams of a store.

    Attributes:
        tables: fold -> network -> table with one row per slice: study, SOP, `pe` and one probability per further
            target; of slice networks also the columns of `models.clot_columns`.
        maps: SOPInstanceUID -> clot probability (rows, columns), float32, mean over the folds of the mapping backbone.
    """

    tables: dict[int, dict[str, pd.DataFrame]]
    maps: dict[str, np.ndarray]


def predict_exams(settings: Settings, store: Path) -> NetworkPredictions:
    """Run every (backbone, fold) network on all exams of a store.

    Args:
        settings: The experiment whose networks are finished.
        store: A pixel store (`features.store`) of unlabelled exams.

    Raises:
        UserError: Networks that are missing or have other settings, all in one message.
    """
    jobs = _jobs(settings)
    require_networks(settings)
    slices = pd.concat([planes_of(store, study) for study in stored_studies(store)], ignore_index=True)
    results: dict[int, dict[str, pd.DataFrame]] = {fold: {} for fold, _ in jobs}
    mean, mapping = MeanMaps(), mapping_backbone(settings)
    for fold, backbone in progress(jobs, desc="networks", unit="network"):
        frame, embeddings, maps = _predict_slices(settings, backbone, fold, slices, store)
        results[fold][backbone] = frame
        if backbone == mapping:
            mean.add(maps)
        if exam_network_kinds(settings.models, backbone):
            from models.exam_runs import apply_exam_networks

            results[fold] |= apply_exam_networks(settings, backbone, fold, slices, frame, embeddings)
    return NetworkPredictions(results, dict(zip(slices[SOP], mean.probability(), strict=True)))


def _jobs(settings: Settings) -> list[tuple[int, str]]:
    """Return (fold, backbone) of every slice network."""
    return [(fold, backbone) for fold in range(settings.input.folds) for backbone in settings.models.backbones]


def require_networks(settings: Settings) -> None:
    """Check that every network can be applied: finished, with these settings, in the format of this code.

    Raises:
        UserError: What is missing or differs, for all networks in one message.
    """
    faults = []
    for fold, backbone in _jobs(settings):
        for artifact in job_artifacts(settings, backbone, fold):
            reason = artifact.stale_reason()
            if reason:
                faults.append(f"{artifact.name}: {reason}")
    if faults:
        raise UserError.listing("Networks are not ready:", faults, "Train them with the same settings: ./run.sh")


def _predict_slices(
    settings: Settings, backbone: str, fold: int, slices: pd.DataFrame, store: Path
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), cores())
    batches = predict_slices(engine, slices, SliceViews(store, recipe), recipe, loaders=loader_threads(cores()))
    frames, embeddings, maps = zip(*batches, strict=True)
    return pd.concat(frames, ignore_index=True), np.concatenate(embeddings), np.concatenate(maps)
