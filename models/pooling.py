"""Pooling of a feature map to one vector: average and maximum side by side, or the generalised mean."""

from typing import Any

import keras
from keras import layers, ops

#: Lower bound of activations in the generalised mean: a power has no finite gradient at zero.
SMALLEST = 1e-4
FIRST_POWER = 3.0


class GeneralisedMean(layers.Layer):
    """The p-th root of the mean p-th power per channel, with trainable p: 1 is the average, large p the maximum.

    Radenovic, Tolias and Chum 2018, Fine-tuning CNN Image Retrieval with No Human Annotation (arXiv 1711.02512).
    Always computes in float32, because powers exceed the range of float16.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"dtype": "float32", **options})

    def build(self, shape: tuple) -> None:
        """Create p, shared by all channels."""
        self.power = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(FIRST_POWER), name="power")

    def call(self, features: Any) -> Any:
        """Pool (batch, y, x, c) to (batch, c)."""
        mean = ops.mean(ops.power(ops.maximum(features, SMALLEST), self.power), axis=(1, 2))
        return ops.power(mean, 1 / self.power)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return (batch, c)."""
        return (shape[0], shape[-1])


def pool_features(features: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Pool a feature map (batch, y, x, c): "avgmax" to (batch, 2 c), averages first; "gem" to (batch, c)."""
    if pooling == "gem":
        return GeneralisedMean(name="gem")(features)
    average = layers.GlobalAveragePooling2D(name="average")(features)
    return layers.Concatenate(name="pooled")([average, layers.GlobalMaxPooling2D(name="maximum")(features)])
