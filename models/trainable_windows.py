"""Windows that the network learns: a 1 x 1 convolution on HU with a bounded activation.

The contest's sixth and seventh places let the network move its windows. Here every named window becomes a
sigmoid of HU that has the named level and, there, the named window's slope; training moves both, for each of
the three neighbouring slices by itself. The views then hand HU on, in units of HU_UNIT, instead of windows.
"""

from typing import TYPE_CHECKING

import numpy as np

from features.slices25d import OFFSETS
from features.windows import WINDOWS

if TYPE_CHECKING:
    import keras

HU_UNIT = 1000.0
#: A sigmoid of 4 t has slope 1 at 0, as a window of width 1 has.
STEEPNESS = 4.0
LAYER = "windows"


def trainable_windows(stack, names: tuple[str, ...]):
    """Build the windows on a stack.

    Args:
        stack: symbolic, HU / HU_UNIT, (batch, y, x, neighbours).
        names: of `features.windows.WINDOWS`, where they start.

    Returns:
        (batch, y, x, neighbours * windows) in [0, 1], in the order of the fixed windows' channels.
    """
    from keras import layers

    convolution = layers.DepthwiseConv2D(1, depth_multiplier=len(names), activation="sigmoid", name=LAYER)
    windowed = convolution(stack)
    convolution.set_weights(_weights(names))
    return windowed


def _weights(names: tuple[str, ...]) -> list[np.ndarray]:
    """Kernel (1, 1, neighbours, windows) and bias (neighbours * windows,)."""
    level, width = np.array([WINDOWS[name] for name in names]).T / HU_UNIT
    kernel = np.tile(STEEPNESS / width, (1, 1, len(OFFSETS), 1))
    return [kernel.astype(np.float32), np.tile(-STEEPNESS * level / width, len(OFFSETS)).astype(np.float32)]


def learned_windows(model: "keras.Model") -> np.ndarray:
    """Level and width in HU of a network's windows: (neighbours, windows, 2)."""
    kernel, bias = model.get_layer(LAYER).get_weights()
    gain, shift = kernel[0, 0], bias.reshape(kernel.shape[2:])
    return np.stack([-shift / gain, STEEPNESS / gain], axis=-1) * HU_UNIT
