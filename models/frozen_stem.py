"""The frozen first layers of a network, computed by OpenVINO: the loader's threads run them, and the rest is trained.

Frozen layers see large images, and take 30 % of a training step on TensorFlow. OpenVINO needs two thirds of their time,
because it fuses activations into the convolutions, and a third in bfloat16. Rounded features do not harm training;
predictions compute the stem in float32. All folds have the same stem, so those that one process trains share its
features of the test slices, and of the views that they draw for training.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from models.backbones import last_readers
from models.device import cpu_flags, onednn_is_limited
from models.prediction_engine import GRAPH, OUTPUTS, Engine, compiled_graph, export_model, read_graph, save_graph
from models.shared_stem import Graph, join_graphs, joined_engine
from models.slice_views import View

#: Memory for features of either kind that folds share: for 128 x 192 pixels and 40 filters at stride 8 those of 6,500
#: test slices and 13,000 views.
REMEMBERED_BYTES = 400_000_000


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
        precision = stem_precision(precision)
        self._run = compiled_graph(_exported_graph(stem), threads, outputs=1, streams=threads, precision=precision)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (batch, y, x, channels) -> features (batch, y', x', filters), float32."""
        return self._run(images)[0]


class SharedFeatures:
    """Features of augmented views for the training, rounded to float16; several threads may call it.

    Folds draw mostly the same views of the exams that they share (`models.sampling.draw_epoch`), so three folds that
    one process trains compute half as many as they draw.

    Args:
        stem: Computes features.

    Attributes:
        compute: Images -> features, without remembering them.
    """

    def __init__(self, stem: StemFeatures) -> None:
        self.compute = stem
        self._known: dict[View, np.ndarray] = {}
        self._bytes = 0

    def __call__(self, views: Sequence[View], images: Callable[[Sequence[View]], np.ndarray]) -> np.ndarray:
        """Return the features of views (batch, y', x', filters), float32.

        Args:
            views: The views.
            images: Makes the images (batch, y, x, channels) of some of them.
        """
        unknown = [view for view in views if view not in self._known]
        computed = dict(zip(unknown, self.compute(images(unknown)).astype(np.float16), strict=True)) if unknown else {}
        features = np.stack([computed[view] if view in computed else self._known[view] for view in views])
        for view, values in computed.items():
            if self._bytes + values.nbytes <= REMEMBERED_BYTES:
                self._known[view] = values.copy()  # not the whole batch
                self._bytes += values.nbytes
        return features.astype(np.float32)


class SplitEngines:
    """Engines of `models.prediction_engine` for the folds of a split network, which share the stem's features.

    Args:
        stem: From `split`.
        threads: CPU threads.
    """

    def __init__(self, stem: keras.Model, threads: int) -> None:
        self._graph, self._threads = _exported_graph(stem), threads
        self._stem = compiled_graph(self._graph.clone(), threads, outputs=1)
        self._shared: tuple[list[str], RememberedFeatures] | None = None

    def of(self, rest: keras.Model, shared: list[str], path: Path) -> tuple[Engine, Engine]:
        """Return the engine of a fold for any images, and the one for those that every fold predicts.

        Args:
            rest: From `split`, with the weights of the fold.
            shared: Names of the slices of the second engine, which gets all their images once, in the same batches
                for every fold.
            path: Where the graph of the whole network is written.
        """
        if self._shared is None or self._shared[0] != shared:
            self._shared = shared, RememberedFeatures(self._stem)
        remembered = self._shared[1]
        remembered.restart()
        graph = _exported_graph(keras.Model(rest.input, [rest.output[name] for name in OUTPUTS]))
        save_graph(join_graphs(self._graph.clone(), graph.clone()), path)
        run = compiled_graph(graph, self._threads, outputs=len(OUTPUTS))
        return joined_engine(self._stem, run), joined_engine(remembered, run)


class RememberedFeatures:
    """The stem's features of a sequence of images; each pass after the first reads them from memory.

    Args:
        stem: Images (batch, y, x, channels) -> its features in a list. Every pass computes those of the last batches,
            if all take more than REMEMBERED_BYTES.
    """

    def __init__(self, stem: Graph) -> None:
        self._stem = stem
        self._batches: list[list[np.ndarray]] = []
        self._bytes = self._next = 0

    def restart(self) -> None:
        """Begin the next pass."""
        self._next = 0

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the features of the next images of the sequence, in a list as the stem does."""
        batch, self._next = self._next, self._next + 1
        if batch < len(self._batches):
            return self._batches[batch]
        features = self._stem(images)
        if batch == len(self._batches) and self._bytes + features[0].nbytes <= REMEMBERED_BYTES:
            self._batches.append(features)
            self._bytes += features[0].nbytes
        return features


def _exported_graph(model: keras.Model) -> Any:
    """Export a network as a graph of OpenVINO."""
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder) / GRAPH)
        return read_graph(Path(folder) / GRAPH)  # its weights stay mapped when the file is removed
