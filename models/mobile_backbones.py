"""MobileNetV2 and EfficientNet-Lite0, both built from inverted residual blocks.

Papers: Sandler et al. 2018, MobileNetV2 (arXiv 1801.04381); Tan and Le 2019, EfficientNet (arXiv
1905.11946), in the Lite variant (ReLU6, no squeeze-and-excitation). Convolutions and batch normalisations have the
order of the published PyTorch weights, so the weights load in order.
"""

from dataclasses import dataclass

import keras
from keras import layers

from models.batch_normalization import NormalisedConvolution


@dataclass(frozen=True)
class Stage:
    """Repeated inverted residuals; only the first one has the stride.

    Attributes:
        kernel: Kernel size, pixels.
        repeats: Number of blocks.
        stride: Stride of the first block.
        expand: Expansion factor.
        filters: Output channels.
    """

    kernel: int
    repeats: int
    stride: int
    expand: int
    filters: int


MOBILENETV2 = (
    Stage(3, 1, 1, 1, 16), Stage(3, 2, 2, 6, 24), Stage(3, 3, 2, 6, 32), Stage(3, 4, 2, 6, 64),
    Stage(3, 3, 1, 6, 96), Stage(3, 3, 2, 6, 160), Stage(3, 1, 1, 6, 320),
)  # fmt: skip
EFFICIENTNET_LITE0 = (
    Stage(3, 1, 1, 1, 16), Stage(3, 2, 2, 6, 24), Stage(5, 2, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(5, 3, 1, 6, 112), Stage(5, 4, 2, 6, 192), Stage(3, 1, 1, 6, 320),
)  # fmt: skip
STEM_FILTERS = 32
HEAD_FILTERS = 1280


@dataclass(frozen=True)
class Convention:
    """Differences between the frameworks in which the weights were trained.

    Attributes:
        epsilon: Epsilon of the batch normalisation.
        symmetric_padding: Whether strided convolutions are padded on both sides (PyTorch) or on one (TensorFlow).
    """

    epsilon: float
    symmetric_padding: bool


PYTORCH = Convention(epsilon=1e-5, symmetric_padding=True)
TENSORFLOW = Convention(epsilon=1e-3, symmetric_padding=False)


def mobile_backbone(images: keras.KerasTensor, stages: tuple[Stage, ...], convention: Convention) -> keras.KerasTensor:
    """Build stem, stages and head.

    Args:
        images: Symbolic tensor (batch, y, x, channels).
        stages: Stages between stem and head.
        convention: Convention of the framework of the weights.

    Returns:
        Feature map (batch, y/32, x/32, 1280).
    """
    tensor = _convolution(images, STEM_FILTERS, 3, 2, convention, "stem")
    for number, stage in enumerate(stages, start=1):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            tensor = _inverted_residual(tensor, stage, stride, convention, f"stage{number}_block{repeat + 1}")
    return _convolution(tensor, HEAD_FILTERS, 1, 1, convention, "head")


def _inverted_residual(
    inputs: keras.KerasTensor, stage: Stage, stride: int, convention: Convention, name: str
) -> keras.KerasTensor:
    tensor = inputs
    if stage.expand != 1:
        tensor = _convolution(tensor, stage.expand * inputs.shape[-1], 1, 1, convention, f"{name}_expand")
    tensor, padding = _pad(tensor, stage.kernel, stride, convention, f"{name}_depthwise")
    depthwise = layers.DepthwiseConv2D(stage.kernel, stride, padding, use_bias=False, name="convolution")
    tensor = _normalised(depthwise, convention, f"{name}_depthwise")(tensor)
    tensor = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(tensor)
    tensor = _convolution(tensor, stage.filters, 1, 1, convention, f"{name}_project", activate=False)
    if stride == 1 and inputs.shape[-1] == stage.filters:
        tensor = layers.Add(name=f"{name}_add")([inputs, tensor])
    return tensor


def _convolution(
    tensor: keras.KerasTensor, filters: int, kernel: int, stride: int, convention: Convention, name: str, *,
    activate: bool = True,
) -> keras.KerasTensor:  # fmt: skip
    tensor, padding = _pad(tensor, kernel, stride, convention, name)
    convolution = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name="convolution")
    tensor = _normalised(convolution, convention, name)(tensor)
    return layers.ReLU(6.0, name=f"{name}_relu")(tensor) if activate else tensor


def _normalised(convolution: layers.Layer, convention: Convention, name: str) -> NormalisedConvolution:
    # Momentum 0.9: a run has hundreds of steps, so Keras's 0.99 would hardly change the ImageNet statistics.
    return NormalisedConvolution(convolution, momentum=0.9, epsilon=convention.epsilon, name=name)


def _pad(
    tensor: keras.KerasTensor, kernel: int, stride: int, convention: Convention, name: str
) -> tuple[keras.KerasTensor, str]:
    """Pad the input of a strided convolution as the weights' framework did; return it with the padding mode to use."""
    if stride == 1 or not convention.symmetric_padding:
        return tensor, "same"
    return layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(tensor), "valid"
