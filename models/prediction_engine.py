"""One forward pass gives a slice's logits and its embedding; on a CPU through OpenVINO.

OpenVINO runs the exported graph with fused batch normalisation at float32: two to three times
the speed of Keras on TensorFlow, equal within 1e-3 (a test compares them). The exported graph is kept,
so applying a finished network needs neither Keras nor TensorFlow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from input.contest import SOP, STUDY
from models.batches import prefetched
from models.precision import gpu_capability
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
#: The exported graph of a run; its weights lie beside it, in GRAPH_WEIGHTS.
GRAPH, GRAPH_WEIGHTS = "network.xml", "network.bin"


def chosen_engine(name: str) -> str:
    """keras or openvino for one of ENGINES; "auto" is OpenVINO with the TensorFlow backend on a CPU, else Keras."""
    if name != "auto":
        return name
    import keras

    return "openvino" if keras.backend.backend() == "tensorflow" and gpu_capability() is None else "keras"


def keras_engine(model: "keras.Model") -> Engine:
    """Inference by a network from `models.slice_network.slice_network`."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = model.predict_on_batch(images)
        return outputs["logits"], outputs["embedding"]

    return run


def export_graph(model: "keras.Model", directory: Path) -> None:
    """Write a network from `models.slice_network.slice_network` as GRAPH and GRAPH_WEIGHTS for `openvino_engine`."""
    import keras

    # Outputs of an exported dict lose their names, so they are told apart by a graph with a fixed order.
    ordered = keras.Model(model.input, [model.output["logits"], model.output["embedding"]])
    ordered.export(str(directory / GRAPH), format="openvino", verbose=False)


def openvino_engine(directory: Path, threads: int) -> Engine:
    """Inference by what `export_graph` wrote."""
    import openvino

    compiled = openvino.Core().compile_model(
        str(directory / GRAPH), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    request = compiled.create_infer_request()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        request.infer([images])
        return tuple(request.get_output_tensor(index).data.copy() for index in range(2))

    return run


def predict_slices(
    engine: Engine, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, *, loaders: int = 1
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Predict stored slices batch by batch, so memory does not grow with their number.

    Args:
        engine: `keras_engine` or `openvino_engine`.
        slices: study, SOPInstanceUID and `plane` of every slice; slices of an exam side by side.
        views: of the store.
        settings: whether the mirror image is averaged in.
        loaders: threads that prepare batches; order and results do not depend on their number.

    Yields:
        A frame (study, SOP, a probability a target, the slice label's named `pe`) and the
        embeddings, float16 (rows, d). Logits are averaged, so are the embeddings.
    """
    studies, planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()

    def make(batch: int) -> tuple[slice, list[np.ndarray]]:
        rows = slice(batch * BATCH, min((batch + 1) * BATCH, len(slices)))
        pairs = list(zip(studies[rows], planes[rows], strict=True))
        images = np.stack([views.view(study, int(plane)) for study, plane in pairs])
        return rows, [images, np.ascontiguousarray(images[:, :, ::-1])] if settings.flip_tta else [images]

    for rows, images in prefetched(make, -(-len(slices) // BATCH), threads=loaders):
        outputs = [engine(each) for each in images]
        logits = [result[0] for result in outputs]
        if settings.flip_tta:
            logits[1] = logits[1][:, FLIPPED]
        probabilities = 1 / (1 + np.exp(-np.mean(logits, axis=0, dtype=np.float64)))
        frame = slices.iloc[rows][[STUDY, SOP]].reset_index(drop=True)
        frame["pe"] = probabilities[:, 0]
        for index, target in enumerate(TARGETS[1:], start=1):
            frame[target] = probabilities[:, index]
        yield frame, np.mean([result[1] for result in outputs], axis=0).astype(np.float16)
