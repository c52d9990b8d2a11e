"""Prediction of stored slices: one forward pass gives logits and embedding; on a CPU through OpenVINO.

OpenVINO runs the exported graph in float32 with fused batch normalisation, two to three times as fast as Keras on
TensorFlow and equal within 1e-3 (tested). The exported graph is kept, so applying a finished network needs neither
Keras nor TensorFlow. In bfloat16 it would take half of the time, but logits would change by .1 to .3 on average.
"""

import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
from pipeline.artifact import read_manifest, verify
from pipeline.files import require_space
from pipeline.settings import ModelsSettings

if TYPE_CHECKING:
    import keras
    import openvino

#: images (batch, y, x, channels) -> logits (batch, targets), embeddings (batch, d), clot map logits (batch, rows,
#: columns, MAP_CHANNELS)
Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
#: The outputs of a network in the order of an engine.
OUTPUTS = ("logits", "embedding", "map")
#: Values of models.engine.
ENGINES = ("auto", "keras", "openvino")
BATCH = 32
#: Images that OpenVINO computes at once: the activations of a whole batch do not fit into a processor's cache.
AT_ONCE = 4
#: File names of a run's exported graph and of its weights.
GRAPH, GRAPH_WEIGHTS = "network.xml", "network.bin"


class Predicted(NamedTuple):
    """Predictions of one network for some slices.

    Attributes:
        frame: Study, SOP, one probability per target, the slice label's named `pe`, and the columns of
            `models.clot_columns`.
        embeddings: float16 (rows, d).
        maps: Clot maps, uint8 (rows, map rows, map columns), in steps of 1 / MAP_LEVELS.
    """

    frame: pd.DataFrame
    embeddings: np.ndarray
    maps: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable["Predicted"]) -> "Predicted":
        """Join batches in their order."""
        frames, embeddings, maps = zip(*parts, strict=True)
        return cls(pd.concat(frames, ignore_index=True), np.concatenate(embeddings), np.concatenate(maps))


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

    # Outputs of an exported dict lose their names, so a graph with ordered outputs is exported.
    export_model(keras.Model(model.input, [model.output[name] for name in OUTPUTS]), directory / GRAPH)


def export_model(model: "keras.Model", path: Path) -> None:
    """Write a network for `compiled_graph`: `path` and its weights in a .bin file beside it."""
    _keep_telemetry_out()
    folder = path.parent / ".export"  # a fixed name, so that the next export removes what a killed one left
    folder.mkdir(exist_ok=True)
    try:
        model.export(str(folder / path.name), format="openvino", verbose=False)
        save_graph(read_graph(folder / path.name), path)
    except RuntimeError:  # OpenVINO does not say why it cannot write
        require_space(path.with_suffix(".bin"), 2 * 4 * model.count_params())
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_graph(graph: "openvino.Model", path: Path) -> None:
    """Write a graph with numbered names: its own contain counters of all graphs that the process exported."""
    import openvino

    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    openvino.save_model(graph, str(path), compress_to_fp16=False)


@cache
def _core() -> "openvino.Core":
    _keep_telemetry_out()
    import openvino

    # OpenVINO sets up its NumPy interface at the first use of an array; two threads that do so at once wait for each
    # other for ever.
    _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino.Core()


def openvino_engine(directory: Path, threads: int, *, streams: int = 1) -> Engine:
    """Make an engine from the files of `export_graph`.

    Args:
        directory: Folder with the files.
        threads: CPU threads of all streams together.
        streams: Number of threads that may call the engine at the same time; the others wait.
    """
    run = compiled_graph(directory / GRAPH, threads, outputs=len(OUTPUTS), streams=streams)

    def engine(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits, embeddings, maps = run(images)
        return logits, embeddings, maps

    return engine


def read_graph(path: Path) -> "openvino.Model":
    """Read a graph from `export_model`."""
    return _core().read_model(str(path))


def compiled_graph(
    graph: "Path | openvino.Model", threads: int, *, outputs: int, streams: int = 1, precision: str = "f32"
) -> Callable[[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Compile a graph from `export_model`.

    Args:
        graph: The graph, or its file.
        threads, streams: As in `openvino_engine`.
        outputs: Number of its outputs.
        precision: "f32" or "bf16".

    Returns:
        Images -> outputs.
    """
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "INFERENCE_PRECISION_HINT": precision,
    }
    graph = read_graph(graph) if isinstance(graph, Path) else graph
    shape = graph.input(0).partial_shape
    shape[0] = AT_ONCE  # a graph of fixed shape is a tenth faster
    graph.reshape(shape)
    compiled = _core().compile_model(graph, "CPU", options)
    of_thread = threading.local()

    def run(images: np.ndarray) -> list[np.ndarray]:
        """Predict a batch with the request of the calling thread."""
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        request, parts = of_thread.request, []
        for first in range(0, len(images), AT_ONCE):
            chunk = images[first : first + AT_ONCE]
            padding = np.zeros((AT_ONCE - len(chunk), *chunk.shape[1:]), chunk.dtype)
            request.infer([np.concatenate([chunk, padding]) if len(padding) else chunk])
            outputs_of_chunk = (request.get_output_tensor(index).data for index in range(outputs))
            parts.append([np.array(values[: len(chunk)]) for values in outputs_of_chunk])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    return run


def _keep_telemetry_out() -> None:
    """Hide OpenVINO's telemetry from it: it writes to the home folder, fails without one, and opens connections."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import then raises ImportError


def has_graph(directory: Path) -> bool:
    """Whether a finished run was written with an exported graph, which needs no Keras."""
    return GRAPH in read_manifest(directory)["files"]


def slice_engine(
    recipe: ModelsSettings, backbone: str, directory: Path, threads: int, *, streams: int = 1
) -> Engine:  # fmt: skip
    """Load the prediction engine of a finished run; Keras is imported only if the run has no exported graph.

    Args:
        recipe: Settings of the backbone.
        backbone: A key of `models.backbones.BACKBONES`.
        directory: Folder of the run.
        threads: CPU threads of OpenVINO.
        streams: Threads that may call an OpenVINO engine at the same time.

    Raises:
        UserError: A file differs from the manifest.
    """
    if has_graph(directory):
        verify(directory, [GRAPH, GRAPH_WEIGHTS])
        return openvino_engine(directory, threads, streams=streams)
    from models.checkpoint import load_weights
    from models.slice_network import slice_network

    verify(directory, ["weights.npz"])
    model = slice_network(recipe, backbone, "none", local_map=read_manifest(directory)["local_map"])
    load_weights(directory / "weights.npz", model)
    return keras_engine(model)


def predict_slices(
    engine: Engine, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, *, loaders: int = 1
) -> Iterator[Predicted]:
    """Predict stored slices batch by batch, so that memory does not grow with their number.

    With `settings.flip_tta` the logits, embeddings and maps of a slice and of its mirror image are averaged.

    Args:
        engine: From `keras_engine` or `openvino_engine`.
        slices: Study, SOPInstanceUID and `plane` of every slice, with the slices of an exam in adjacent rows.
        views: Views of the store.
        settings: Recipe of the network.
        loaders: Threads that prepare batches; order and results do not depend on their number.

    Yields:
        The predictions of one batch after another.
    """
    batches = [slices.iloc[first : first + BATCH] for first in range(0, len(slices), BATCH)]
    images = prefetched(lambda batch: slice_images(batches[batch], views), len(batches), threads=loaders)
    for rows, batch_images in zip(batches, images, strict=True):
        yield predict_batch(engine, rows, batch_images, settings, views.blood_factors(rows[STUDY]))


def slice_images(rows: pd.DataFrame, views: SliceViews) -> np.ndarray:
    """Return the unchanged views of some stored slices: float32 (rows, y, x, channels).

    Args:
        rows: Study and `plane` of every slice.
        views: Views of the store.
    """
    pairs = zip(rows[STUDY], rows["plane"], strict=True)
    return np.stack([views.view(study, int(plane)) for study, plane in pairs])


def predict_batch(
    engine: Engine, rows: pd.DataFrame, images: np.ndarray, settings: ModelsSettings, factors: np.ndarray
) -> Predicted:
    """Predict one batch of slices.

    Args:
        engine: From `keras_engine` or `openvino_engine`.
        rows: Study and SOPInstanceUID of every slice.
        images: Their views, from `slice_images`.
        settings: Recipe of the network.
        factors: (rows,) from `SliceViews.blood_factors`.
    """
    variants = [images, np.ascontiguousarray(images[:, :, ::-1])] if settings.flip_tta else [images]
    logits, embeddings, maps = (list(parts) for parts in zip(*map(engine, variants), strict=True))
    if settings.flip_tta:
        logits[1], maps[1] = logits[1][:, FLIPPED], flip_map(maps[1])
    probabilities = expit(np.mean(logits, axis=0, dtype=np.float64))
    map_probabilities = expit(np.mean(maps, axis=0, dtype=np.float32))
    numbers = clot_numbers(images, map_probabilities, settings, factors)
    tables = (
        rows[[STUDY, SOP]].reset_index(drop=True),
        pd.DataFrame(probabilities, columns=["pe", *TARGETS[1:]]),
        pd.DataFrame(numbers, columns=list(CLOT_COLUMNS)),
    )
    clot = np.rint(MAP_LEVELS * map_probabilities[..., CLOT]).astype(np.uint8)
    return Predicted(pd.concat(tables, axis=1), np.mean(embeddings, axis=0).astype(np.float16), clot)
