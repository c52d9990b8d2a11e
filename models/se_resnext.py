"""SE-ResNeXt: residual blocks of grouped convolutions with channel gates; the winner of the contest used it.

Papers: Xie et al. 2017, Aggregated Residual Transformations (arXiv 1611.05431), the 32x4d template; Hu, Shen and
Sun 2018, Squeeze-and-Excitation Networks (arXiv 1709.01507), the gate with a reduction of 16.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from models.batch_normalization import BatchNormalization
from models.device import gpu_capability

EPSILON, MOMENTUM = 1e-5, 0.9


@dataclass(frozen=True)
class Template:
    """The size of a network of the family.

    Attributes:
        repeats: Blocks of each of the four stages.
        groups: Groups of the 3 x 3 convolutions.
        width: Channels of the 3 x 3 convolutions in the first stage; doubled in every further stage.
        reduction: Ratio of the channels to those of the gate's bottleneck.
    """

    repeats: tuple[int, int, int, int]
    groups: int = 32
    width: int = 128
    reduction: int = 16


SE_RESNEXT50 = Template((3, 4, 6, 3))


class GroupedConvolution(layers.Layer):
    """A grouped 2-D convolution with "valid" padding and without bias.

    The weights are those of `keras.layers.Conv2D(groups=...)`, whose gradient is very slow on TensorFlow's CPU (8
    images of 28 x 28 x 128, 32 groups: 21 s, a dense convolution 0.36 s, on a busy machine). There, every channel is
    convolved separately with all filters of its group, and the results are summed over the channels of the group
    (0.21 s): the same multiplications in another order.

    Args:
        filters: Output channels.
        kernel: Kernel size in y and x.
        stride: Stride in y and x.
        groups: Number of groups; channels and filters must be multiples of it.
    """

    def __init__(self, filters: int, kernel: int, stride: int, groups: int, **options: Any) -> None:
        super().__init__(**options)
        self.filters, self.size, self.stride, self.groups = filters, kernel, stride, groups

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Kernel size (y, x)."""
        return (self.size, self.size)

    strides = property(lambda self: (self.stride, self.stride))
    padding = "valid"

    def build(self, shape: tuple) -> None:
        """Create the kernel, (y, x, channels per group, filters).

        Raises:
            ValueError: Channels or filters are not a multiple of the groups.
        """
        if shape[-1] % self.groups or self.filters % self.groups:
            raise ValueError(
                f"expected multiples of {self.groups} groups, got {shape[-1]} channels and {self.filters} filters"
            )
        shape = (self.size, self.size, shape[-1] // self.groups, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer="he_normal", name="kernel")

    def call(self, images: Any) -> Any:
        """Convolve images (batch, y, x, channels) to (batch, y', x', filters)."""
        if not _grouped_gradient_is_slow():
            return ops.conv(images, self.kernel, self.stride, "valid")
        y, x, channels, filters = self.kernel.shape
        group_filters = filters // self.groups
        kernel = ops.reshape(self.kernel, (y, x, channels, self.groups, group_filters))
        kernel = ops.reshape(ops.transpose(kernel, (0, 1, 3, 2, 4)), (y, x, self.groups * channels, group_filters))
        separate = ops.depthwise_conv(images, kernel, self.stride, "valid")
        _, height, width, _ = ops.shape(separate)
        summed = ops.sum(ops.reshape(separate, (-1, height, width, self.groups, channels, group_filters)), axis=4)
        return ops.reshape(summed, (-1, height, width, filters))

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return (batch, y', x', filters)."""
        sides = [None if side is None else (side - self.size) // self.stride + 1 for side in shape[1:3]]
        return (shape[0], *sides, self.filters)


def _grouped_gradient_is_slow() -> bool:
    return keras.backend.backend() == "tensorflow" and gpu_capability() is None


def se_resnext_backbone(images: keras.KerasTensor, template: Template) -> keras.KerasTensor:
    """Build stem and stages on images (batch, y, x, channels); return a feature map (batch, y/32, x/32, 2048)."""
    tensor = layers.ZeroPadding2D(3, name="stem_pad")(images)
    tensor = _convolution(tensor, 64, 7, "stem", stride=2, padding="valid")
    tensor = layers.ZeroPadding2D(1, name="stem_pool_pad")(tensor)  # zero is the minimum after a ReLU
    tensor = layers.MaxPooling2D(3, 2, name="stem_pool")(tensor)
    for stage, repeats in enumerate(template.repeats):
        for repeat in range(repeats):
            stride = 2 if stage and not repeat else 1
            tensor = _block(tensor, template, template.width << stage, stride, f"stage{stage + 1}_block{repeat + 1}")
    return tensor


def _block(
    inputs: keras.KerasTensor, template: Template, width: int, stride: int, name: str
) -> keras.KerasTensor:  # fmt: skip
    filters = 2 * width
    tensor = _convolution(inputs, width, 1, f"{name}_reduce")
    tensor = layers.ZeroPadding2D(1, name=f"{name}_pad")(tensor)
    tensor = GroupedConvolution(width, 3, stride, template.groups, name=f"{name}_grouped")(tensor)
    tensor = layers.ReLU(name=f"{name}_grouped_relu")(_normalise(tensor, f"{name}_grouped"))
    tensor = _convolution(tensor, filters, 1, f"{name}_expand", activate=False)
    tensor = layers.Multiply(name=f"{name}_gated")([tensor, _gate(tensor, filters // template.reduction, name)])
    if inputs.shape[-1] != filters or stride != 1:
        inputs = _convolution(inputs, filters, 1, f"{name}_shortcut", stride=stride, activate=False)
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_sum")([inputs, tensor]))


def _gate(tensor: keras.KerasTensor, bottleneck: int, name: str) -> keras.KerasTensor:
    filters = tensor.shape[-1]
    tensor = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(tensor)
    tensor = layers.Conv2D(bottleneck, 1, activation="relu", name=f"{name}_excite1")(tensor)
    return layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_excite2")(tensor)


def _convolution(
    tensor: keras.KerasTensor, filters: int, kernel: int, name: str, *, stride: int = 1, padding: str = "same",
    activate: bool = True,
) -> keras.KerasTensor:  # fmt: skip
    tensor = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name=name)(tensor)
    tensor = _normalise(tensor, name)
    return layers.ReLU(name=f"{name}_relu")(tensor) if activate else tensor


def _normalise(tensor: keras.KerasTensor, name: str) -> keras.KerasTensor:
    # Momentum 0.9: a run has hundreds of steps, so Keras's 0.99 would hardly change the initial statistics.
    return BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_bn")(tensor)
