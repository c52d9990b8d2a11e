"""Training of one slice network; a killed run resumes after its last finished epoch and ends with the same bytes.

An epoch: unfreeze if due, sample slices, train batch by batch, measure the loss on the inner exams, save everything
that the next epoch depends on. Order and augmentation are a pure function of the seed, the epoch and the slice, so they
need no saved state.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from input.contest import STUDY
from models.batches import prefetched
from models.clot_targets import MAP_CHANNELS
from models.device import gpu_capability
from models.device_views import DeviceViews, to_device
from models.frozen_stem import SharedFeatures
from models.inner_split import InnerExams, split_inner
from models.optimizer import batches_per_epoch, create_training_variables
from models.progress import TrainingLog
from models.sampling import draw_epoch, slice_keys
from models.slice_targets import evidence_targets, flip_targets, sampled_targets
from models.slice_views import SliceViews, View, draw_augmentation
from models.training_run import TrainingRun, diverged
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

#: Slices of the first epoch on which fixed statistics of batch normalisation are measured, and how many at a time:
#: every pass costs 0.1 s, whatever its size.
STATISTICS_SLICES, STATISTICS_BATCH = 128, 32


def train_network(
    slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, backbone: str, checkpoint: Path,
    log: TrainingLog, *, loaders: int = 1,
) -> TrainingRun:  # fmt: skip
    """Train from pretrained weights, or resume from a checkpoint.

    Args:
        slices: One row per training slice: study, `plane` in the store, slice and exam labels.
        views: Views of the store.
        settings: Training recipe, checked by `models.check_recipe.check_recipe`.
        backbone: A key of `models.backbones.BACKBONES`.
        checkpoint: File written after every epoch.
        log: Receives every batch and every epoch.
        loaders: Threads that prepare batches; the result does not depend on their number.

    Returns:
        The run, with the network for prediction: of the best epoch if inner exams are set aside, with averaged weights
        if they are averaged.

    Raises:
        UserError: The loss or the weights became NaN or infinite; the message names the step.
    """
    train, inner = split_inner(slices, settings.inner_share, settings.seed)
    inner_exams = InnerExams(inner, views, settings, loaders) if len(inner) else None
    all_masked = all(views.has_mask(study) for study in train[STUDY].unique())
    run = TrainingRun.begin(settings, backbone, checkpoint, local_map=not all_masked)
    batches = EpochBatches(train, views, settings, loaders, stem=run.stem(loaders))
    fix_statistics(run, batches)
    log.begin(len(run.history), batches.count)
    for epoch in range(len(run.history), settings.epochs):
        if run.history.stopped(settings.patience):
            break
        if epoch and epoch + 1 == settings.unfreeze_epoch:
            run.unfreeze(done=epoch)
        run.history.losses.append(train_epoch(run, batches, epoch, log))
        run.history.rates.append(float(run.trained.optimizer.learning_rate))
        if inner_exams:
            run.evaluate(inner_exams)
        run.save(checkpoint)
        log.epoch(run.history)
    run.assign_final_weights()
    return run


class EpochBatches:
    """The augmented batches of every epoch, in order.

    Args:
        slices, views, settings, loaders: As in `train_network`.
        on_device: Whether the device finishes the views (see `models.device_views`); None: if it is a GPU.
        stem: Computes the features that the training reads; None if it reads images.

    Attributes:
        count: Batches per epoch.
    """

    def __init__(
        self, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, loaders: int = 1,
        on_device: bool | None = None, stem: SharedFeatures | None = None,
    ) -> None:  # fmt: skip
        on_device = gpu_capability() is not None if on_device is None else on_device
        self._device_views = DeviceViews(settings) if on_device else None
        self._stem = stem
        self.count = batches_per_epoch(settings)
        self._views, self._settings, self._loaders = views, settings, loaders
        self._targets, self._probabilities = sampled_targets(slices, settings)
        self._studies, self._planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()
        self._keys = slice_keys(slices)

    def of(self, epoch: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield what the training reads and the targets of each trained output, batch by batch.

        It reads images (batch, y, x, channels) in [0, 1], or the stem's features of them.

        All are arrays, or tensors on the device. `logits`: (batch, 2 * targets); `map`: (batch, y / 8, x / 8,
        2 * MAP_CHANNELS); `evidence`: (batch, 6), weighted only where no mask supervises the map.
        """
        batch = self._settings.batch
        draws = draw_epoch(
            self._probabilities, self._keys, self.count * batch, seed=self._settings.seed, epoch=epoch
        )  # fmt: skip

        def make(step: int) -> tuple[Any, dict[str, np.ndarray]]:
            """Make one batch; runs in a loader thread."""
            batch_rows, repeats = (values[step * batch : (step + 1) * batch] for values in draws)
            augmentations = [
                draw_augmentation(self._settings, epoch=epoch, key=key, repeat=repeat)
                for key, repeat in zip(self._keys[batch_rows], repeats, strict=True)
            ]
            views = [
                (self._studies[row], int(self._planes[row]), augmentation)
                for row, augmentation in zip(batch_rows, augmentations, strict=True)
            ]
            images = self._images(views)
            maps = np.stack([self._views.map_targets(*view) for view in views])
            maps[..., MAP_CHANNELS:] *= self._settings.map_weight
            truth = self._targets[batch_rows]
            flipped = np.array([augmentation.flip for augmentation in augmentations])
            truth[flipped] = flip_targets(truth[flipped])
            unsupervised = np.array([not self._views.has_mask(study) for study, _, _ in views], np.float32)
            evidence = evidence_targets(truth, self._settings.map_weight * unsupervised)
            targets = {"logits": truth, "map": maps, "evidence": evidence}
            return images, to_device(targets) if self._device_views else targets

        return prefetched(make, self.count, threads=self._loaders)

    def _images(self, views: list[View]) -> Any:
        if self._device_views is None:
            return self._stem(views, self._view_images) if self._stem else self._view_images(views)
        hu = np.stack([self._views.hu(*view) for view in views])
        return self._device_views(hu, [augmentation for *_, augmentation in views])

    def _view_images(self, views: Sequence[View]) -> np.ndarray:
        return np.stack([self._views.view(*view) for view in views])


def fix_statistics(run: TrainingRun, batches: EpochBatches) -> None:
    """Fix the statistics of batch normalisation, measured on slices of the first epoch, if the recipe says so."""
    if run.settings.fixed_statistics:
        count = -(-STATISTICS_SLICES // run.settings.batch)
        images = (images for images, _ in islice(batches.of(0), count))
        on_gpu = gpu_capability() is not None  # whose memory may have room for no more than models.batch
        run.fix_statistics(_joined(images, 1 if on_gpu else max(1, STATISTICS_BATCH // run.settings.batch)))


def _joined(arrays: Iterable[Any], count: int) -> Iterator[Any]:
    """Join every `count` arrays or tensors along the first axis."""
    remaining = iter(arrays)
    while part := list(islice(remaining, count)):
        yield keras.ops.concatenate(part)


def train_epoch(run: TrainingRun, batches: EpochBatches, epoch: int, log: TrainingLog) -> float:
    """Train one epoch.

    Args:
        run: State of the training run.
        batches: Batches of the training slices.
        epoch: Number of the epoch, from 0.
        log: Receives every batch.

    Returns:
        Mean loss over the batches.

    Raises:
        UserError: The loss became NaN or infinite; the message names the step.
    """
    losses: list[float] = []

    def record(latest: list[float]) -> None:
        """Check and log the next losses, in the order of their steps."""
        for loss in latest:
            losses.append(loss)
            if not np.isfinite(loss):
                step = f"step {len(losses)} of {batches.count}"
                raise UserError(diverged(f"loss {loss} at epoch {epoch + 1}, {step}"))
            log.step(epoch, len(losses) - 1, loss, run.settings.batch)

    for step, (images, truth) in enumerate(batches.of(epoch)):
        if step == 0:
            create_training_variables(run.trained, truth)
        latest = run.trained.train(images, truth)
        if run.average and (step + 1) % run.settings.accumulate == 0:
            run.average.update()
        record(latest)
    record(run.trained.fetch_losses())
    return float(np.mean(losses))
