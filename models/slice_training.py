"""Trains one slice network; a killed run resumes at its last epoch and ends with the same bytes.

An epoch is: freeze or unfreeze, draw slices, step by step, measure the inner exams, save everything that the
next epoch depends on. Order and augmentation are a pure function of (seed, epoch, draw), so nothing else has
to be remembered.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from input.contest import STUDY
from models.batches import prefetched
from models.checkpoint import load_arrays, require_same_place, restore_checkpoint, save_checkpoint
from models.history import History
from models.inner_split import InnerExams, split_inner
from models.optimizer import batches_of_epoch, build_optimizer, compile_network
from models.precision import policy_of
from models.progress import TrainingLog
from models.sampling import draw_epoch
from models.slice_network import slice_network, weighted_logistic_loss
from models.slice_targets import drawn_targets, flip_targets
from models.slice_views import SliceViews, draw_augmentation
from models.weight_averaging import WeightAverage, assign_all, averaged_variables
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings


def train_network(
    slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, backbone: str, checkpoint: Path,
    log: TrainingLog, *, loaders: int = 1,
) -> tuple[keras.Model, History]:  # fmt: skip
    """Train from pretrained weights, or go on from a checkpoint.

    Args:
        slices: a row a training slice: study, `plane` in the store, slice and exam labels.
        views: of the store.
        settings: recipe; `recipe.check_recipe` has passed it.
        backbone: a key of `models.backbones.BACKBONES`.
        checkpoint: written after every epoch.
        log: is told of every batch and every epoch.
        loaders: threads that prepare batches; the result does not depend on their number.

    Returns:
        The network that is meant to predict (the best epoch's where exams are set aside, of averaged weights
        where they are averaged) and the history.

    Raises:
        UserError: the loss or the weights became NaN or infinite; names the step.
    """
    train, inner = split_inner(slices, settings.inner_share, settings.seed)
    examiner = InnerExams(inner, views, settings, loaders) if len(inner) else None
    batches = EpochBatches(train, views, settings, loaders)
    run = TrainingRun.begin(settings, backbone, checkpoint)
    log.begin(len(run.history), batches.count)
    for epoch in range(len(run.history), settings.epochs):
        if run.history.stopped(settings.patience):
            break
        if epoch and epoch + 1 == settings.unfreeze_epoch:
            run.unfreeze(done=epoch)
        run.history.losses.append(train_epoch(run, batches, epoch, log))
        run.history.rates.append(float(run.model.optimizer.learning_rate))
        if examiner:
            run.examine(examiner)
        run.save(checkpoint)
        log.epoch(run.history)
    run.choose()
    return run.model, run.history


class EpochBatches:
    """The batches of every epoch, augmented, in order.

    Args:
        slices, views, settings, loaders: as in `train_network`.

    Attributes:
        count: batches an epoch.
    """

    def __init__(self, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, loaders: int = 1) -> None:
        self.count = batches_of_epoch(settings)
        self._views, self._settings, self._loaders = views, settings, loaders
        self._targets, self._draws = drawn_targets(slices, settings)
        self._studies, self._planes = slices[STUDY].to_numpy(), slices["plane"].to_numpy()

    def of(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images (batch, y, x, channels) in [0, 1] and targets (batch, 2 * targets), batch by batch."""
        batch = self._settings.batch
        rows = draw_epoch(self._draws, self.count * batch, seed=self._settings.seed, epoch=epoch)

        def make(step: int) -> tuple[np.ndarray, np.ndarray]:
            """One batch; runs in a loader's thread."""
            draws = range(step * batch, (step + 1) * batch)
            changes = [draw_augmentation(self._settings, epoch=epoch, draw=draw) for draw in draws]
            picked = rows[draws.start : draws.stop]
            images = [
                self._views.view(self._studies[row], int(self._planes[row]), change)
                for row, change in zip(picked, changes, strict=True)
            ]
            truth = self._targets[picked]
            flipped = np.array([change.flip for change in changes])
            truth[flipped] = flip_targets(truth[flipped])
            return np.stack(images), truth

        return prefetched(make, self.count, threads=self._loaders)


class TrainingRun:
    """The state of one training: network, optimiser (in the network), average, history, best weights."""

    def __init__(self, settings: ModelsSettings, backbone: str, weights: str) -> None:
        self.settings, self.backbone = settings, backbone
        self.policy = policy_of(settings, backbone)
        self.model = slice_network(settings, backbone, weights)
        self.average = WeightAverage(self.model, settings.ema) if settings.ema else None
        self.history = History()
        self.best: list[np.ndarray] = []

    @classmethod
    def begin(cls, settings: ModelsSettings, backbone: str, checkpoint: Path) -> "TrainingRun":
        """Start, or go on where the checkpoint stands."""
        if not checkpoint.is_file():
            run = cls(settings, backbone, settings.weights)
            run.unfreeze() if settings.unfreeze_epoch == 1 else run._compile()
            return run
        arrays = load_arrays(checkpoint)
        require_same_place(arrays, checkpoint, policy_of(settings, backbone))
        run = cls(settings, backbone, "none")
        run.history = History.of(arrays)
        if 1 <= settings.unfreeze_epoch <= len(run.history):
            run.unfreeze(done=settings.unfreeze_epoch - 1)
        else:
            run._compile()
        run.best = restore_checkpoint(arrays, checkpoint, run.model, run.average)
        return run

    def unfreeze(self, done: int = 0) -> None:
        """Let all layers of the backbone learn; after `done` epochs the optimiser starts anew, its rate goes on."""
        for layer in self.model.get_layer(self.backbone).layers:
            layer.trainable = True
        self._compile(done)

    def _compile(self, done: int = 0) -> None:
        optimizer = build_optimizer(self.model, self.settings, done)
        if self.policy == "mixed_float16":
            # Keras does this by itself only where the outermost model, not its layers, has that policy.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(self.model.trainable_variables)
        compile_network(self.model, optimizer, {"logits": weighted_logistic_loss})

    def examine(self, examiner: InnerExams) -> None:
        """Measure the inner loss of the weights that would predict; keep them where it is the lowest."""
        with self.average.in_use() if self.average else nullcontext():
            loss = examiner.loss(self.model)
            if not np.isfinite(loss):
                raise UserError(_diverged(f"inner loss {loss} after epoch {len(self.history)}"))
            self.history.inner_losses.append(loss)
            if self.history.improved():
                self.best = [
                    np.copy(keras.ops.convert_to_numpy(each)) for each in averaged_variables(self.model)
                ]  # fmt: skip

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint, unless the weights are no numbers."""
        broken = [
            each.path for each in averaged_variables(self.model)
            if not np.isfinite(keras.ops.convert_to_numpy(each)).all()
        ]  # fmt: skip
        if broken:
            raise UserError(_diverged(f"{broken[0]} is not finite after epoch {len(self.history)}"))
        save_checkpoint(checkpoint, self.model, self.average, self.best, self.history, self.policy)

    def choose(self) -> None:
        """Give the network the weights that are meant to predict."""
        if self.best:
            assign_all(averaged_variables(self.model), self.best)
        elif self.average:
            self.average.apply()


def train_epoch(run: TrainingRun, batches: EpochBatches, epoch: int, log: TrainingLog) -> float:
    """Show the network one epoch; its mean loss."""
    losses = np.zeros(batches.count)
    for step, (images, truth) in enumerate(batches.of(epoch)):
        # Step by step, so that the history holds the epoch's mean and a divergence its step.
        losses[step] = float(run.model.train_on_batch(images, {"logits": truth}))
        if not np.isfinite(losses[step]):
            raise UserError(_diverged(f"loss {losses[step]} at epoch {epoch + 1}, step {step + 1} of {batches.count}"))
        if run.average and (step + 1) % run.settings.accumulate == 0:
            run.average.update()
        log.step(epoch, step, losses[step], len(images))
    return float(losses.mean())


def _diverged(what: str) -> str:
    return f"training diverged: {what}; lower models.learning_rate and run again"
