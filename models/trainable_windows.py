"""Trainable windows: a 1 x 1 convolution on HU with a sigmoid activation.

The sixth and seventh places of the contest used trainable windows. Every named window is initialised as a sigmoid of HU
with the same level and the same slope there. Training changes both, separately for each of the three neighbouring
slices. The views then return HU in units of HU_UNIT instead of windowed values.
"""

from typing import TYPE_CHECKING

import numpy as np

from features.slices25d import OFFSETS
from features.windows import WINDOWS

if TYPE_CHECKING:
    import keras

HU_UNIT = 1000.0
#: sigmoid(4 t) has slope 1 at 0, like a window of width 1.
STEEPNESS = 4.0
LAYER = "windows"


def trainable_windows(stack: "keras.KerasTensor", names: tuple[str, ...]) -> "keras.KerasTensor":
    """Build the windows on a stack.

    Args:
        stack: Symbolic tensor, HU / HU_UNIT, shape (batch, y, x, neighbours).
        names: Initial windows, keys of `features.windows.WINDOWS`.

    Returns:
        Symbolic tensor (batch, y, x, neighbours * windows) in [0, 1], with the channel order of the fixed windows.
    """
    from keras import layers

    convolution = layers.DepthwiseConv2D(1, depth_multiplier=len(names), activation="sigmoid", name=LAYER)
    windowed = convolution(stack)
    convolution.set_weights(_weights(names))
    return windowed


def _weights(names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the initial kernel (1, 1, neighbours, windows) and bias (neighbours * windows,)."""
    level, width = np.array([WINDOWS[name] for name in names]).T / HU_UNIT
    kernel = np.tile(STEEPNESS / width, (1, 1, len(OFFSETS), 1))
    return [kernel.astype(np.float32), np.tile(-STEEPNESS * level / width, len(OFFSETS)).astype(np.float32)]


def learned_windows(model: "keras.Model") -> np.ndarray:
    """Return level and width (HU) of the windows of a network, shape (neighbours, windows, 2)."""
    kernel, bias = model.get_layer(LAYER).get_weights()
    gain, shift = kernel[0, 0], bias.reshape(kernel.shape[2:])
    return np.stack([-shift / gain, STEEPNESS / gain], axis=-1) * HU_UNIT
