"""The slice network: trainable windows (optional), backbone, pooling, an embedding, one logit per target."""

import dataclasses
from typing import Any

import keras
from keras import layers, ops

from features.slices25d import OFFSETS
from models.backbones import backbone_model
from models.pooling import pool_features
from models.precision import dtype_policy, dtype_policy_scope
from models.slice_targets import TARGETS
from models.trainable_windows import trainable_windows
from pipeline.settings import ModelsSettings


def slice_network(settings: ModelsSettings, backbone: str, weights: str) -> keras.Model:
    """Build the network over one 2.5-D slice.

    Args:
        settings: Sizes, windows, pooling, dropout and precision.
        backbone: A key of `models.backbones.BACKBONES`.
        weights: "imagenet", "none" or a path.

    Returns:
        A model with two outputs, float32 with every precision: `logits` (batch, targets) in the order of
        `models.slice_targets.TARGETS`, and `embedding` (batch, settings.embedding).

    Raises:
        UserError: Unknown backbone, or missing or incompatible weights.
    """
    with dtype_policy_scope(dtype_policy(settings, backbone)):
        body = backbone_model(backbone, (settings.height, settings.width), settings.channels, weights)
        _freeze(body.get_layer(backbone), settings.frozen_share)
        images, features = _images_and_features(body, settings, backbone)
        vector = pool_features(features, settings.pooling)
        embedding = layers.Dense(settings.embedding, activation="relu", dtype="float32", name="embedding")(vector)
        dropped = layers.Dropout(settings.dropout, seed=settings.seed, dtype="float32", name="dropout")(embedding)
        logits = layers.Dense(len(TARGETS), dtype="float32", name="logits")(dropped)
    return keras.Model(images, {"logits": logits, "embedding": embedding}, name=f"{backbone}_slice_network")


def _images_and_features(
    body: keras.Model, settings: ModelsSettings, backbone: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the network's input, as made by `models.slice_views.SliceViews`, and the feature map."""
    if not settings.trainable_windows:
        return body.input, body.output
    stack = keras.Input((settings.height, settings.width, len(OFFSETS)), name="images")
    scaled = body.get_layer("normalise")(trainable_windows(stack, settings.windows))
    return stack, body.get_layer(backbone)(scaled)


def in_float32(model: keras.Model, settings: ModelsSettings, backbone: str) -> keras.Model:
    """Return a `slice_network` with the same weights that computes in float32, as required for graph export."""
    if dtype_policy(settings, backbone) == "float32":
        return model
    plain = slice_network(dataclasses.replace(settings, precision="float32"), backbone, "none")
    plain.set_weights(model.get_weights())
    return plain


def _freeze(graph: keras.Model, share: float) -> None:
    """Freeze the first layers; their batch normalisations then use the pretrained statistics as well."""
    for layer in graph.layers[: round(share * len(graph.layers))]:
        layer.trainable = False


def weighted_logistic_loss(truth_and_weight: Any, logits: Any) -> Any:
    """Return the weighted binary cross-entropy of logits, summed over targets.

    Args:
        truth_and_weight: Tensor (batch, 2 * targets): labels, then weights. A weight of 0 masks the label.
        logits: Tensor (batch, targets).

    Returns:
        Losses, shape (batch,).
    """
    targets = logits.shape[-1]
    truth, weight = truth_and_weight[:, :targets], truth_and_weight[:, targets:]
    # softplus(z) - y z is the cross-entropy without the logarithm of a rounded probability.
    return ops.sum(weight * (ops.softplus(logits) - truth * logits), axis=-1)
