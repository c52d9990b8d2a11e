"""Compilation and optimizer of networks: AdamW with warm-up, cosine decay and optional gradient accumulation.

Paper: Loshchilov and Hutter 2017, SGDR (arXiv 1608.03983), the cosine decay.
"""

from typing import Any

import keras

from models.flat_adamw import FlatAdamW
from pipeline.settings import ModelsSettings

#: Variables without weight decay: of batch normalisation, biases, and the power of the pooling. Only kernels decay.
WITHOUT_DECAY = ["bias", "gamma", "beta", "power"]


class WarmCosine(keras.optimizers.schedules.CosineDecay):
    """Warm-up from 1/20 of the rate during the first tenth of the run, then cosine decay to 1/100 of the rate.

    Args:
        rate: The highest learning rate.
        total: Steps of the whole run.
        done: Steps before the first step of this optimizer (unfreezing layers starts a new optimizer).
        batches: Batches per step; Keras counts batches.
    """

    def __init__(self, rate: float, total: int, done: int = 0, batches: int = 1) -> None:
        warmup = max(1, total // 10)
        self.done, self.batches = done, batches
        super().__init__(rate / 20, max(1, total - warmup), alpha=0.01, warmup_target=rate, warmup_steps=warmup)

    def __call__(self, batch: Any) -> Any:
        """Return the learning rate of one batch, counted from the first batch of this optimizer."""
        return super().__call__(batch // self.batches + self.done)


def batches_per_epoch(settings: ModelsSettings) -> int:
    """Return the batches per epoch: whole steps of the optimizer, at least one."""
    return max(1, settings.epoch_slices // (settings.batch * settings.accumulate)) * settings.accumulate


def build_optimizer(model: keras.Model, settings: ModelsSettings, done: int = 0) -> keras.Optimizer:
    """Build the optimizer of a model's trainable weights.

    Args:
        model: The network, with frozen layers already set.
        settings: Training recipe.
        done: Finished epochs of the run.
    """
    steps = batches_per_epoch(settings) // settings.accumulate
    schedule = WarmCosine(settings.learning_rate, steps * settings.epochs, steps * done, settings.accumulate)
    optimizer = FlatAdamW(
        schedule, weight_decay=settings.weight_decay, without_decay=WITHOUT_DECAY, clip_norm=5.0,
        accumulate=settings.accumulate,
    )  # fmt: skip
    optimizer.build(model.trainable_variables)
    return optimizer


def compile_network(
    model: keras.Model, optimizer: keras.Optimizer, loss: dict, loss_weights: dict[str, float] | None = None
) -> None:
    """Compile a network of any kind for training.

    Keras decides about XLA ("auto"). It is used on JAX, where a GRU takes a hundred times as long without it. It is
    not used on TensorFlow's CPU, where training gets several times slower with it, on TensorFlow with deterministic
    operations (`models.device.prepare_backend`), and on PyTorch.

    Args:
        model: Network from `models.slice_network` or `models.exam_network`.
        optimizer: Optimizer of its trainable weights.
        loss: Output name -> loss function.
        loss_weights: Output name -> weight of the loss; None for 1.
    """
    model.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, jit_compile="auto")


def create_training_variables(model: keras.Model, targets: dict[str, Any]) -> None:
    """Create the variables of the optimizer and of the losses, which Keras would create while it traces a step.

    TensorFlow traces a function that creates variables twice; for a MobileNetV2 that takes seven seconds.

    Args:
        model: A compiled network with several outputs.
        targets: Output name -> targets of one batch.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    batch = len(next(iter(targets.values())))
    zeros = {
        name: keras.ops.zeros((batch, *_sizes(output, targets.get(name)))) for name, output in model.output.items()
    }
    model.compute_loss(y=targets, y_pred=zeros)


def _sizes(output: keras.KerasTensor, targets: Any) -> list[int]:
    """The sizes of an output after the batch; those that the network leaves open are the targets'."""
    return [targets.shape[axis] if size is None else size for axis, size in enumerate(output.shape) if axis]
