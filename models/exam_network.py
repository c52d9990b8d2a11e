"""Networks over the slices of an exam: they read the embeddings of a slice network and see the exam as a whole.

The winners of the contest used a bidirectional GRU with attention over embeddings and their differences to the
neighbours; the second place used transformers (Vaswani et al. 2017, arXiv 1706.03762).

Keep the layer names: TensorFlow results change in their last bits when a layer is renamed.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from input.contest import EXAM_LABELS, EXAM_WEIGHTS
from models.check_recipe import HEADS
from pipeline.settings import ExamNetworkSettings


def exam_network(kind: str, features: int, settings: ExamNetworkSettings) -> keras.Model:
    """Build a network over one exam.

    Args:
        kind: A key of BUILDERS.
        features: Number of input features per position.
        settings: Length, units and dropout.

    Returns:
        A model with the inputs `sequence` (batch, length, features) and `inside` (batch, length, 1), which is 1 at
        positions with slices, else 0. Outputs are logits: `slices` (batch, length, 1) and `exams` (batch, 9) in the
        order of EXAM_LABELS.
    """
    sequence = keras.Input((settings.length, features), name="sequence")
    inside = keras.Input((settings.length, 1), name="inside")
    dropped = layers.SpatialDropout1D(settings.dropout, seed=settings.seed, name="drop_features")(sequence)
    tensor = layers.Dense(2 * settings.units, activation="relu", name="project")(dropped)
    tensor = layers.Multiply(name="projected")([tensor, inside])
    states = BUILDERS[kind](tensor, inside, settings)
    slices = layers.Dense(1, name="slices")(states)
    pooled = layers.Concatenate(name="pooled")([_attention_pool(states, inside), _max_pool(states, inside)])
    pooled = layers.Dropout(settings.dropout, seed=settings.seed + 1, name="drop_exam")(pooled)
    exams = layers.Dense(len(EXAM_LABELS), name="exams")(pooled)
    return keras.Model([sequence, inside], {"slices": slices, "exams": exams}, name=f"{kind}_exam_network")


def _gru(
    tensor: keras.KerasTensor, inside: keras.KerasTensor, settings: ExamNetworkSettings
) -> keras.KerasTensor:  # fmt: skip
    recurrent = layers.GRU(settings.units, return_sequences=True, name="gru")
    states = layers.Bidirectional(recurrent, name="both_ways")(tensor)
    return layers.Concatenate(name="states")([tensor, states])


def _transformer(
    tensor: keras.KerasTensor, inside: keras.KerasTensor, settings: ExamNetworkSettings
) -> keras.KerasTensor:
    width = 2 * settings.units
    tensor = PositionEmbedding(name="places")(tensor)
    mask = layers.Reshape((1, settings.length), name="keys")(inside)
    for block in range(2):
        normalised = layers.LayerNormalization(name=f"block{block}_normal")(tensor)
        attended = layers.MultiHeadAttention(
            HEADS, width // HEADS, dropout=settings.dropout, seed=settings.seed + block, name=f"block{block}_attention"
        )(normalised, normalised, attention_mask=mask)
        tensor = layers.Add(name=f"block{block}_seen")([tensor, attended])
        normalised = layers.LayerNormalization(name=f"block{block}_normal2")(tensor)
        hidden = layers.Dense(2 * width, activation="gelu", name=f"block{block}_hidden")(normalised)
        hidden = layers.Dense(width, name=f"block{block}_output")(hidden)
        tensor = layers.Add(name=f"block{block}")([tensor, hidden])
    return layers.LayerNormalization(name="states")(tensor)


class PositionEmbedding(layers.Layer):
    """Adds a trainable vector per position, the same for every exam."""

    def build(self, shape: tuple) -> None:
        """Create the vectors, (length, width)."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="zeros", name="vectors")

    def call(self, tensor: Any) -> Any:
        """Add the vectors to a tensor (batch, length, width)."""
        return tensor + self.vectors


Builder = Callable[[keras.KerasTensor, keras.KerasTensor, ExamNetworkSettings], keras.KerasTensor]
#: Kind -> builder of the states (batch, length, d) from the projected features and `inside`.
BUILDERS: dict[str, Builder] = {"gru": _gru, "transformer": _transformer}


def _attention_pool(states: keras.KerasTensor, inside: keras.KerasTensor) -> keras.KerasTensor:
    """Average the states over the positions inside the exam with learned weights."""
    score = layers.Dense(1, name="score")(states)
    score = layers.Add(name="score_inside")([score, layers.Rescaling(1e4, -1e4, name="outside")(inside)])
    weight = layers.Softmax(axis=1, name="attention")(score)
    return layers.Flatten(name="attended")(layers.Dot(axes=1, name="attend")([weight, states]))


def _max_pool(states: keras.KerasTensor, inside: keras.KerasTensor) -> keras.KerasTensor:
    """Return the maximum of every state over the positions inside the exam."""
    masked = layers.Add(name="states_inside")([states, layers.Rescaling(1e4, -1e4, name="outside_states")(inside)])
    return layers.GlobalMaxPooling1D(name="highest")(masked)


def exam_loss(truth: Any, logits: Any) -> Any:
    """Return the exam part of the contest's metric: weighted cross-entropies of (batch, 9) labels and logits."""
    weight = ops.convert_to_tensor(list(EXAM_WEIGHTS.values()), logits.dtype)
    return ops.sum(weight * (ops.softplus(logits) - truth * logits), axis=-1)


def slice_loss(truth_and_weight: Any, logits: Any) -> Any:
    """Return the image part of the contest's metric on the grid.

    Args:
        truth_and_weight: Tensor (batch, length, 2): label in [0, 1], and weight (image weight * q * slices per
            position).
        logits: Tensor (batch, length, 1).

    Returns:
        Losses, shape (batch,).
    """
    truth, weight, logit = truth_and_weight[..., 0], truth_and_weight[..., 1], logits[..., 0]
    return ops.sum(weight * (ops.softplus(logit) - truth * logit), axis=-1)
