"""The exponential moving average of a network's weights, which predicts better than the last step's weights.

Polyak and Juditsky 1992 (doi 10.1137/0330046). Keras's optimizers offer `use_ema`; it is not used because it
leaves the statistics of batch normalisation behind, averages trainable weights only, and starts from the first
step with the full decay. Here every floating-point variable is averaged, statistics included, so that weights
and statistics are of the same age; counters and random seeds are not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np


class WeightAverage:
    """Follows a network from step to step.

    Args:
        model: whose variables are averaged.
        decay: weight of the past, from 0 up to below 1. After `t` updates it is at most (1 + t) / (10 + t), so the
            average forgets the start of training.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._variables = averaged_variables(model)
        self._averages = [
            keras.Variable(np.copy(keras.ops.convert_to_numpy(each)), dtype=each.dtype, trainable=False)
            for each in self._variables
        ]
        self._blend = _blend(self._averages, self._variables)

    def update(self) -> None:
        """Take in the network as it is after one step of the optimiser."""
        self.updates += 1
        rate = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self._blend(keras.ops.convert_to_tensor(rate, "float32"))

    def values(self) -> list[np.ndarray]:
        """The averages, in the order of `averaged_variables`."""
        return [np.copy(keras.ops.convert_to_numpy(each)) for each in self._averages]

    def restore(self, values: list[np.ndarray], updates: int) -> None:
        """Go on from what `values` gave after so many updates."""
        assign_all(self._averages, values)
        self.updates = updates

    def apply(self) -> None:
        """Give the network the averages, for good."""
        assign_all(self._variables, self.values())  # copies: JAX deletes the arrays that it ran a network with

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the network the averages for a while."""
        kept = [np.copy(keras.ops.convert_to_numpy(each)) for each in self._variables]
        self.apply()
        try:
            yield
        finally:
            assign_all(self._variables, kept)


def averaged_variables(model: keras.Model) -> list[keras.Variable]:
    """Weights and statistics, in the model's order, without counters and random seeds."""
    return [each for each in model.variables if "float" in str(each.dtype)]


def assign_all(variables: list, values: list) -> None:
    """Give every variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _blend(averages: list[keras.Variable], variables: list[keras.Variable]) -> Callable:
    """A function of the rate that moves every average towards its variable.

    It is one call of the backend: hundreds of single operations cost ten times as much.
    """

    def step(rate) -> None:
        for average, variable in zip(averages, variables, strict=True):
            average.assign(average + rate * (variable - average))

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.function(step)
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(step)
    import jax

    moved = jax.jit(lambda old, new, rate: [a + rate * (b - a) for a, b in zip(old, new, strict=True)])

    def jax_step(rate) -> None:
        values = moved([each.value for each in averages], [each.value for each in variables], rate)
        assign_all(averages, values)

    return jax_step
