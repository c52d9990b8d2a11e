"""Exponential moving average of a network's weights, which predicts better than the weights of the last step.

Polyak and Juditsky 1992 (doi 10.1137/0330046). `use_ema` of Keras's optimizers is not used, because it averages only
trainable weights, not the statistics of batch normalisation, and applies the full decay from the first step. Here every
floating-point variable is averaged, including the statistics, so that weights and statistics match; counters and random
seeds are not averaged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np


class WeightAverage:
    """The moving average of the variables of a network.

    Args:
        model: The network.
        decay: Weight of the previous average, from 0 to below 1. After `t` updates it is at most (1 + t) / (10 + t),
            so that the start of training has little effect.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._variables = averaged_variables(model)
        self._averages = [
            keras.Variable(np.copy(keras.ops.convert_to_numpy(variable)), dtype=variable.dtype, trainable=False)
            for variable in self._variables
        ]
        self._blend = _blend_function(self._averages, self._variables)

    def update(self) -> None:
        """Update the average with the current weights, after one step of the optimizer."""
        self.updates += 1
        rate = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self._blend(keras.ops.convert_to_tensor(rate, "float32"))

    def variables(self) -> list[keras.Variable]:
        """Return the variables that hold the averages."""
        return self._averages

    def values(self) -> list[np.ndarray]:
        """Return the averages, in the order of `averaged_variables`."""
        return [np.copy(keras.ops.convert_to_numpy(average)) for average in self._averages]

    def restore(self, values: list[np.ndarray], updates: int) -> None:
        """Restore the result of `values` after so many updates."""
        assign_all(self._averages, values)
        self.updates = updates

    def apply(self) -> None:
        """Assign the averages to the network permanently."""
        assign_all(self._variables, self.values())  # copies: JAX deletes the arrays that a network ran with

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Assign the averages to the network within the context, then restore its weights."""
        kept = [np.copy(keras.ops.convert_to_numpy(variable)) for variable in self._variables]
        self.apply()
        try:
            yield
        finally:
            assign_all(self._variables, kept)


def averaged_variables(model: keras.Model) -> list[keras.Variable]:
    """Return weights and statistics in the order of the model, without counters and random seeds."""
    return [variable for variable in model.variables if "float" in str(variable.dtype)]


def assign_all(variables: list, values: list) -> None:
    """Assign one value to every variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _blend_function(averages: list[keras.Variable], variables: list[keras.Variable]) -> Callable[[Any], None]:
    """Return a function of the rate that moves every average towards its variable.

    It is compiled to one call of the backend: hundreds of single operations take ten times as long.
    """

    def step(rate: Any) -> None:
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

    def jax_step(rate: Any) -> None:
        old, new = [average.value for average in averages], [variable.value for variable in variables]
        assign_all(averages, moved(old, new, rate))

    return jax_step
