"""Contribution maps: a cheap kind of activation map, a baseline for the benchmark of the maps in use.

They cost one forward pass for all targets. After the feature map F (y, x, c) the slice network is short: average and
maximum over the cells, a ReLU embedding, linear logits. So the gradient g of a logit with respect to the pooled vector
is a product of two kernels and a mask, and the contribution of cell (y, x) to the logit is exact:

    sum over c of F[y, x, c] * (g_average[c] / cells + g_maximum[c] * [the channel's maximum is in this cell])

(gradient times input; Zhou et al. 2016, arXiv 1512.04150, is the case without embedding). A generalised mean v[c]
distributes g[c] v[c] over the cells in proportion to F[y, x, c] raised to its power. The contributions of all cells
and a constant sum up to the logit. Exact contributions need not be informative: a small input has few cells, each with
a receptive field of most of the slice, and the padding affects the cells at the border; on synthetic exams these maps
overlap the clots hardly more than by chance.

On the exported OpenVINO graph, F is a third output that is added in memory; the files are unchanged. A run without an
exported graph is read with Keras.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.feature_grids import keras_grid, openvino_grid
from input.contest import SLICE_LABEL
from models.activation_maps import check_targets
from models.feature_grid import FeatureGrid
from models.prediction_engine import GRAPH, GRAPH_WEIGHTS
from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.artifact import verify
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings, Settings

if TYPE_CHECKING:
    import openvino

#: As in models.pooling, which needs Keras.
SMALLEST = 1e-4


@dataclass(frozen=True)
class Head:
    """The dense layers after the pooling.

    Attributes:
        to_embedding, embedding_bias: (2 c, d), (d,); (c, d) after a generalised mean.
        to_logits, logits_bias: (d, targets), (targets,).
        power: of the generalised mean; None: average and maximum.
    """

    to_embedding: np.ndarray
    embedding_bias: np.ndarray
    to_logits: np.ndarray
    logits_bias: np.ndarray
    power: float | None = None

    @classmethod
    def load(cls, file: Path, pooling: str) -> "Head":
        """Read the last arrays of a run's weights.npz.

        Args:
            file: weights.npz.
            pooling: as in the settings.

        Raises:
            UserError: the arrays are not those of a slice network.
        """
        with np.load(file, allow_pickle=False) as arrays:
            last = [arrays[name] for name in sorted(arrays.files)[-6:]]
        *before, first, bias, second, last_bias = [
            array for array in last if array.dtype.kind == "f"
        ]  # without the seed
        head = (first, bias, second, last_bias)
        if [array.ndim for array in head] != [2, 1, 2, 1] or second.shape != (bias.size, last_bias.size):
            shapes = [array.shape for array in head]
            raise UserError(f"Unexpected arrays: {paths.shown(file)}. Expected a slice network, got {shapes}.")
        return cls(*head, power=float(before[-1].item()) if pooling == "gem" else None)

    def gradient(self, pooled: np.ndarray, targets: list[int]) -> np.ndarray:
        """Gradient (n, targets, p) of the targets' logits with respect to the pooled vectors (n, p)."""
        active = (pooled @ self.to_embedding + self.embedding_bias) > 0
        return np.einsum("nd,dt,pd->ntp", active, self.to_logits[:, targets], self.to_embedding, optimize=True)


@dataclass(frozen=True)
class ContributionMaps:
    """A callable from images to maps; see `load_contribution_maps`.

    Attributes:
        features: images (n, y, x, channels) float32 -> feature map (n, y', x', c).
        head: the layers after it.
        grid: position of its cells on the input.
        targets: names, in the order of the maps.
    """

    features: Callable[[np.ndarray], np.ndarray]
    head: Head
    grid: FeatureGrid
    targets: tuple[str, ...]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Signed contributions to each target's logit: images (n, y, x, channels) -> float32 (n, targets, y', x')."""
        indices = [TARGETS.index(name) for name in self.targets]
        return contributions(self.features(np.ascontiguousarray(images, np.float32)), self.head, indices)


def contributions(features: np.ndarray, head: Head, targets: list[int]) -> np.ndarray:
    """Compute the contribution of every cell to the logits.

    Args:
        features: (n, y, x, c).
        head: the layers after the pooling.
        targets: indices into `models.slice_targets.TARGETS`.

    Returns:
        float32 (n, targets, y, x). Cells that share a channel's maximum share its gradient.
    """
    if head.power is not None:
        return _of_generalised_mean(features, head, head.power, targets)
    cells = features.shape[1] * features.shape[2]
    average, maximum = features.mean(axis=(1, 2)), features.max(axis=(1, 2))
    gradient = head.gradient(np.concatenate([average, maximum], axis=1), targets)
    of_average, of_maximum = np.split(gradient, 2, axis=2)
    highest = features == maximum[:, None, None]
    highest = features * highest / highest.sum(axis=(1, 2), keepdims=True)
    maps = np.einsum("nyxc,ntc->ntyx", features, of_average / cells, optimize=True)
    return (maps + np.einsum("nyxc,ntc->ntyx", highest, of_maximum, optimize=True)).astype(np.float32)


def _of_generalised_mean(features: np.ndarray, head: Head, power: float, targets: list[int]) -> np.ndarray:
    powers = np.maximum(features, SMALLEST).astype(np.float64) ** power
    pooled = powers.mean(axis=(1, 2)) ** (1 / power)
    pooled_share = head.gradient(pooled, targets) * pooled[:, None]
    shares = powers / powers.sum(axis=(1, 2), keepdims=True)
    return np.einsum("nyxc,ntc->ntyx", shares, pooled_share, optimize=True).astype(np.float32)


def load_contribution_maps(
    settings: Settings, backbone: str, fold: int, *, targets: tuple[str, ...] = (SLICE_LABEL,), threads: int = 1
) -> ContributionMaps:
    """Load the maps of one finished slice network.

    Args:
        settings: of the run.
        backbone: name of the slice network.
        fold: its held-out fold.
        targets: names of the targets.
        threads: CPU threads.

    Raises:
        UserError: an unknown target, or a network that is missing, damaged or of another architecture.
    """
    check_targets(targets)
    directory, recipe = paths.model_run(backbone, fold), settings.models.of(backbone)
    exported = (directory / GRAPH).is_file()
    verify(directory, ["weights.npz", *([GRAPH, GRAPH_WEIGHTS] if exported else [])])
    if exported:
        features, grid = openvino_features(directory, threads)
    else:
        features, grid = _keras_features(recipe, backbone, directory)
    return ContributionMaps(features, Head.load(directory / "weights.npz", recipe.pooling), grid, tuple(targets))


def openvino_features(directory: Path, threads: int) -> tuple[Callable[[np.ndarray], np.ndarray], FeatureGrid]:
    """Return a function from images to the exported graph's feature map (n, y, x, c), and the map's grid."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(str(directory / GRAPH))
    node, channels_first = _pooled_node(graph, directory)
    grid = openvino_grid(node)
    added = graph.add_outputs([node])[0]
    output = graph.outputs.index(added)
    request = core.compile_model(
        graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()

    def run(images: np.ndarray) -> np.ndarray:
        request.infer([images])
        features = request.get_output_tensor(output).data.copy()
        return features.transpose(0, 2, 3, 1) if channels_first else features

    return run, grid


def _pooled_node(graph: "openvino.Model", directory: Path) -> tuple["openvino.Output", bool]:
    """Return the output that the pooling reads, and whether its channels come first."""
    nodes = graph.get_ordered_ops()
    maximised = {node.input_value(0) for node in nodes if node.get_type_name() == "ReduceMax"}
    for node in reversed([operation for operation in nodes if operation.get_type_name() == "ReduceMean"]):
        source = node.input_value(0)
        if source.get_node().get_type_name() == "Power":  # of a generalised mean
            source = source.get_node().input_value(0)
        elif source not in maximised:  # a gate inside the backbone also averages
            continue
        axes = sorted(node.input_value(1).get_node().get_data().tolist())
        return source, axes == [2, 3]
    raise UserError(
        f"No pooled feature map: {paths.shown(directory / GRAPH)}. Expected a graph whose feature map is pooled as in "
        "models.pooling. Export it again: ./run.sh --from models --force"
    )


def _keras_features(
    recipe: ModelsSettings, backbone: str, directory: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], FeatureGrid]:
    import keras

    from models.checkpoint import load_weights
    from models.slice_network import slice_network

    model = slice_network(recipe, backbone, "none")
    load_weights(directory / "weights.npz", model)
    tensor = model.get_layer("gem" if recipe.pooling == "gem" else "average").input
    return keras.Model(model.input, tensor).predict_on_batch, keras_grid(tensor)
