"""Which places of a slice speak for a target: maps without automatic differentiation, of two kinds.

"occlusion" (models.occlusion) covers square after square and tells the fall of the logit: some sixty passes
a slice, and on drawn exams the maps lie on the clots (`python -m benchmarks.activation`).

"contribution" costs one pass for all targets. After the feature map F (y, x, c) the slice network is short:
average and maximum over the places, a ReLU embedding, linear logits. So the gradient g of a logit at the pooled
vector is a product of two kernels and a mask, and the share of place (y, x) in the logit is exact:

    sum over c of F[y, x, c] * (g_average[c] / places + g_maximum[c] * [the channel's maximum lies here])

(gradient times input; Zhou et al. 2016, arXiv 1512.04150, is the case without embedding). A generalised mean
v[c] shares out g[c] v[c] among the places as F[y, x, c] to its power goes. The shares of all
places and a constant that no place owns sum up to the logit. Exact is not the same as telling: a small
input leaves few cells, each sees most of the slice, and what the padding does to the border's cells weighs
much; on drawn exams these maps lie on the clots hardly more than by chance.

Both run on the exported OpenVINO graph, without Keras or TensorFlow: F is a third output that is added in
memory; the files stay as they are. A run without an exported graph is read with Keras.

    maps = load_activation_maps(settings, "mobilenetv2", fold=0, targets=(LEFT, RIGHT))
    views = SliceViews(paths.store(), settings.models.of("mobilenetv2"))
    (left, right), = maps(views.view(study, plane)[None])
    overlay = on_stored_slice(left, maps.grid, views.matrix(study), exam.hu.shape[1:])

A map tells what the network used, not where a clot is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from input.contest import SLICE_LABEL
from models.feature_grid import FeatureGrid, keras_grid, openvino_grid
from models.inference import GRAPH, GRAPH_WEIGHTS
from models.occlusion import OcclusionMaps, occlusion_maps
from models.runs import slice_engine
from models.targets import TARGETS
from pipeline import paths
from pipeline.errors import UserError
from pipeline.product import verify
from pipeline.settings import ModelsSettings, Settings

#: As in models.pooling, which needs Keras.
SMALLEST = 1e-4
KINDS = ("occlusion", "contribution")


@dataclass(frozen=True)
class Head:
    """The dense layers behind the pooling.

    Attributes:
        to_embedding, embedding_bias: (2 c, d), (d,); (c, d) behind a generalised mean.
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
        """Read it from a run's weights.npz, whose last arrays it is; `pooling` as in the settings.

        Raises:
            UserError: the arrays are not those of `models.network.slice_network`.
        """
        with np.load(file, allow_pickle=False) as arrays:
            last = [arrays[name] for name in sorted(arrays.files)[-6:]]
        *before, first, bias, second, last_bias = [each for each in last if each.dtype.kind == "f"]  # not the seed
        head = (first, bias, second, last_bias)
        if [each.ndim for each in head] != [2, 1, 2, 1] or second.shape != (bias.size, last_bias.size):
            raise UserError(f"{paths.shown(file)}: expected a slice network, found {[each.shape for each in head]}")
        return cls(*head, power=float(before[-1].item()) if pooling == "gem" else None)

    def gradient(self, pooled: np.ndarray, targets: list[int]) -> np.ndarray:
        """Of the logits of some targets at the pooled vectors (n, p): (n, targets, p)."""
        awake = (pooled @ self.to_embedding + self.embedding_bias) > 0
        return np.einsum("nd,dt,pd->ntp", awake, self.to_logits[:, targets], self.to_embedding, optimize=True)


@dataclass(frozen=True)
class ContributionMaps:
    """Images to maps; made by `load_activation_maps`.

    Attributes:
        features: images (n, y, x, channels) float32 -> feature map (n, y', x', c).
        head: the layers behind it.
        grid: where its cells lie on the input.
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
    """What every place adds to the logits.

    Args:
        features: (n, y, x, c).
        head: the layers behind the pooling.
        targets: indices into `models.targets.TARGETS`.

    Returns:
        float32 (n, targets, y, x). Where several places share a channel's maximum they share its gradient.
    """
    if head.power is not None:
        return _of_generalised_mean(features, head, targets)
    places = features.shape[1] * features.shape[2]
    average, maximum = features.mean(axis=(1, 2)), features.max(axis=(1, 2))
    gradient = head.gradient(np.concatenate([average, maximum], axis=1), targets)
    of_average, of_maximum = np.split(gradient, 2, axis=2)
    highest = features == maximum[:, None, None]
    highest = features * highest / highest.sum(axis=(1, 2), keepdims=True)
    found = np.einsum("nyxc,ntc->ntyx", features, of_average / places, optimize=True)
    return (found + np.einsum("nyxc,ntc->ntyx", highest, of_maximum, optimize=True)).astype(np.float32)


def _of_generalised_mean(features: np.ndarray, head: Head, targets: list[int]) -> np.ndarray:
    powers = np.maximum(features, SMALLEST).astype(np.float64) ** head.power
    pooled = powers.mean(axis=(1, 2)) ** (1 / head.power)
    worth = head.gradient(pooled, targets) * pooled[:, None]
    shares = powers / powers.sum(axis=(1, 2), keepdims=True)
    return np.einsum("nyxc,ntc->ntyx", shares, worth, optimize=True).astype(np.float32)


def load_activation_maps(
    settings: Settings, backbone: str, fold: int, *, targets: tuple[str, ...] = (SLICE_LABEL,), threads: int = 1,
    kind: str = "occlusion",
) -> OcclusionMaps | ContributionMaps:  # fmt: skip
    """The maps of one finished slice network.

    Args:
        settings: the experiment that trained it.
        backbone, fold: which network.
        targets: names out of `models.targets.TARGETS`.
        threads: of the CPU.
        kind: one of KINDS; see the module's docstring for what each costs and tells.

    Returns:
        A callable, images (n, y, x, channels) float32 -> maps float32 (n, targets, y', x') in units of the logit,
        signed: above zero speaks for the target. Its `grid` says where the maps' cells lie on the input.

    Raises:
        UserError: an unknown target or kind, or a network that is missing, damaged or built otherwise.
    """
    if kind not in KINDS:
        raise UserError(f"activation maps: no kind {kind!r}; there are {', '.join(KINDS)}")
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        raise UserError(f"activation maps: no target {', '.join(unknown)}; the networks have {', '.join(TARGETS)}")
    directory, recipe = paths.model_run(backbone, fold), settings.models.of(backbone)
    if kind == "occlusion":
        engine = slice_engine(recipe, backbone, directory, threads)
        return occlusion_maps(lambda images: engine(images)[0], recipe, tuple(targets))
    exported = (directory / GRAPH).is_file()
    verify(directory, ["weights.npz", *([GRAPH, GRAPH_WEIGHTS] if exported else [])])
    if exported:
        features, grid = openvino_features(directory, threads)
    else:
        features, grid = _keras_features(recipe, backbone, directory)
    return ContributionMaps(features, Head.load(directory / "weights.npz", recipe.pooling), grid, tuple(targets))


def openvino_features(directory: Path, threads: int) -> tuple[Callable[[np.ndarray], np.ndarray], FeatureGrid]:
    """The exported graph's feature map, images -> (n, y, x, c), and its grid."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(str(directory / GRAPH))
    node, channels_first = _pooled_node(graph, directory)
    grid = openvino_grid(node)
    added = graph.add_outputs([node])[0]
    place = graph.outputs.index(added)
    request = core.compile_model(
        graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()

    def run(images: np.ndarray) -> np.ndarray:
        request.infer([images])
        found = request.get_output_tensor(place).data.copy()
        return found.transpose(0, 2, 3, 1) if channels_first else found

    return run, grid


def _pooled_node(graph, directory: Path) -> tuple:
    """The output that the pooling reads, and whether its channels come first."""
    nodes = graph.get_ordered_ops()
    maximised = {node.input_value(0) for node in nodes if node.get_type_name() == "ReduceMax"}
    for node in reversed([each for each in nodes if each.get_type_name() == "ReduceMean"]):
        source = node.input_value(0)
        if source.get_node().get_type_name() == "Power":  # of a generalised mean
            source = source.get_node().input_value(0)
        elif source not in maximised:  # a gate inside the backbone averages, too
            continue
        axes = sorted(node.input_value(1).get_node().get_data().tolist())
        return source, axes == [2, 3]
    raise UserError(f"{paths.shown(directory / GRAPH)}: no feature map that is pooled as in models.pooling")


def _keras_features(
    recipe: ModelsSettings, backbone: str, directory: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], FeatureGrid]:
    import keras

    from models.checkpoint import load_weights
    from models.network import slice_network

    model = slice_network(recipe, backbone, "none")
    load_weights(directory / "weights.npz", model)
    tensor = model.get_layer("gem" if recipe.pooling == "gem" else "average").input
    return keras.Model(model.input, tensor).predict_on_batch, keras_grid(tensor)


def on_stored_slice(
    activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """A map on the pixels of its stored slice, for an overlay.

    Args:
        activation: (y', x') of one target.
        grid: `grid` of the maps.
        matrix: `SliceViews.matrix` of the exam.
        shape: (y, x) of the stored slice.

    Returns:
        float32 (y, x): contribution a cell, interpolated between the cells' centres, level beyond the outermost.
    """
    to_cells = _joined(_inverse(grid.cells_to_input()), matrix)
    return cv2.warpAffine(
        np.ascontiguousarray(activation, np.float32), to_cells, shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def peak_on_stored_slice(activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray) -> tuple[float, float]:
    """The centre (y, x), in stored pixels, of the cell that contributes most."""
    y, x = np.unravel_index(np.argmax(activation), activation.shape)
    to_stored = _joined(_inverse(matrix), grid.cells_to_input())
    found = to_stored @ np.array([x, y, 1.0])
    return float(found[1]), float(found[0])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    return cv2.invertAffineTransform(np.asarray(matrix, float))


def _joined(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) that applies `inner`, then `outer`."""
    return (np.vstack([outer, [0, 0, 1]]) @ np.vstack([inner, [0, 0, 1]]))[:2]
