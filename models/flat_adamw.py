"""AdamW over one vector of all weights: a step is twenty operations on it instead of forty on every variable.

A network has a hundred variables, most of them small, so an optimizer that updates one after the other spends its time
on starting operations: a tenth of a training step on a CPU. The arithmetic is that of `keras.optimizers.AdamW`.

Paper: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization (arXiv 1711.05101).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

BETAS = (0.9, 0.999)
EPSILON = 1e-7


class FlatAdamW(keras.optimizers.Optimizer):
    """AdamW with clipping by the norm of the whole gradient and gradient accumulation.

    Args:
        learning_rate: A number or a schedule over batches.
        weight_decay: Share of a weight that is subtracted per step, times the learning rate.
        without_decay: Parts of the names of variables that do not decay.
        clip_norm: The gradient is shortened to this norm.
        accumulate: Batches whose gradients are averaged for one step.
    """

    def __init__(
        self, learning_rate: Any, weight_decay: float, without_decay: list[str], clip_norm: float, accumulate: int = 1
    ) -> None:  # fmt: skip
        super().__init__(learning_rate)
        self._decay, self._without_decay, self._clip_norm = weight_decay, without_decay, clip_norm
        self._accumulate = accumulate

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the averages of the gradient and of its square, and the sum of the accumulated gradients."""
        if self.built:
            return
        super().build(variables)
        sizes = [int(np.prod(variable.shape)) for variable in variables]
        decays = [not any(name in variable.name for name in self._without_decay) for variable in variables]
        self._ends = np.cumsum(sizes)[:-1].tolist()
        self._decays = np.repeat(np.float32(self._decay) * np.array(decays, np.float32), sizes)
        shape = (sum(sizes),)
        self._momentum = self.add_variable(shape, name="momentum")
        self._velocity = self.add_variable(shape, name="velocity")
        self._sum = self.add_variable(shape, name="sum") if self._accumulate > 1 else None

    def apply(self, grads: list, trainable_variables: list[keras.Variable] | None = None) -> None:
        """Update the weights with the gradients of one batch; None is a gradient of zero."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        pairs = list(zip(grads, variables, strict=True))
        gradient = _joined([ops.zeros_like(variable) if grad is None else grad for grad, variable in pairs])
        batches = self._iterations + 1
        is_step, step = 1.0, ops.cast(batches, "float32")
        if self._sum is not None:
            is_step = ops.cast(batches % self._accumulate == 0, "float32")
            step = ops.maximum(ops.floor(step / self._accumulate), 1.0)
            total = self._sum + gradient
            self._sum.assign((1 - is_step) * total)
            gradient = total / self._accumulate
        gradient *= self._clip_norm / ops.maximum(ops.sqrt(ops.sum(gradient * gradient)), self._clip_norm)
        first, second = BETAS
        self._momentum.assign_add(is_step * (1 - first) * (gradient - self._momentum))
        self._velocity.assign_add(is_step * (1 - second) * (gradient * gradient - self._velocity))
        rate = is_step * ops.cast(self.learning_rate, "float32")
        adam = rate * ops.sqrt(1 - second**step) / (1 - first**step)
        weights = _joined(variables)
        weights *= 1 - rate * ops.convert_to_tensor(self._decays)
        weights -= adam * self._momentum / (ops.sqrt(self._velocity) + EPSILON)
        for variable, part in zip(variables, ops.split(weights, self._ends), strict=True):
            variable.assign(ops.reshape(part, variable.shape))
        self._iterations.assign_add(1)


def _joined(tensors: list) -> Any:
    """Concatenate tensors of any shape to one vector."""
    return ops.concatenate([ops.reshape(tensor, (-1,)) for tensor in tensors])
