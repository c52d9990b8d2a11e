"""The slice network: windows where they are learned, backbone, pooling, an embedding, one logit a target."""

import dataclasses

import keras
from keras import layers, ops

from features.slices25d import OFFSETS
from models.backbones import backbone_model
from models.pooling import pooled
from models.precision import built_in, policy_of
from models.slice_targets import TARGETS
from models.trainable_windows import trainable_windows
from pipeline.settings import ModelsSettings


def slice_network(settings: ModelsSettings, backbone: str, weights: str) -> keras.Model:
    """Build the network that sees one 2.5-D slice.

    Args:
        settings: sizes, windows, pooling, dropout and precision.
        backbone: a key of `models.backbones.BACKBONES`.
        weights: "imagenet", "none" or a path.

    Returns:
        A model with two outputs, float32 in every precision: `logits` (batch, targets in the order of
        `targets.TARGETS`) and `embedding` (batch, settings.embedding).
    """
    with built_in(policy_of(settings, backbone)):
        body = backbone_model(backbone, (settings.height, settings.width), settings.channels, weights)
        _freeze(body.get_layer(backbone), settings.frozen_share)
        images, features = _seen(body, settings, backbone)
        vector = pooled(features, settings.pooling)
        embedding = layers.Dense(settings.embedding, activation="relu", dtype="float32", name="embedding")(vector)
        dropped = layers.Dropout(settings.dropout, seed=settings.seed, dtype="float32", name="dropout")(embedding)
        logits = layers.Dense(len(TARGETS), dtype="float32", name="logits")(dropped)
    return keras.Model(images, {"logits": logits, "embedding": embedding}, name=f"{backbone}_slice_network")


def _seen(body: keras.Model, settings: ModelsSettings, backbone: str) -> tuple:
    """The network's input, as `views.SliceViews` makes it, and the feature map."""
    if not settings.trainable_windows:
        return body.input, body.output
    stack = keras.Input((settings.height, settings.width, len(OFFSETS)), name="images")
    scaled = body.get_layer("normalise")(trainable_windows(stack, settings.windows))
    return stack, body.get_layer(backbone)(scaled)


def in_float32(model: keras.Model, settings: ModelsSettings, backbone: str) -> keras.Model:
    """A `slice_network` of the same weights that computes in float32 throughout, as an exported graph must."""
    if policy_of(settings, backbone) == "float32":
        return model
    plain = slice_network(dataclasses.replace(settings, precision="float32"), backbone, "none")
    plain.set_weights(model.get_weights())
    return plain


def _freeze(graph: keras.Model, share: float) -> None:
    """Fix the first layers: their batch normalisations then run on their pretrained statistics too."""
    for layer in graph.layers[: round(share * len(graph.layers))]:
        layer.trainable = False


def weighted_logistic_loss(truth_and_weight, logits):
    """Binary cross-entropy of logits with a weight an entry, summed over targets.

    Args:
        truth_and_weight: (batch, 2 * targets): labels, then weights; a weight of 0 masks the entry.
        logits: (batch, targets).

    Returns:
        (batch,) losses.
    """
    targets = logits.shape[-1]
    truth, weight = truth_and_weight[:, :targets], truth_and_weight[:, targets:]
    # softplus(z) - y z is the cross-entropy without ever taking a logarithm of a rounded probability.
    return ops.sum(weight * (ops.softplus(logits) - truth * logits), axis=-1)
