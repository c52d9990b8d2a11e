"""Positions of the cells of a backbone's feature map on its input, derived from the graph.

Padding differs between backbones (TensorFlow's "same" pads a strided convolution on one side where the size is even,
PyTorch on both), so the centres of a 4 x 5 map are not the centres of 20 equal tiles: at 112 pixels they may differ by
half a cell.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.feature_grid import FeatureGrid

if TYPE_CHECKING:
    import keras
    import openvino


def before(
    grid: FeatureGrid,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> FeatureGrid:
    """Convert the grid on an operation's output to the grid on its input; all pairs are (y, x).

    Args:
        grid: on the output.
        kernel: size of the operation's window.
        stride: of the window.
        padding: pixels added before the first one.
        dilation: of the window.
    """
    middle = [spread * (size - 1) / 2 - front for size, front, spread in zip(kernel, padding, dilation, strict=True)]
    (y, x), (y_first, x_first), (y_stride, x_stride) = stride, grid.first, grid.stride
    return FeatureGrid(
        (float(y_stride * y), float(x_stride * x)),
        (float(y_first * y + middle[0]), float(x_first * x + middle[1])),
    )


def openvino_grid(features: "openvino.Output") -> FeatureGrid:
    """Return the grid of a feature map (n, c, y, x) in an OpenVINO graph.

    Follows the graph from the map back to the input; at an operation with several inputs (residual sums, gates), along
    any input that still has a spatial extent, because inputs that are combined have the same strides.
    """
    grid, node = FeatureGrid(), features.get_node()
    while node.get_type_name() != "Parameter":
        kind, attributes = node.get_type_name(), node.get_attributes()
        if kind in ("Convolution", "GroupConvolution"):
            kernel = list(node.input(1).get_shape())[-2:]
            grid = before(grid, kernel, attributes["strides"], attributes["pads_begin"], attributes["dilations"])
        elif kind in ("MaxPool", "AvgPool"):
            grid = before(
                grid,
                attributes["kernel"],
                attributes["strides"],
                attributes["pads_begin"],
                attributes.get("dilations", (1, 1)),
            )
        elif kind == "Pad":
            padding = node.input_value(1).get_node().get_data()
            grid = before(grid, (1, 1), (1, 1), _spatial(padding, node))
        node = _extended_input(node)
    return grid


def _spatial(padding: np.ndarray, node: "openvino.Node") -> list[int]:
    """The padding along y and x; a graph may pad before its transposition to channels-first."""
    shape = node.input(0).get_partial_shape()
    last_is_channels = shape[3].is_static and shape[3].get_length() <= 16
    return (padding[1:3] if last_is_channels else padding[2:4]).tolist()


def _extended_input(node: "openvino.Node") -> "openvino.Node":
    """The input with the largest spatial extent, which excludes constants and gates of one pixel."""

    def extent(value: "openvino.Output") -> int:
        shape = value.get_partial_shape()
        if value.get_node().get_type_name() == "Constant" or shape.rank.get_length() != 4:
            return -1
        return int(np.prod([side.get_length() for side in list(shape)[1:] if side.is_static]))

    return max(node.input_values(), key=extent).get_node()


def keras_grid(features: "keras.KerasTensor") -> FeatureGrid:
    """Return the grid of a symbolic tensor (n, y, x, c) of a Keras graph, which may contain nested models."""
    return _walk(features, FeatureGrid())


def _walk(tensor: "keras.KerasTensor", grid: FeatureGrid) -> FeatureGrid:
    while True:
        operation, node_index, tensor_index = tensor._keras_history
        inputs = operation._inbound_nodes[node_index].input_tensors
        if not inputs:
            return grid
        if hasattr(operation, "_operations_by_depth") or hasattr(operation, "operations"):
            grid = _walk(operation.outputs[tensor_index], grid)  # a nested model
        else:
            grid = _before_layer(operation, inputs[0].shape, grid)
        tensor = max(inputs, key=lambda value: int(np.prod([side or 1 for side in value.shape])))


def _before_layer(layer: "keras.Layer", shape: tuple, grid: FeatureGrid) -> FeatureGrid:
    """The grid on a layer's input (n, y, x, c); layers without a window leave it unchanged."""
    import keras

    if isinstance(layer, keras.layers.ZeroPadding2D):
        return before(grid, (1, 1), (1, 1), [sides[0] for sides in layer.padding])
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if window is None or len(shape) != 4:
        return grid
    dilation = getattr(layer, "dilation_rate", (1, 1))
    padding = [
        _same_padding(size, *geometry) if layer.padding == "same" else 0
        for size, *geometry in zip(shape[1:3], window, layer.strides, dilation, strict=True)
    ]
    return before(grid, window, layer.strides, padding, dilation)


def _same_padding(size: int, window: int, stride: int, dilation: int) -> int:
    """Pixels that TensorFlow's "same" adds before the first pixel of an axis of `size`."""
    total = (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size
    return max(total, 0) // 2
