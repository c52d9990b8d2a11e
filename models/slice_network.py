"""The slice network: trainable windows (optional), backbone, clot map, an embedding, one logit per target."""

import dataclasses
from typing import Any

import keras
from keras import layers, ops

from features.slices25d import OFFSETS
from input.contest import LEFT, RIGHT, SLICE_LABEL
from models.backbones import backbone_model
from models.clot_map import (
    LOCAL_CELLS,
    PARTS,
    STRENGTHS,
    ClotAttention,
    ClotEvidence,
    clot_map,
    feature_pyramid,
    local_cells,
    side_answers,
)
from models.network_names import architecture
from models.pooling import pool_features
from models.precision import dtype_policy, dtype_policy_scope
from models.slice_targets import NATURES, ON_EXAM, TARGETS
from models.trainable_windows import trainable_windows
from pipeline.settings import ModelsSettings


def slice_network(
    settings: ModelsSettings, backbone: str, weights: str, *, local_map: bool = False
) -> keras.Model:  # fmt: skip
    """Build the network over one 2.5-D slice.

    Args:
        settings: Sizes, windows, pooling, dropout and precision.
        backbone: Name of the slice network.
        weights: "imagenet", "none" or a path.
        local_map: The clot map reads local features only, see `models.clot_map.clot_map`.

    Returns:
        A model with four outputs, float32 with every precision: `logits` (batch, targets) in the order of
        `models.slice_targets.TARGETS`; `embedding` (batch, `embedding_width(settings)`); `map` (batch, y / 8, x / 8,
        MAP_CHANNELS), the clot map's logits; and `evidence` (batch, len(PARTS)), the map pooled to logits of PE.

    Raises:
        UserError: Unknown backbone, or missing or incompatible weights.
    """
    return slice_network_with_maps(settings, backbone, weights, local_map=local_map)[0]


def slice_network_with_maps(
    settings: ModelsSettings, backbone: str, weights: str, *, local_map: bool = False
) -> tuple[keras.Model, list[keras.KerasTensor]]:
    """Build a `slice_network`; also return the backbone's feature maps in it, the finest first."""
    backbone = architecture(backbone)
    with dtype_policy_scope(dtype_policy(settings, backbone)):
        body = backbone_model(
            backbone, (settings.height, settings.width), settings.channels, weights,
            used_share=settings.used_share, frozen_share=settings.frozen_share,
        )  # fmt: skip
        images, maps = _images_and_features(body, settings, backbone)
        size = (settings.height, settings.width)
        cells = feature_pyramid(size, maps)
        local = local_cells(size, maps[0]) if local_map else None
        map_logits, clot, placed = clot_map(cells, local)
        described = layers.Concatenate(dtype="float32", name="described")([placed, map_logits])
        summaries = ClotAttention(name="clot_attention")([described, clot])
        strengths = layers.Flatten(dtype="float32", name="strengths")(summaries[:, :, -STRENGTHS:])
        summary, sides = summaries[:, 0], side_answers(summaries)
        vector = layers.Concatenate(dtype="float32", name="vector")(
            [pool_features(maps[-1], settings.pooling), summary]
        )
        features = layers.Dense(settings.embedding, activation="relu", dtype="float32", name="features")(vector)
        dropped = layers.Dropout(settings.dropout, seed=settings.seed, dtype="float32", name="dropout")(features)
        known = layers.Concatenate(dtype="float32", name="known")([dropped, strengths])
        answers = {SLICE_LABEL: layers.Dense(1, dtype="float32", name="slice_answer")(known)}
        answers |= {LEFT: sides[:, 0], RIGHT: sides[:, 1]}
        for name, source in [*((name, summary) for name in NATURES), *((name, dropped) for name in ON_EXAM)]:
            answers[name] = layers.Dense(1, dtype="float32", name=f"{name}_answer")(source)
        logits = layers.Concatenate(dtype="float32", name="logits")([answers[name] for name in TARGETS])
        embedding = layers.Concatenate(dtype="float32", name="embedding")([features, strengths])
        evidence = ClotEvidence(name="evidence")(clot)
    outputs = {"logits": logits, "embedding": embedding, "map": map_logits, "evidence": evidence}
    return keras.Model(images, outputs, name=f"{backbone}_slice_network"), maps


def embedding_width(settings: ModelsSettings) -> int:
    """Return the length of the embedding: its features and the strength of the clot in every part of the slice."""
    return settings.embedding + len(PARTS) * STRENGTHS


def _images_and_features(
    body: keras.Model, settings: ModelsSettings, backbone: str
) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    """Return the network's input, as made by `models.slice_views.SliceViews`, and the feature maps."""
    if not settings.trainable_windows:
        return body.input, body.output
    stack = keras.Input((settings.height, settings.width, len(OFFSETS)), name="images")
    scaled = body.get_layer("normalise")(trainable_windows(stack, settings.windows))
    return stack, body.get_layer(backbone)(scaled)


def has_local_map(model: keras.Model) -> bool:
    """Return whether the clot map of a `slice_network` reads local features only."""
    return any(layer.name == LOCAL_CELLS for layer in model.layers)


def in_float32(model: keras.Model, settings: ModelsSettings, backbone: str) -> keras.Model:
    """Return a `slice_network` with the same weights that computes in float32, as required for graph export."""
    if dtype_policy(settings, backbone) == "float32":
        return model
    float_settings = dataclasses.replace(settings, precision="float32")
    plain = slice_network(float_settings, backbone, "none", local_map=has_local_map(model))
    plain.set_weights(model.get_weights())
    return plain


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
