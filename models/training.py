"""Trains one slice network; a killed run resumes at its last epoch and ends with the same bytes."""

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from input.contest import STUDY
from models.batches import prefetched
from models.checkpoint import load_checkpoint, save_checkpoint
from models.network import slice_network, weighted_logistic_loss
from models.sampling import draw_epoch, q_weights, sampling_weights
from models.targets import flip_targets, slice_targets
from models.views import SliceViews, draw_augmentation
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings


def train_network(
    slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, backbone: str, checkpoint: Path,
    report: Callable[[int, float, float], None],
) -> tuple[keras.Model, list[float]]:  # fmt: skip
    """Train from pretrained weights, or go on from a checkpoint.

    Args:
        slices: a row a training slice: study, `plane` in the store, slice and exam labels.
        views: of the store.
        settings: recipe.
        backbone: a key of `models.backbones.BACKBONES`.
        checkpoint: written after every epoch.
        report: called with (epoch, mean loss, slices a second) after every epoch.

    Returns:
        The network and the mean training loss of every epoch.

    Raises:
        UserError: the loss became NaN or infinite; names the step.
    """
    resumed = checkpoint.is_file()
    model = slice_network(settings, backbone, "none" if resumed else settings.weights)
    steps = max(1, settings.epoch_slices // settings.batch)
    optimizer = _optimizer(settings, steps)
    model.compile(optimizer=optimizer, loss={"logits": weighted_logistic_loss}, jit_compile=_jit())
    optimizer.build(model.trainable_variables)
    done, losses = load_checkpoint(checkpoint, model, optimizer) if resumed else (0, [])
    weights = sampling_weights(slices, settings.positive_share, settings.negative_exam_share, settings.sampling)
    slice_weights = q_weights(slices, weights) if settings.q_weighting else None
    targets = slice_targets(slices, settings.auxiliary_weight, slice_weights)
    for epoch in range(done, settings.epochs):
        rows = draw_epoch(weights, steps * settings.batch, seed=settings.seed, epoch=epoch)
        started = time.monotonic()
        losses.append(_train_epoch(model, slices, targets, rows, views, settings, epoch))
        save_checkpoint(checkpoint, model, optimizer, epoch + 1, losses)
        report(epoch + 1, losses[-1], len(rows) / (time.monotonic() - started))
    return model, losses


def _train_epoch(
    model: keras.Model, slices: pd.DataFrame, targets: np.ndarray, rows: np.ndarray, views: SliceViews,
    settings: ModelsSettings, epoch: int,
) -> float:  # fmt: skip
    studies, planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()

    def make(step: int) -> tuple[np.ndarray, np.ndarray]:
        first = step * settings.batch
        draws = range(first, min(first + settings.batch, len(rows)))
        changes = [draw_augmentation(settings, epoch=epoch, draw=draw) for draw in draws]
        picked = rows[draws.start : draws.stop]
        images = [
            views.view(studies[row], int(planes[row]), change) for row, change in zip(picked, changes, strict=True)
        ]
        truth = targets[picked]
        flipped = np.array([change.flip for change in changes])
        truth[flipped] = flip_targets(truth[flipped])
        return np.stack(images), truth

    steps = -(-len(rows) // settings.batch)
    losses = np.zeros(steps)
    for step, (images, truth) in enumerate(prefetched(make, steps)):
        # Step by step, so that the history holds the epoch's mean and a divergence its step.
        model.reset_metrics()
        losses[step] = float(model.train_on_batch(images, {"logits": truth}))
        if not np.isfinite(losses[step]):
            raise UserError(
                f"training diverged: loss {losses[step]} at epoch {epoch + 1}, step {step + 1} of {steps}; "
                "lower models.learning_rate and run again"
            )
    return float(losses.mean())


def _optimizer(settings: ModelsSettings, steps: int) -> keras.Optimizer:
    """AdamW under a cosine that starts with a tenth of the run as warm-up."""
    total = steps * settings.epochs
    warmup = max(1, total // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, max(1, total - warmup), alpha=0.01, warmup_target=settings.learning_rate,
        warmup_steps=warmup,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, global_clipnorm=5.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _jit() -> bool | str:
    """XLA where it pays: on TensorFlow's CPU it makes training several times slower."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow

    return "auto" if tensorflow.config.list_physical_devices("GPU") else False
