"""Applies the finished networks to exams that no training saw."""

from pathlib import Path

import numpy as np
import pandas as pd

from features.store import stored_studies
from models.batches import loader_threads
from models.inference import predict_slices
from models.slice_runs import job_artifacts, planes_of, slice_engine
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.console import progress
from pipeline.errors import UserError
from pipeline.jobs import cores
from pipeline.settings import Settings


def predict_exams(settings: Settings, store: Path) -> dict[int, dict[str, pd.DataFrame]]:
    """Run every (backbone, fold) network over all exams of a store.

    Args:
        settings: the experiment whose networks are finished.
        store: a pixel store (`features.store`) of unlabelled exams.

    Returns:
        fold -> network -> a row a slice: study, SOP, `pe` and a probability a further target.

    Raises:
        UserError: a network is missing or belongs to other settings; all at once.
    """
    jobs = _jobs(settings)
    require_networks(settings)
    slices = pd.concat([planes_of(store, study) for study in stored_studies(store)], ignore_index=True)
    results: dict[int, dict[str, pd.DataFrame]] = {fold: {} for fold, _ in jobs}
    for fold, backbone in progress(jobs, what="networks", unit="network"):
        frame, embeddings = _predict_slices(settings, backbone, fold, slices, store)
        results[fold][backbone] = frame
        if settings.models.exam_kinds(backbone):
            from models.exam_runs import predict_with

            results[fold] |= predict_with(settings, backbone, fold, slices, frame, embeddings)
    return results


def _jobs(settings: Settings) -> list[tuple[int, str]]:
    """(fold, backbone) of every slice network."""
    return [(fold, backbone) for fold in range(settings.input.folds) for backbone in settings.models.backbones]


def require_networks(settings: Settings) -> None:
    """Make sure that every network can be applied: finished, with these settings, in the format of this code.

    Raises:
        UserError: what is missing or differs, of all networks at once.
    """
    faults = []
    for fold, backbone in _jobs(settings):
        for product in job_artifacts(settings, backbone, fold):
            reason = product.stale_reason()
            if reason:
                faults.append(f"{product.name}: {reason}")
    if faults:
        raise UserError.listing("Networks are not ready:", faults, "Train them: ./run.sh (with the same settings)")


def _predict_slices(
    settings: Settings, backbone: str, fold: int, slices: pd.DataFrame, store: Path
) -> tuple[pd.DataFrame, np.ndarray]:
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), cores())
    batches = predict_slices(engine, slices, SliceViews(store, recipe), recipe, loaders=loader_threads(cores()))
    frames, embeddings = zip(*batches, strict=True)
    return pd.concat(frames, ignore_index=True), np.concatenate(embeddings)
