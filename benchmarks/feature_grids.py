"""Where the cells of a backbone's feature map lie on its input, derived from the graph itself.

Paddings differ between backbones (TensorFlow's "same" pads a strided convolution on one side where
the size is even, PyTorch on both), so the centres of a 4 x 5 map are not simply the centres of 20 equal
tiles: at 112 pixels they may be off by half a cell.
"""

from typing import TYPE_CHECKING

import numpy as np

from models.feature_grid import FeatureGrid

if TYPE_CHECKING:
    import keras
    import openvino


def before(grid: FeatureGrid, kernel, stride, padding, dilation=(1, 1)) -> FeatureGrid:
    """The grid on the input of an operation from the grid on its output; all pairs (y, x).

    Args:
        grid: on the output.
        kernel: size of the operation's window.
        stride: of the window.
        padding: pixels added in front.
        dilation: of the window.
    """
    middle = [each * (size - 1) / 2 - front for size, front, each in zip(kernel, padding, dilation, strict=True)]
    (y, x), (y_first, x_first), (y_stride, x_stride) = stride, grid.first, grid.stride
    return FeatureGrid(
        (float(y_stride * y), float(x_stride * x)),
        (float(y_first * y + middle[0]), float(x_first * x + middle[1])),
    )


def openvino_grid(features: "openvino.Output") -> FeatureGrid:
    """The grid of a feature map (n, c, y, x) in a graph that OpenVINO has read.

    Walks from the map back to the input; where paths meet (residual sums, gates), along any one that
    still has an extent: paths that meet have been strided alike.
    """
    grid, node = FeatureGrid(), features.get_node()
    while node.get_type_name() != "Parameter":
        kind, facts = node.get_type_name(), node.get_attributes()
        if kind in ("Convolution", "GroupConvolution"):
            kernel = list(node.input(1).get_shape())[-2:]
            grid = before(grid, kernel, facts["strides"], facts["pads_begin"], facts["dilations"])
        elif kind in ("MaxPool", "AvgPool"):
            grid = before(grid, facts["kernel"], facts["strides"], facts["pads_begin"], facts.get("dilations", (1, 1)))
        elif kind == "Pad":
            padding = node.input_value(1).get_node().get_data()
            grid = before(grid, (1, 1), (1, 1), _spatial(padding, node))
        node = _extended_input(node)
    return grid


def _spatial(padding: np.ndarray, node: "openvino.Node") -> np.ndarray:
    """The padding along y and x; a graph may pad before its one transposition to channels first."""
    shape = node.input(0).get_partial_shape()
    last_is_channels = shape[3].is_static and shape[3].get_length() <= 16
    return padding[1:3] if last_is_channels else padding[2:4]


def _extended_input(node: "openvino.Node") -> "openvino.Node":
    """The input with the largest extent: not the constants, not a gate of one pixel."""

    def extent(value: "openvino.Output") -> int:
        shape = value.get_partial_shape()
        if value.get_node().get_type_name() == "Constant" or shape.rank.get_length() != 4:
            return -1
        return int(np.prod([side.get_length() for side in list(shape)[1:] if side.is_static]))

    return max(node.input_values(), key=extent).get_node()


def keras_grid(features) -> FeatureGrid:
    """The same of a symbolic tensor (n, y, x, c) of a Keras graph, models inside models included."""
    return _walk(features, FeatureGrid())


def _walk(tensor, grid: FeatureGrid) -> FeatureGrid:
    while True:
        operation, node_index, tensor_index = tensor._keras_history
        inputs = operation._inbound_nodes[node_index].input_tensors
        if not inputs:
            return grid
        if hasattr(operation, "_operations_by_depth") or hasattr(operation, "operations"):
            grid = _walk(operation.outputs[tensor_index], grid)  # a model inside this one
        else:
            grid = _before_layer(operation, inputs[0].shape, grid)
        tensor = max(inputs, key=lambda each: int(np.prod([side or 1 for side in each.shape])))


def _before_layer(layer: "keras.Layer", shape: tuple, grid: FeatureGrid) -> FeatureGrid:
    """The grid on a layer's input (n, y, x, c); layers that move nothing leave it as it is."""
    import keras

    if isinstance(layer, keras.layers.ZeroPadding2D):
        return before(grid, (1, 1), (1, 1), [sides[0] for sides in layer.padding])
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if window is None or len(shape) != 4:
        return grid
    dilation = getattr(layer, "dilation_rate", (1, 1))
    padding = [
        _same_padding(size, *each) if layer.padding == "same" else 0
        for size, *each in zip(shape[1:3], window, layer.strides, dilation, strict=True)
    ]
    return before(grid, window, layer.strides, padding, dilation)


def _same_padding(size: int, window: int, stride: int, dilation: int) -> int:
    """Pixels that TensorFlow's "same" adds in front of an axis of `size`."""
    total = (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size
    return max(total, 0) // 2
