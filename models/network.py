"""The slice network: backbone, average and maximum pooling, an embedding, one logit a target."""

import keras
from keras import layers, ops

from models.backbones import backbone_model
from models.targets import TARGETS
from pipeline.settings import ModelsSettings


def slice_network(settings: ModelsSettings, backbone: str, weights: str) -> keras.Model:
    """Build the network that sees one 2.5-D slice.

    Args:
        settings: sizes and dropout.
        backbone: a key of `models.backbones.BACKBONES`.
        weights: "imagenet", "none" or a path.

    Returns:
        A model with two outputs: `logits` (batch, targets in the order of `targets.TARGETS`) and
        `embedding` (batch, settings.embedding).
    """
    size = (settings.height, settings.width)
    body = backbone_model(backbone, size, settings.channels, weights)
    _freeze(body.get_layer(backbone), settings.frozen_share)
    features = body.output
    pooled = layers.Concatenate(name="pooled")(
        [layers.GlobalAveragePooling2D(name="average")(features), layers.GlobalMaxPooling2D(name="maximum")(features)]
    )
    embedding = layers.Dense(settings.embedding, activation="relu", name="embedding")(pooled)
    dropped = layers.Dropout(settings.dropout, seed=settings.seed, name="dropout")(embedding)
    logits = layers.Dense(len(TARGETS), name="logits")(dropped)
    return keras.Model(body.input, {"logits": logits, "embedding": embedding}, name=f"{backbone}_slice_network")


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
