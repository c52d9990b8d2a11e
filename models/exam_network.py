"""Networks over an exam's slices: they read the embeddings of a slice network and see the exam as a whole.

The winners of the contest ran a bidirectional GRU with attention over embeddings and their differences
to the neighbours; second place ran transformers (Vaswani et al. 2017, arXiv 1706.03762).
"""

import keras
from keras import layers, ops

from input.contest import EXAM_LABELS, EXAM_WEIGHTS
from models.check_recipe import HEADS
from pipeline.settings import ExamNetworkSettings


def exam_network(kind: str, features: int, settings: ExamNetworkSettings) -> keras.Model:
    """Build a network over one exam.

    Args:
        kind: a key of BUILDERS.
        features: numbers a position.
        settings: length, units, dropout.

    Returns:
        A model: `sequence` (batch, length, features) and `inside` (batch, length, 1), 1 where there are slices ->
        `slices` (batch, length, 1) and `exams` (batch, 9), logits; exam labels in the order of EXAM_LABELS.
    """
    sequence = keras.Input((settings.length, features), name="sequence")
    inside = keras.Input((settings.length, 1), name="inside")
    dropped = layers.SpatialDropout1D(settings.dropout, seed=settings.seed, name="drop_features")(sequence)
    tensor = layers.Dense(2 * settings.units, activation="relu", name="project")(dropped)
    tensor = layers.Multiply(name="projected")([tensor, inside])
    states = BUILDERS[kind](tensor, inside, settings)
    slices = layers.Dense(1, name="slices")(states)
    pooled = layers.Concatenate(name="pooled")([_attended(states, inside), _highest(states, inside)])
    pooled = layers.Dropout(settings.dropout, seed=settings.seed + 1, name="drop_exam")(pooled)
    exams = layers.Dense(len(EXAM_LABELS), name="exams")(pooled)
    return keras.Model([sequence, inside], {"slices": slices, "exams": exams}, name=f"{kind}_exam_network")


def _gru(tensor, inside, settings: ExamNetworkSettings):
    recurrent = layers.GRU(settings.units, return_sequences=True, name="gru")
    states = layers.Bidirectional(recurrent, name="both_ways")(tensor)
    return layers.Concatenate(name="states")([tensor, states])


def _transformer(tensor, inside, settings: ExamNetworkSettings):
    width = 2 * settings.units
    tensor = Places(name="places")(tensor)
    mask = layers.Reshape((1, settings.length), name="keys")(inside)
    for block in range(2):
        normal = layers.LayerNormalization(name=f"block{block}_normal")(tensor)
        seen = layers.MultiHeadAttention(
            HEADS, width // HEADS, dropout=settings.dropout, seed=settings.seed + block, name=f"block{block}_attention"
        )(normal, normal, attention_mask=mask)
        tensor = layers.Add(name=f"block{block}_seen")([tensor, seen])
        normal = layers.LayerNormalization(name=f"block{block}_normal2")(tensor)
        hidden = layers.Dense(2 * width, activation="gelu", name=f"block{block}_hidden")(normal)
        hidden = layers.Dense(width, name=f"block{block}_output")(hidden)
        tensor = layers.Add(name=f"block{block}")([tensor, hidden])
    return layers.LayerNormalization(name="states")(tensor)


class Places(layers.Layer):
    """Adds a learned vector a position, the same for every exam."""

    def build(self, shape: tuple) -> None:
        """Make the vectors, (length, width)."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="zeros", name="vectors")

    def call(self, tensor):
        """(batch, length, width) -> the same."""
        return tensor + self.vectors


BUILDERS = {"gru": _gru, "transformer": _transformer}


def _attended(states, inside):
    """Weighted mean over the positions inside the exam; the weights are learned."""
    score = layers.Dense(1, name="score")(states)
    score = layers.Add(name="score_inside")([score, layers.Rescaling(1e4, -1e4, name="outside")(inside)])
    weight = layers.Softmax(axis=1, name="attention")(score)
    return layers.Flatten(name="attended")(layers.Dot(axes=1, name="attend")([weight, states]))


def _highest(states, inside):
    """The highest value of every state over the positions inside the exam."""
    masked = layers.Add(name="states_inside")([states, layers.Rescaling(1e4, -1e4, name="outside_states")(inside)])
    return layers.GlobalMaxPooling1D(name="highest")(masked)


def exam_loss(truth, logits):
    """The exam part of the contest's metric: weighted cross-entropies of (batch, 9) labels and logits -> (batch,)."""
    weight = ops.convert_to_tensor(list(EXAM_WEIGHTS.values()), logits.dtype)
    return ops.sum(weight * (ops.softplus(logits) - truth * logits), axis=-1)


def slice_loss(truth_and_weight, logits):
    """The image part of the metric on the grid.

    Args:
        truth_and_weight: (batch, length, 2): label in [0, 1], weight (image weight * q * slices a position).
        logits: (batch, length, 1).

    Returns:
        (batch,) losses.
    """
    truth, weight, logit = truth_and_weight[..., 0], truth_and_weight[..., 1], logits[..., 0]
    return ops.sum(weight * (ops.softplus(logit) - truth * logit), axis=-1)
