"""From a backbone's feature maps to a clot map, and from the map to answers that know where the clot is.

A light feature pyramid (Lin et al. 2017, arXiv 1612.03144) brings coarser strides to stride 8, where every cell gets
the logits of `models.clot_targets`. Answers for the slice are read from the cells by attention to those with clot: left
and right by the same weights on either side of the patient's midline, so that a mirrored feature map swaps them.

A cell of an exam without a clot mask learns from the labels of its slice alone, through `ClotEvidence`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from models.backbones import STRIDES
from models.batch_normalization import BatchNormalization
from models.clot_targets import CLOT, MAP_CHANNELS

#: Channels of the pyramid.
WIDTH = 32
#: Initial logits of a cell: few cells contain clot.
INITIAL = (-3.0, 0.0, 0.0)
#: Cells with clot in a typical slice with PE: divides the map's loss, which is then of the size of one label's.
CELLS_PER_SLICE = 10.0
#: Parts of a slice that are summarised and have an answer: all of it, the patient's left, the patient's right.
PARTS = ("slice", "left", "right")
#: Numbers that `ClotAttention` adds to the attended features.
STRENGTHS = 2
#: Subtracted from a logit, it leaves no weight.
LARGE = 1e9
#: Name of the layer that ends `local_cells`.
LOCAL_CELLS = "local_cells"


def feature_pyramid(size: tuple[int, int], maps: Sequence[Any]) -> Any:
    """Bring feature maps (batch, y, x, channels) to stride 8.

    Args:
        size: (y, x) of the network's input, pixels.
        maps: The backbone's feature maps at strides 8, 16 and 32, as far as it is used; finer ones are averaged to
            their stride.

    Returns:
        (batch, y / 8, x / 8, WIDTH).
    """
    merged = None
    for features, stride in reversed(list(zip(maps, STRIDES))):  # noqa: B905  (the last strides may be missing)
        lateral = _at_size(layers.Conv2D(WIDTH, 1, name=f"pyramid{stride}")(features), size, stride)
        if merged is None:
            merged = lateral
            continue
        merged = layers.Add(name=f"merge{stride}")([lateral, _doubled(merged, lateral, f"up{stride}")])
        merged = layers.Activation("relu", name=f"merge{stride}_relu")(merged)
    smooth = layers.SeparableConv2D(WIDTH, 3, padding="same", use_bias=False, name="smooth")(merged)
    smooth = BatchNormalization(momentum=0.9, epsilon=1e-3, name="smooth_bn")(smooth)
    return layers.Activation("relu", name="cells")(smooth)


def local_cells(size: tuple[int, int], stride8: Any) -> Any:
    """Bring the stride 8 features to WIDTH channels without anything from coarser strides.

    A cell then sees its own surroundings only, so a network that learns from slice labels has to find the clot itself.

    Args:
        size: (y, x) of the network's input, pixels.
        stride8: The backbone's feature map.

    Returns:
        (batch, y / 8, x / 8, WIDTH).
    """
    cells = _at_size(layers.Conv2D(WIDTH, 1, use_bias=False, name="local")(stride8), size, 8)
    cells = BatchNormalization(momentum=0.9, epsilon=1e-3, name="local_bn")(cells)
    return layers.Activation("relu", name=LOCAL_CELLS)(cells)


def _at_size(features: Any, size: tuple[int, int], stride: int) -> Any:
    """Bring a feature map to `stride`: average a finer one; pad where a backbone rounded an odd size down."""
    wanted = tuple(-(-pixels // stride) for pixels in size)
    factors = tuple(-(-have // want) for have, want in zip(features.shape[1:3], wanted, strict=True))
    if factors != (1, 1):
        features = layers.AveragePooling2D(factors, padding="same")(features)
    missing = tuple(max(0, want - have) for have, want in zip(features.shape[1:3], wanted, strict=True))
    if any(missing):
        features = layers.ZeroPadding2D(tuple((0, cells) for cells in missing))(features)
    return features


def _doubled(coarse: Any, like: Any, name: str) -> Any:
    """Repeat every cell 2 x 2 and crop to the size of `like`."""
    fine = layers.UpSampling2D(2, name=name)(coarse)
    rows, columns = fine.shape[1] - like.shape[1], fine.shape[2] - like.shape[2]
    return layers.Cropping2D(((0, rows), (0, columns)), name=f"{name}_crop")(fine) if rows or columns else fine


class CellPosition(layers.Layer):
    """Appends each cell's position: distance from the midline and height in the view, both from 0 to 1.

    The midline is the middle column of the input (see `models.slice_views`). The distance has no sign, so a mirrored
    map stays a mirrored map.
    """

    def build(self, shape: tuple) -> None:
        """Compute the two constant channels, (1, y, x, 2)."""
        rows, columns = shape[1:3]
        across = np.abs(np.arange(columns) - (columns - 1) / 2) * 2 / columns
        down = np.arange(rows) / max(rows - 1, 1)
        self._position = np.stack(np.meshgrid(across, down), axis=-1)[None].astype(np.float32)

    def call(self, cells: Any) -> Any:
        """(batch, y, x, c) -> (batch, y, x, c + 2)."""
        position = ops.convert_to_tensor(self._position, dtype=cells.dtype)
        position = ops.broadcast_to(position, (ops.shape(cells)[0], *self._position.shape[1:]))
        return ops.concatenate([cells, position], axis=-1)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """(batch, y, x, c + 2)."""
        return (*shape[:-1], shape[-1] + 2)


class ClotAttention(layers.Layer):
    """Summarises the whole slice and its sides by attention to cells with clot, of each mean features and strength.

    A side is half of the columns, with an odd middle column in both. The strength of the clot is log-mean-exp and
    maximum of its logit. One matrix product computes all three means: cutting the sides out of the cells takes a
    tenth of a training step.

    Computes in float32.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"dtype": "float32", **options})

    def build(self, shapes: list[tuple]) -> None:
        """Compute which cells belong to each part: (1, parts, cells), 0 inside and -LARGE outside, and their number."""
        rows, columns = shapes[1][1:3]
        column = np.tile(np.arange(columns), rows)
        inside = np.stack([column >= 0, column >= columns // 2, column < columns - columns // 2])
        self._outside = np.where(inside, 0, -LARGE).astype(np.float32)[None]
        self._log_counts = np.log(inside.sum(axis=1, dtype=np.float32))[None]

    def call(self, inputs: list) -> Any:
        """Cells (batch, y, x, c) and clot logits (batch, y, x) -> (batch, len(PARTS), c + STRENGTHS)."""
        cells, logits = inputs
        count = logits.shape[1] * logits.shape[2]
        logits = ops.reshape(logits, (-1, 1, count)) + ops.convert_to_tensor(self._outside)
        highest = ops.max(logits, axis=2, keepdims=True)
        weight = ops.exp(logits - highest)
        total = ops.sum(weight, axis=2, keepdims=True)
        attended = ops.matmul(weight / total, ops.reshape(cells, (-1, count, cells.shape[-1])))
        # OpenVINO divides (batch, parts, 1) by a constant (1, parts, 1) wrongly, so both have two axes here.
        log_mean = (highest + ops.log(total))[:, :, 0] - ops.convert_to_tensor(self._log_counts)
        return ops.concatenate([attended, log_mean[:, :, None], highest], axis=-1)

    def compute_output_shape(self, shapes: list[tuple]) -> tuple:
        """(batch, len(PARTS), c + STRENGTHS)."""
        return (shapes[0][0], len(PARTS), shapes[0][-1] + STRENGTHS)


class Channel(layers.Layer):
    """Takes one channel of a map.

    Args:
        index: The channel.
    """

    def __init__(self, index: int, **options: Any) -> None:
        super().__init__(**options)
        self.index = index

    def call(self, cells: Any) -> Any:
        """(batch, y, x, c) -> (batch, y, x)."""
        return cells[..., self.index]

    def compute_output_shape(self, shape: tuple) -> tuple:
        """(batch, y, x)."""
        return shape[:-1]


def clot_map(cells: Any, local: Any | None) -> tuple[Any, Any, Any]:
    """Read the logits of every cell.

    A slice label can be explained by any cell that sees the whole slice. So where clot masks are missing, the logits
    come from local features: the map then shows a place.

    Args:
        cells: (batch, y, x, WIDTH) from `feature_pyramid`.
        local: (batch, y, x, WIDTH) from `local_cells`, or None where masks supervise every training exam.

    Returns:
        Logits (batch, y, x, MAP_CHANNELS), the clot logit alone (batch, y, x), and the cells' features with their
        position (batch, y, x, WIDTH + 2), all float32.
    """
    placed = layers.Activation("linear", dtype="float32", name="placed")(CellPosition(name="position")(cells))
    bias = keras.initializers.Constant(list(INITIAL))
    seen = placed if local is None else layers.Activation("linear", dtype="float32", name="seen")(local)
    logits = layers.Conv2D(MAP_CHANNELS, 1, bias_initializer=bias, dtype="float32", name="map")(seen)
    return logits, Channel(CLOT, dtype="float32", name="clot")(logits), placed


def side_answers(summaries: Any) -> Any:
    """Answer for either side with shared weights, without the cells' logits but for the strength of the clot.

    Args:
        summaries: (batch, len(PARTS), WIDTH + 2 + MAP_CHANNELS + STRENGTHS) from `ClotAttention`.

    Returns:
        (batch, 2, 1) logits of PE on the left and on the right.
    """
    features, strengths = summaries[:, 1:, : WIDTH + 2], summaries[:, 1:, -STRENGTHS:]
    known = layers.Concatenate(dtype="float32", name="sides")([features, strengths])
    return layers.Dense(1, dtype="float32", name="side")(known)


class ClotEvidence(layers.Layer):
    """Pools the map to logits of PE on the slice: the sum of the cells' odds, so that a few cells suffice.

    Computes in float32.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"dtype": "float32", **options})

    def call(self, clot: Any) -> Any:
        """(batch, y, x) -> (batch, len(PARTS))."""
        columns = clot.shape[2]
        parts = (clot, clot[:, :, columns // 2 :], clot[:, :, : columns - columns // 2])
        pooled = [
            ops.logsumexp(ops.reshape(part, (-1, part.shape[1] * part.shape[2])), axis=1, keepdims=True)
            for part in parts
        ]
        return ops.concatenate(pooled, axis=1) - float(np.log(CELLS_PER_SLICE))

    def compute_output_shape(self, shape: tuple) -> tuple:
        """(batch, len(PARTS))."""
        return (shape[0], len(PARTS))


def map_loss(truth_and_weight: Any, logits: Any) -> Any:
    """Return the weighted binary cross-entropy of the cells, summed and divided by CELLS_PER_SLICE.

    Args:
        truth_and_weight: Tensor (batch, y, x, 2 * MAP_CHANNELS): targets in [0, 1], then weights.
        logits: Tensor (batch, y, x, MAP_CHANNELS).

    Returns:
        Losses, shape (batch,).
    """
    truth, weight = truth_and_weight[..., :MAP_CHANNELS], truth_and_weight[..., MAP_CHANNELS:]
    return ops.sum(weight * (ops.softplus(logits) - truth * logits), axis=(1, 2, 3)) / CELLS_PER_SLICE
