"""Batch normalisation that costs little: as one operation per pass, or merged into the convolution before it.

Keras 3 composes it of eleven elementwise operations on TensorFlow, forward and backward. On a CPU these took half of
the time of a training step; the fused operation of TensorFlow does the same arithmetic in one pass over memory. Other
backends fuse the composed form themselves.

Where the statistics do not change, because a layer is frozen or its statistics are fixed, and in predictions,
normalising is a multiplication and an addition per channel: `NormalisedConvolution` applies them to the kernel.
"""

from collections.abc import Iterable
from typing import Any

import keras
from keras import layers, ops


class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of (batch, y, x, c), with the same variables.

    Attributes:
        fixed: Training normalises with the moving statistics, which stay as they are; scale and offset are trained.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fixed = False

    def learns_statistics(self, training: bool | None) -> bool:
        """Whether a pass normalises with the statistics of its batch."""
        return bool(training) and self.trainable and not self.fixed

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(batch, y, x, c) -> (batch, y, x, c)."""
        if len(inputs.shape) != 4 or not self.scale or not self.center or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        learning = self.learns_statistics(training)
        if not learning:  # TensorFlow's operation has no deterministic gradient on a GPU with given statistics
            scale, offset = self.scale_and_offset()
            return ops.cast(ops.cast(inputs, "float32") * scale + offset, inputs.dtype)
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=True)
        import tensorflow as tf

        none = tf.constant([], tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=tf.convert_to_tensor(self.gamma), offset=tf.convert_to_tensor(self.beta),
            mean=none, variance=none, epsilon=self.epsilon, is_training=True,
        )  # fmt: skip
        # The operation returns the variance over n - 1; Keras averages the one over n.
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], variance.dtype)
        variance *= (count - 1) / count
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs

    def scale_and_offset(self) -> tuple[Any, Any]:
        """What normalising with the moving statistics multiplies and adds: two tensors (c,)."""
        scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        return scale, self.beta - self.moving_mean * scale


class NormalisedConvolution(layers.Layer):
    """A convolution without bias, followed by batch normalisation; one operation where the statistics do not change.

    Args:
        convolution: `Conv2D` or `DepthwiseConv2D` (one filter per channel) without bias, activation and dilation.
        momentum, epsilon: Of the batch normalisation.

    Raises:
        ValueError: The convolution does more than multiply and add.
    """

    def __init__(self, convolution: layers.Layer, momentum: float, epsilon: float, **options: Any) -> None:
        super().__init__(**options)
        config = convolution.get_config()
        plain = {"use_bias": False, "activation": "linear", "dilation_rate": (1, 1), "groups": 1, "depth_multiplier": 1}
        others = {name: config[name] for name, value in plain.items() if name in config and config[name] != value}
        if others:
            raise ValueError(f"not a plain convolution: {others}")
        self.convolution = convolution
        self.normalisation = BatchNormalization(
            momentum=momentum, epsilon=epsilon, dtype=self.dtype_policy, name="normalisation"
        )  # fmt: skip

    def build(self, shape: tuple) -> None:
        """Create the variables: kernel, scale, offset, mean, variance."""
        self.convolution.build(shape)
        self.normalisation.build(self.convolution.compute_output_shape(shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """(batch, y, x, c) -> (batch, y', x', filters)."""
        if self.normalisation.learns_statistics(training):
            return self.normalisation(self.convolution(inputs), training=True)
        scale, offset = self.normalisation.scale_and_offset()
        is_depthwise = isinstance(self.convolution, layers.DepthwiseConv2D)
        kernel = self.convolution.kernel * (scale[:, None] if is_depthwise else scale)
        convolve = ops.depthwise_conv if is_depthwise else ops.conv
        outputs = convolve(
            inputs, ops.cast(kernel, inputs.dtype), self.convolution.strides, self.convolution.padding,
            data_format="channels_last",
        )  # fmt: skip
        return ops.cast(ops.cast(outputs, "float32") + offset, inputs.dtype)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """(batch, y', x', filters)."""
        return self.convolution.compute_output_shape(shape)


def normalisations(network: keras.Model) -> list[BatchNormalization]:
    """The batch normalisations of a network, also those inside of other layers."""
    found = network._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in found if isinstance(layer, BatchNormalization)]


def measure_statistics(network: keras.Model, chosen: list[BatchNormalization], batches: Iterable[Any]) -> None:
    """Set moving statistics to the mean over some batches, as a training does that normalises each batch by itself.

    Args:
        network: Runs forward as in training: no weight changes, but random states and the moving statistics of other
            normalisations advance.
        chosen: Its normalisations that are measured.
        batches: Inputs of the network.
    """
    momenta = [layer.momentum for layer in chosen]
    try:
        for number, inputs in enumerate(batches):
            for layer in chosen:
                layer.momentum = number / (number + 1)  # of the first batch nothing is kept; then a mean
            network(inputs, training=True)
    finally:
        for layer, momentum in zip(chosen, momenta, strict=True):
            layer.momentum = momentum
