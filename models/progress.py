"""Progress of one training run: messages with the time left, a progress bar, and event files for TensorBoard.

The event files are written to logs/tensorboard/<experiment>/<backbone>/fold<k>, outside the artifacts; a resumed
training appends to them. `tensorboard --logdir logs/tensorboard` shows them (TensorBoard is not part of the
environment).
"""

import shutil
import time
from pathlib import Path
from types import TracebackType

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from models.history import History
from models.progress_messages import EpochMessage, Report, StepMessage, print_text
from pipeline.console import progress_visible

STEP_MESSAGE_SECONDS = 20.0  # between two messages within an epoch
EVENTS_PER_EPOCH = 50  # points of the loss curve


class EventFile:
    """Write scalars to an event file for TensorBoard, in the calling thread.

    SummaryWriter of tensorboardX writes in a thread of its own. On a full disk that thread ends, and the training would
    wait forever for it to take the next scalar.

    Args:
        folder: Folder of the event files.
        suffix: End of the file's name.
        restart: Step from which on scalars of earlier files are replaced; None keeps them.
    """

    def __init__(self, folder: Path, suffix: str, restart: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), suffix)
        if restart is not None:
            session = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=restart, session_log=session))

    def add(self, name: str, value: float, step: int) -> None:
        """Append one scalar."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Write everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything and close the file."""
        self._writer.close()


class TrainingLog:
    """Receives every batch and every epoch of one training run. A context manager.

    Args:
        epochs: Epochs of the whole run.
        events: Folder of the TensorBoard event files; None writes none.
        report: Receives the progress messages.
    """

    def __init__(self, epochs: int, events: Path | None = None, report: Report = print_text) -> None:
        self._epochs, self._folder, self._report = epochs, events, report
        self._writer: EventFile | None = None
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
        """Start the clock after `done` finished epochs of `batches` batches each."""
        self._batches = batches
        if self._folder:
            if not done and self._folder.is_dir():
                shutil.rmtree(self._folder)  # curves of an earlier training
            self._writer = EventFile(self._folder, f".after{done}", done * batches if done else None)
        self._bar = tqdm(
            total=self._epochs * batches, initial=done * batches, unit="batch", desc="training",
            disable=not progress_visible(), leave=False,
        )  # fmt: skip
        self._done, self._started = done * batches, time.monotonic()
        self._epoch_started = self._last_message = self._started

    def step(self, epoch: int, step: int, loss: float, slices: int) -> None:
        """Record one finished batch.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of the batch in the epoch, from 0.
            loss: Mean loss of the batch.
            slices: Size of the batch.
        """
        self._slices += slices
        self._bar.update()
        batches = epoch * self._batches + step + 1
        if self._writer and (step + 1) % max(1, self._batches // EVENTS_PER_EPOCH) == 0:
            self._writer.add("batch/loss", loss, batches)
        if time.monotonic() - self._last_message > STEP_MESSAGE_SECONDS and not progress_visible():
            self._last_message = time.monotonic()
            self._report(
                StepMessage(epoch + 1, step + 1, self._batches, float(loss), seconds_left=self._seconds_left(batches))
            )

    def epoch(self, history: History) -> None:
        """Record one finished and saved epoch, the last one of the history."""
        now = time.monotonic()
        speed = self._slices / max(now - self._epoch_started, 1e-9)
        self._slices, self._epoch_started, self._last_message = 0, now, now
        done = len(history)
        self._report(
            EpochMessage(
                done, self._epochs, history.losses[-1], history.inner_losses[-1] if history.inner_losses else None,
                history.rates[-1], speed, self._seconds_left(done * self._batches),
            )
        )  # fmt: skip
        if self._writer:
            for name, value in history.table().iloc[-1].drop("epoch").items():
                self._writer.add(f"epoch/{name}", value, done * self._batches)
            self._writer.add("epoch/slices_per_second", speed, done * self._batches)
            self._writer.flush()

    def _seconds_left(self, batches: int) -> float:
        """Return the time left after so many batches of the run, at the mean speed of this process."""
        seconds = (time.monotonic() - self._started) / max(batches - self._done, 1)
        return seconds * (self._epochs * self._batches - batches)
