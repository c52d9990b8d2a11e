"""How networks are compiled; the optimiser: AdamW under a warm-up and a cosine, averaging gradients where asked.

Papers: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization (arXiv 1711.05101); 2017, SGDR
(arXiv 1608.03983), the cosine.
"""

import keras

from pipeline.settings import ModelsSettings

#: Batch normalisation's and biases' variables and a pooling's power keep their size: weight decay is for kernels.
WITHOUT_DECAY = ["bias", "gamma", "beta", "power"]


class WarmCosine(keras.optimizers.schedules.CosineDecay):
    """A tenth of the run as warm-up from a twentieth of the rate, then a cosine down to a hundredth of it.

    Args:
        rate: the highest learning rate.
        total: steps of the whole run.
        done: steps before this optimiser's first one (it starts anew where layers are unfrozen).
        batches: of a step; Keras counts batches.
    """

    def __init__(self, rate: float, total: int, done: int = 0, batches: int = 1) -> None:
        warmup = max(1, total // 10)
        self.done, self.batches = done, batches
        super().__init__(rate / 20, max(1, total - warmup), alpha=0.01, warmup_target=rate, warmup_steps=warmup)

    def __call__(self, batch):
        """The learning rate of one batch, counted from this optimiser's first one."""
        return super().__call__(batch // self.batches + self.done)


def batches_of_epoch(settings: ModelsSettings) -> int:
    """Batches an epoch: whole steps of the optimiser, at least one."""
    return max(1, settings.epoch_slices // (settings.batch * settings.accumulate)) * settings.accumulate


def build_optimizer(model: keras.Model, settings: ModelsSettings, done: int = 0) -> keras.Optimizer:
    """An optimiser over the model's trainable weights.

    Args:
        model: its layers are frozen as they are meant to be.
        settings: recipe.
        done: epochs of the run that are over.
    """
    steps = batches_of_epoch(settings) // settings.accumulate
    schedule = WarmCosine(settings.learning_rate, steps * settings.epochs, steps * done, settings.accumulate)
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=settings.weight_decay, global_clipnorm=5.0,
        gradient_accumulation_steps=settings.accumulate if settings.accumulate > 1 else None,
    )  # fmt: skip
    optimizer.exclude_from_weight_decay(var_names=WITHOUT_DECAY)
    optimizer.build(model.trainable_variables)
    return optimizer


def compile_network(
    model: keras.Model, optimizer: keras.Optimizer, loss: dict, loss_weights: dict[str, float] | None = None
) -> None:
    """Compile a network for training, every kind of network alike.

    Keras decides about XLA ("auto"): on JAX it is used, where a GRU takes a hundred times as long without; on
    TensorFlow's CPU it is not, where training with it is several times slower, nor on TensorFlow where operations
    are deterministic (`models.slice_runs.prepare_backend`), nor on PyTorch.

    Args:
        model: from `models.slice_network` or `models.exam_network`.
        optimizer: of its trainable weights.
        loss, loss_weights: by the name of an output.
    """
    model.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, jit_compile="auto")
