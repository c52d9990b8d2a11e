"""The frozen first layers of a network, computed by OpenVINO: the loader's threads run them, and the rest is trained.

Frozen layers see large images, and take 30 % of a training step on TensorFlow. OpenVINO needs two thirds of their time,
because it fuses activations into the convolutions, and a third in bfloat16. Rounded features do not harm training;
predictions compute the stem in float32.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from models.backbones import last_readers
from models.device import cpu_flags, onednn_is_limited
from models.prediction_engine import compiled_graph, export_model


class FrozenStem(NamedTuple):
    """A network split behind its frozen layers.

    Attributes:
        stem: From images to the output of the last frozen layer.
        rest: From there to the network's outputs; its layers are those of the network.
    """

    stem: keras.Model
    rest: keras.Model


def split(network: keras.Model, maps: list[keras.KerasTensor], backbone: str) -> FrozenStem | None:
    """Split a network behind the last point that one tensor passes and before which every layer is frozen.

    Args:
        network: From `models.slice_network.slice_network_with_maps`.
        maps: Its feature maps, from there.
        backbone: Name of the backbone's layer.

    Returns:
        None where nothing is frozen, or where a backbone gives the same map for several strides.
    """
    graph = network.get_layer(backbone)
    cut = _last_cut(graph)
    if cut is None or len(set(map(id, graph.outputs))) < len(graph.outputs):
        return None
    images = network.get_layer("normalise").output
    stem = keras.Model(network.input, keras.Model(graph.input, cut.output)(images), name=f"{backbone}_stem")
    features = keras.Input(cut.output.shape[1:], name="features_of_stem")
    inner = keras.Model(cut.output, graph.output, name=f"{backbone}_rest")
    head = keras.Model(maps, network.output, name="head")
    return FrozenStem(stem, keras.Model(features, head(inner(features)), name=f"{network.name}_rest"))


def _last_cut(graph: keras.Model) -> keras.Layer | None:
    """The last frozen layer whose output is all that later layers and the feature maps need of the layers before."""
    layers, readers = graph.layers, last_readers(graph)
    if readers is None:
        return None
    learning = (number for number, layer in enumerate(layers) if layer.trainable and layer.weights or _is_random(layer))
    frozen = next(learning, len(layers)) - 1
    for number in range(frozen, 0, -1):
        if max(readers[:number]) <= number and readers[number] < len(layers):
            return layers[number]
    return None


def _is_random(layer: keras.Layer) -> bool:
    """Whether a layer draws random numbers in training, such as dropout: OpenVINO computes predictions only."""
    return any("seed_generator" in variable.path for variable in layer.variables)


def stem_precision(precision: str) -> str:
    """OpenVINO's name of the precision of a stem: bfloat16 only for "auto", and where the processor multiplies it."""
    has_bfloat16 = bool(cpu_flags() & {"avx512_bf16", "amx_bf16"}) and not onednn_is_limited()
    return "bf16" if precision == "auto" and has_bfloat16 else "f32"


class StemFeatures:
    """Computes the features of a stem; several threads may call it.

    Args:
        stem: From `split`.
        precision: `models.precision` of the network.
        threads: Threads that call it at the same time, each with one CPU thread.
    """

    def __init__(self, stem: keras.Model, precision: str, threads: int = 1) -> None:
        with tempfile.TemporaryDirectory() as folder:
            export_model(stem, Path(folder) / "stem.xml")
            self._run = compiled_graph(
                Path(folder) / "stem.xml", threads, outputs=1, streams=threads, precision=stem_precision(precision)
            )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (batch, y, x, channels) -> features (batch, y', x', filters), float32."""
        return self._run(images)[0]
