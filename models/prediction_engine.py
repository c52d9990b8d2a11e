"""Prediction of stored slices: one forward pass gives logits and embedding; on a CPU through OpenVINO.

OpenVINO runs the exported graph in float32 with fused batch normalisation, two to three times as fast as Keras on
TensorFlow and equal within 1e-3 (tested). The exported graph is kept, so applying a finished network needs neither
Keras nor TensorFlow.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from input.contest import SOP, STUDY
from models.batches import prefetched
from models.clot_columns import CLOT_COLUMNS
from models.clot_numbers import clot_numbers
from models.clot_targets import CLOT, flip_map
from models.device import gpu_capability
from models.slice_targets import FLIPPED, TARGETS
from models.slice_views import SliceViews
from models.stored_maps import MAP_LEVELS
from pipeline.settings import ModelsSettings

if TYPE_CHECKING:
    import keras

#: images (batch, y, x, channels) -> logits (batch, targets), embeddings (batch, d), clot map logits (batch, rows,
#: columns, MAP_CHANNELS)
Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
#: The outputs of a network in the order of an engine.
OUTPUTS = ("logits", "embedding", "map")
#: Values of models.engine.
ENGINES = ("auto", "keras", "openvino")
BATCH = 32
#: File names of a run's exported graph and of its weights.
GRAPH, GRAPH_WEIGHTS = "network.xml", "network.bin"


def select_engine(name: str) -> str:
    """Resolve one of ENGINES; "auto" is "openvino" with the TensorFlow backend on a CPU, otherwise "keras"."""
    if name != "auto":
        return name
    import keras

    return "openvino" if keras.backend.backend() == "tensorflow" and gpu_capability() is None else "keras"


def keras_engine(model: "keras.Model") -> Engine:
    """Make an engine from a `models.slice_network.slice_network`."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs = model.predict_on_batch(images)
        return outputs["logits"], outputs["embedding"], outputs["map"]

    return run


def export_graph(model: "keras.Model", directory: Path) -> None:
    """Write a `models.slice_network.slice_network` as GRAPH and GRAPH_WEIGHTS for `openvino_engine`."""
    import keras

    _keep_telemetry_out()
    # Outputs of an exported dict lose their names, so a graph with ordered outputs is exported.
    ordered = keras.Model(model.input, [model.output[name] for name in OUTPUTS])
    ordered.export(str(directory / GRAPH), format="openvino", verbose=False)


def openvino_engine(directory: Path, threads: int) -> Engine:
    """Make an engine from the files of `export_graph`."""
    _keep_telemetry_out()
    import openvino

    compiled = openvino.Core().compile_model(
        str(directory / GRAPH), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    request = compiled.create_infer_request()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        request.infer([images])
        logits, embeddings, maps = (request.get_output_tensor(index).data.copy() for index in range(len(OUTPUTS)))
        return logits, embeddings, maps

    return run


def _keep_telemetry_out() -> None:
    """Hide OpenVINO's telemetry from it: it writes to the home folder, fails without one, and opens connections."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import then raises ImportError


def predict_slices(
    engine: Engine, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, *, loaders: int = 1
) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """Predict stored slices batch by batch, so that memory does not grow with their number.

    With `settings.flip_tta` the logits, embeddings and maps of a slice and of its mirror image are averaged.

    Args:
        engine: From `keras_engine` or `openvino_engine`.
        slices: Study, SOPInstanceUID and `plane` of every slice, with the slices of an exam in adjacent rows.
        views: Views of the store.
        settings: Recipe of the network.
        loaders: Threads that prepare batches; order and results do not depend on their number.

    Yields:
        A table of study, SOP, one probability per target, the slice label's named `pe`, and the columns of
        `models.clot_columns`; the embeddings, float16 (rows, d); and the clot maps, uint8 (rows, map rows, map columns)
        in steps of 1 / MAP_LEVELS.
    """
    studies, planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()

    def make(batch: int) -> tuple[slice, list[np.ndarray]]:
        rows = slice(batch * BATCH, min((batch + 1) * BATCH, len(slices)))
        pairs = list(zip(studies[rows], planes[rows], strict=True))
        images = np.stack([views.view(study, int(plane)) for study, plane in pairs])
        return rows, [images, np.ascontiguousarray(images[:, :, ::-1])] if settings.flip_tta else [images]

    for rows, variants in prefetched(make, -(-len(slices) // BATCH), threads=loaders):
        outputs = [engine(images) for images in variants]
        logits, embeddings, maps = (list(parts) for parts in zip(*outputs, strict=True))
        if settings.flip_tta:
            logits[1], maps[1] = logits[1][:, FLIPPED], flip_map(maps[1])
        probabilities = expit(np.mean(logits, axis=0, dtype=np.float64))
        frame = slices.iloc[rows][[STUDY, SOP]].reset_index(drop=True)
        frame["pe"] = probabilities[:, 0]
        for index, target in enumerate(TARGETS[1:], start=1):
            frame[target] = probabilities[:, index]
        map_probabilities = expit(np.mean(maps, axis=0, dtype=np.float32))
        numbers = clot_numbers(variants[0], map_probabilities, settings)
        frame[list(CLOT_COLUMNS)] = numbers
        clot = np.rint(MAP_LEVELS * map_probabilities[..., CLOT]).astype(np.uint8)
        yield frame, np.mean(embeddings, axis=0).astype(np.float16), clot
