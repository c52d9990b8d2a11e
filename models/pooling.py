"""From a feature map to one vector: average beside maximum, or the generalised mean between them."""

import keras
from keras import layers, ops

#: Below it an activation counts as this: a power of zero has no finite slope.
SMALLEST = 1e-4
FIRST_POWER = 3.0


class GeneralisedMean(layers.Layer):
    """The p-th root of the mean p-th power of a channel, p learned: 1 is the average, many the maximum.

    Radenovic, Tolias and Chum 2018, Fine-tuning CNN Image Retrieval with No Human Annotation (arXiv 1711.02512).
    Computes in float32 whatever the network does: powers leave float16's range.
    """

    def __init__(self, **options) -> None:
        super().__init__(**{"dtype": "float32", **options})

    def build(self, shape: tuple) -> None:
        """Make p, one for all channels."""
        self.power = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(FIRST_POWER), name="power")

    def call(self, features):
        """(batch, y, x, c) -> (batch, c)."""
        mean = ops.mean(ops.power(ops.maximum(features, SMALLEST), self.power), axis=(1, 2))
        return ops.power(mean, 1 / self.power)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """(batch, c)."""
        return (shape[0], shape[-1])


def pooled(features, pooling: str):
    """A feature map (batch, y, x, c) -> (batch, 2 c) with "avgmax", averages first; (batch, c) with "gem"."""
    if pooling == "gem":
        return GeneralisedMean(name="gem")(features)
    average = layers.GlobalAveragePooling2D(name="average")(features)
    return layers.Concatenate(name="pooled")([average, layers.GlobalMaxPooling2D(name="maximum")(features)])
