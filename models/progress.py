"""What a person sees of a training: lines with the time left, a bar, and curves for TensorBoard.

The event files lie in logs/tensorboard/<backbone>/fold<k>, outside of the products: a resumed training goes on
in them. `tensorboard --logdir logs/tensorboard` shows them (TensorBoard is not part of the environment).
"""

import shutil
import time
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter
from tqdm import tqdm

from models.history import History
from pipeline.console import say, watched

LINE_EVERY = 60.0  # seconds between two lines within an epoch
EVENTS_AN_EPOCH = 50  # points of the loss curve


class TrainingLog:
    """Is told of every batch and every epoch of one training.

    Args:
        epochs: of the whole run.
        events: folder of the event files; None writes none.
    """

    def __init__(self, epochs: int, events: Path | None = None) -> None:
        self._epochs, self._folder = epochs, events
        self._writer: SummaryWriter | None = None
        self._bar = tqdm(disable=True)
        self._slices = 0

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer:
            self._writer.close()

    def begin(self, done: int, batches: int) -> None:
        """Training starts after `done` finished epochs of `batches` batches."""
        self._batches = batches
        if self._folder:
            if not done and self._folder.is_dir():
                shutil.rmtree(self._folder)  # curves of an earlier training
            self._writer = SummaryWriter(
                str(self._folder), purge_step=done * batches if done else None, filename_suffix=f".after{done}"
            )
        self._bar = tqdm(
            total=self._epochs * batches, initial=done * batches, unit="batch", desc="training",
            disable=not watched(), leave=False,
        )  # fmt: skip
        self._done, self._started = done * batches, time.monotonic()
        self._epoch_started = self._line = self._started

    def step(self, epoch: int, step: int, loss: float, slices: int) -> None:
        """One batch is over; `epoch` and `step` count from 0."""
        self._slices += slices
        self._bar.update()
        place = epoch * self._batches + step + 1
        if self._writer and (step + 1) % max(1, self._batches // EVENTS_AN_EPOCH) == 0:
            self._writer.add_scalar("batch/loss", loss, place)
        if time.monotonic() - self._line > LINE_EVERY and not watched():
            self._line = time.monotonic()
            say(f"step {step + 1}/{self._batches} of epoch {epoch + 1} loss {loss:.4f}, {self._left(place)}")

    def epoch(self, history: History) -> None:
        """One epoch is over and saved."""
        now = time.monotonic()
        speed = self._slices / max(now - self._epoch_started, 1e-9)
        self._slices, self._epoch_started, self._line = 0, now, now
        done = len(history)
        inner = f" inner {history.inner_losses[-1]:.4f}" if history.inner_losses else ""
        say(
            f"epoch {done}/{self._epochs} loss {history.losses[-1]:.4f}{inner} rate {history.rates[-1]:.2g} "
            f"{speed:.3g} slices/s, {self._left(done * self._batches)}"
        )
        if self._writer:
            for name, value in history.table().iloc[-1].drop("epoch").items():
                self._writer.add_scalar(f"epoch/{name}", value, done * self._batches)
            self._writer.add_scalar("epoch/slices_per_second", speed, done * self._batches)
            self._writer.flush()

    def _left(self, place: int) -> str:
        """How long the rest takes at this process's mean speed."""
        seconds = (time.monotonic() - self._started) / max(place - self._done, 1)
        return f"{told_duration(seconds * (self._epochs * self._batches - place))} left"


def told_duration(seconds: float) -> str:
    """A duration as a person says it: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size * 2 or (unit == "h" and seconds >= size):
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
