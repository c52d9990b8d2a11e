"""A network whose training steps record their loss on the device, so that nobody waits for it after every step.

Keras's `train_on_batch` returns the loss as a number. A GPU would then stand still after every step until the next one
has been prepared. Here the losses of several steps are fetched together, and the steps in between are only queued.
"""

import time
from typing import Any

import keras
import numpy as np
from keras import ops

#: Losses are fetched after so many steps, or after so many seconds if that is earlier: messages need them.
GROUP = 16
GROUP_SECONDS = 1.0


class RecordingNetwork(keras.Model):
    """A network with the layers, inputs and outputs of another one, compiled by `models.optimizer.compile_network`.

    The recorded losses belong to this object alone; the variables of the other network are those that predict.

    Args:
        network: The other network.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(network.input, network.output, name=network.name)
        self._recorded = self.add_weight((GROUP,), "zeros", "float32", trainable=False, name="recorded")
        self._place = self.add_weight((), "zeros", "float32", trainable=False, name="place")
        self._waiting = 0
        self._fetched = time.monotonic()

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        """Compute the loss as Keras does, and record it; a part of every compiled step."""
        loss = super().compute_loss(*arguments, **named)
        here = ops.equal(ops.arange(GROUP, dtype="float32"), self._place)
        latest = ops.cast(ops.stop_gradient(loss), "float32")
        self._recorded.assign(ops.where(here, latest, ops.convert_to_tensor(self._recorded)))
        self._place.assign((self._place + 1) % GROUP)
        return loss

    def compute_metrics(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Return nothing: `train_on_batch` would convert it to numbers, and wait for the device."""
        return {}

    def train(self, inputs: Any, targets: dict[str, Any]) -> list[float]:
        """Train one step, without waiting for its end.

        Args:
            inputs: What the network reads, of one batch.
            targets: Output name -> targets.

        Returns:
            The losses of this step and of those before whose losses have not been returned yet, in order; nothing if
            it is too early to fetch them.
        """
        self.train_on_batch(inputs, targets)
        self._waiting += 1
        if self._waiting < GROUP and time.monotonic() - self._fetched < GROUP_SECONDS:
            return []
        return self.fetch_losses()

    def fetch_losses(self) -> list[float]:
        """Wait for the last step, and return the losses that `train` has not returned yet."""
        end = int(ops.convert_to_numpy(self._place))
        latest = np.roll(ops.convert_to_numpy(self._recorded), -end)[GROUP - self._waiting :]
        self._waiting, self._fetched = 0, time.monotonic()
        return latest.tolist()
