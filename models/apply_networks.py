"""Prediction of new exams with the finished networks.

The networks are opened once and applied to one group of exams after another. Networks that see the same views share
them, and with exported graphs every core predicts its own batches.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import SOP, STUDY
from models.batches import MAX_LOADERS, loader_threads, prefetched
from models.exam_inputs import exam_network_inputs
from models.exam_prediction import load_exam_network, predict_exams
from models.network_artifacts import job_artifacts
from models.network_names import exam_network_kinds, exam_network_name
from models.prediction_engine import (
    GRAPH,
    GRAPH_WEIGHTS,
    Engine,
    Predicted,
    has_graph,
    predict_batch,
    slice_engine,
    slice_images,
)
from models.shared_stem import shared_engines
from models.slice_runs import planes_of
from models.slice_views import VIEW_SETTINGS, SliceViews
from models.stored_maps import MeanMaps, mapping_backbones
from pipeline import paths
from pipeline.artifact import verify
from pipeline.errors import UserError
from pipeline.machine import cores
from pipeline.settings import ModelsSettings, Settings

#: Slices per batch: small batches stay in the processor's cache and balance the threads.
BATCH = 16


@dataclasses.dataclass(frozen=True)
class NetworkPredictions:
    """Predictions of all networks for the exams of a store.

    Attributes:
        tables: fold -> network -> table with one row per slice: study, SOP, `pe` and one probability per further
            target; of slice networks also the columns of `models.clot_columns`.
        maps: SOPInstanceUID -> clot probability (rows, columns), float32, mean over the networks of the mapping
            backbones.
        embeddings: fold -> (slices, d) float16 of the best mapping backbone, rows as in its table.
    """

    tables: dict[int, dict[str, pd.DataFrame]]
    maps: dict[str, np.ndarray]
    embeddings: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


class FinishedNetworks:
    """Every (backbone, fold) network of a finished experiment, with its exam networks.

    Args:
        settings: The experiment.

    Raises:
        UserError: Networks that are missing or have other settings, all in one message, or damaged files.
    """

    def __init__(self, settings: Settings) -> None:
        require_networks(settings)
        self._settings = settings
        self._threads = min(cores(), MAX_LOADERS)
        # The same threads for all exams: each keeps its requests to OpenVINO, and memory that it has freed.
        self._pool = ThreadPoolExecutor(self._threads)
        self._mapping = mapping_backbones(settings)
        opened = {backbone: self._open(backbone) for backbone in settings.models.backbones}
        self._engines = {(fold, backbone): opened[backbone][fold] for fold, backbone in _jobs(settings)}
        self._exam_networks = {
            (fold, backbone): [
                (exam_network_name(backbone, kind), *load_exam_network(backbone, fold, kind))
                for kind in exam_network_kinds(settings.models, backbone)
            ]
            for fold, backbone in self._engines
        }

    def _open(self, backbone: str) -> list[Engine]:
        """Open the networks of all folds of a backbone."""
        directories = [paths.model_run(backbone, fold) for fold in range(self._settings.input.folds)]
        if len(directories) > 1 and all(map(has_graph, directories)):
            for directory in directories:
                verify(directory, [GRAPH, GRAPH_WEIGHTS])
            engines = shared_engines(directories, cores(), streams=self._threads)
            if engines:
                return engines
        recipe = self._settings.models.of(backbone)
        return [slice_engine(recipe, backbone, folder, cores(), streams=self._threads) for folder in directories]

    def predict(
        self, store: Path, studies: Sequence[str], enhancement: Mapping[str, float] | None = None
    ) -> NetworkPredictions:
        """Predict some exams of a store.

        Args:
            store: A pixel store (`features.store`) of unlabelled exams.
            studies: Their names in the store, at least one.
            enhancement: As in `models.slice_views.SliceViews`.
        """
        slices = pd.concat([planes_of(store, study) for study in studies], ignore_index=True)
        tables: dict[int, dict[str, pd.DataFrame]] = {fold: {} for fold, _ in self._engines}
        mean, mapping_embeddings = MeanMaps(), {}
        for (fold, backbone), predicted in self._predict_slices(store, slices, enhancement):
            tables[fold][backbone] = predicted.frame
            if backbone in self._mapping:
                mean.add(predicted.maps)
            if backbone == self._mapping[0]:
                mapping_embeddings[fold] = predicted.embeddings
            inputs = exam_network_inputs(predicted.frame, predicted.embeddings)
            for name, forward, scale in self._exam_networks[fold, backbone]:
                tables[fold][name] = predict_exams(forward, slices, inputs, scale, self._settings.models.exam)
        maps = dict(zip(slices[SOP], mean.probability(), strict=True))
        return NetworkPredictions(tables, maps, mapping_embeddings)

    def _predict_slices(
        self, store: Path, slices: pd.DataFrame, enhancement: Mapping[str, float] | None
    ) -> Iterator[tuple[tuple[int, str], Predicted]]:
        """Yield the predictions of every network in the order of the jobs."""
        results: dict[tuple[int, str], Predicted] = {}
        for backbones in self._backbones_by_view():
            jobs = [job for job in self._engines if job[1] in backbones]
            views = SliceViews(store, self._recipe(jobs[0]), enhancement=enhancement)
            parts = list(self._predict_batches(views, slices, jobs))
            results |= {job: Predicted.joined(part[number] for part in parts) for number, job in enumerate(jobs)}
        yield from ((job, results[job]) for job in self._engines)

    def _predict_batches(
        self, views: SliceViews, slices: pd.DataFrame, jobs: Sequence[tuple[int, str]]
    ) -> Iterator[list[Predicted]]:
        """Yield the predictions of networks that see these views, batch by batch."""
        batches = [slices.iloc[first : first + BATCH] for first in range(0, len(slices), BATCH)]

        def images(batch: int) -> np.ndarray:
            return slice_images(batches[batch], views)

        def outputs(batch: int, batch_images: np.ndarray) -> list[Predicted]:
            rows = batches[batch]
            factors = views.blood_factors(rows[STUDY])
            return [predict_batch(self._engines[job], rows, batch_images, self._recipe(job), factors) for job in jobs]

        if all(has_graph(paths.model_run(backbone, fold)) for fold, backbone in jobs):
            yield from self._pool.map(lambda batch: outputs(batch, images(batch)), range(len(batches)))
        else:  # Keras runs in one thread and uses the cores, or a GPU, by itself
            loaded = prefetched(images, len(batches), threads=loader_threads(cores()))
            yield from (outputs(batch, batch_images) for batch, batch_images in enumerate(loaded))

    def _backbones_by_view(self) -> list[list[str]]:
        """The backbones in groups that see the same views."""
        groups: dict[tuple, list[str]] = {}
        for backbone in self._settings.models.backbones:
            recipe = self._settings.models.of(backbone)
            groups.setdefault(tuple(getattr(recipe, name) for name in VIEW_SETTINGS), []).append(backbone)
        return list(groups.values())

    def _recipe(self, job: tuple[int, str]) -> ModelsSettings:
        return self._settings.models.of(job[1])


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
