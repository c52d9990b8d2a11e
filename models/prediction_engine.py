"""Prediction of stored slices: one forward pass gives logits and embedding; on a CPU through OpenVINO.

OpenVINO runs the exported graph in float32 with fused batch normalisation, two to three times as fast as Keras on
TensorFlow and equal within 1e-3 (tested). The exported graph is kept, so applying a finished network needs neither
Keras nor TensorFlow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from input.contest import SOP, STUDY
from models.batches import prefetched
from models.device import gpu_capability
from models.slice_targets import FLIPPED, TARGETS
from models.slice_views import SliceViews
from pipeline.settings import ModelsSettings

if TYPE_CHECKING:
    import keras

#: images (batch, y, x, channels) -> logits (batch, targets), embeddings (batch, d)
Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
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

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = model.predict_on_batch(images)
        return outputs["logits"], outputs["embedding"]

    return run


def export_graph(model: "keras.Model", directory: Path) -> None:
    """Write a `models.slice_network.slice_network` as GRAPH and GRAPH_WEIGHTS for `openvino_engine`."""
    import keras

    # Outputs of an exported dict lose their names, so a graph with ordered outputs is exported.
    ordered = keras.Model(model.input, [model.output["logits"], model.output["embedding"]])
    ordered.export(str(directory / GRAPH), format="openvino", verbose=False)


def openvino_engine(directory: Path, threads: int) -> Engine:
    """Make an engine from the files of `export_graph`."""
    import openvino

    compiled = openvino.Core().compile_model(
        str(directory / GRAPH), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    request = compiled.create_infer_request()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        request.infer([images])
        return request.get_output_tensor(0).data.copy(), request.get_output_tensor(1).data.copy()

    return run


def predict_slices(
    engine: Engine, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, *, loaders: int = 1
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Predict stored slices batch by batch, so that memory does not grow with their number.

    With `settings.flip_tta` the logits and embeddings of a slice and of its mirror image are averaged.

    Args:
        engine: From `keras_engine` or `openvino_engine`.
        slices: Study, SOPInstanceUID and `plane` of every slice, with the slices of an exam in adjacent rows.
        views: Views of the store.
        settings: Recipe of the network.
        loaders: Threads that prepare batches; order and results do not depend on their number.

    Yields:
        A table of study, SOP and one probability per target, the slice label's named `pe`; and the embeddings,
        float16 (rows, d).
    """
    studies, planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()

    def make(batch: int) -> tuple[slice, list[np.ndarray]]:
        rows = slice(batch * BATCH, min((batch + 1) * BATCH, len(slices)))
        pairs = list(zip(studies[rows], planes[rows], strict=True))
        images = np.stack([views.view(study, int(plane)) for study, plane in pairs])
        return rows, [images, np.ascontiguousarray(images[:, :, ::-1])] if settings.flip_tta else [images]

    for rows, variants in prefetched(make, -(-len(slices) // BATCH), threads=loaders):
        outputs = [engine(images) for images in variants]
        logits = [output_logits for output_logits, _ in outputs]
        if settings.flip_tta:
            logits[1] = logits[1][:, FLIPPED]
        probabilities = 1 / (1 + np.exp(-np.mean(logits, axis=0, dtype=np.float64)))
        frame = slices.iloc[rows][[STUDY, SOP]].reset_index(drop=True)
        frame["pe"] = probabilities[:, 0]
        for index, target in enumerate(TARGETS[1:], start=1):
            frame[target] = probabilities[:, index]
        yield frame, np.mean([embeddings for _, embeddings in outputs], axis=0).astype(np.float16)
