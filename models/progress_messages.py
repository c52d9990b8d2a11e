"""Progress messages of training jobs, as JSON lines from a job's process to its parent.

`./run.sh models train` starts every job with `--progress json`. The job then writes one JSON object per message, each
on a line of its own on standard output; its other output may stand between them and goes to the job's log as it is.
"done" ends a job; the process then waits for the next one.

    {"event": "step", "epoch": 1, "step": 40, "steps": 175, "loss": 0.61, "seconds_left": 310.0}
    {"event": "epoch", "epoch": 1, "epochs": 5, "loss": 0.52, "inner_loss": null, "learning_rate": 0.001,
     "slices_per_second": 82.0, "seconds_left": 240.0}                              (written on one line)
    {"event": "exam_epoch", "kind": "gru", "epoch": 5, "epochs": 30, "loss": 0.31}
    {"event": "done", "summary": "loss 0.3120, out-of-fold slice AUC 0.941"}

Epochs and steps count from 1. `inner_loss` is null if no exams are set aside.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipeline.console import say


@dataclass(frozen=True)
class StepMessage:
    """A training step in the middle of an epoch of a slice network."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds_left: float

    def __str__(self) -> str:
        left = format_duration(self.seconds_left)
        return f"step {self.step}/{self.steps} of epoch {self.epoch}: loss {self.loss:.4f}, {left} left"


@dataclass(frozen=True)
class EpochMessage:
    """A finished and saved epoch of a slice network."""

    epoch: int
    epochs: int
    loss: float
    inner_loss: float | None
    learning_rate: float
    slices_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        inner = "" if self.inner_loss is None else f", inner loss {self.inner_loss:.4f}"
        return (
            f"epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}{inner}, learning rate {self.learning_rate:.2g}, "
            f"{self.slices_per_second:.3g} slices/s, {format_duration(self.seconds_left)} left"
        )


@dataclass(frozen=True)
class ExamEpochMessage:
    """A finished epoch of an exam network."""

    kind: str
    epoch: int
    epochs: int
    loss: float

    def __str__(self) -> str:
        return f"{self.kind} epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}"


@dataclass(frozen=True)
class DoneMessage:
    """The end of a job, with the results of its networks."""

    summary: str

    def __str__(self) -> str:
        return f"done: {self.summary}"


Message = StepMessage | EpochMessage | ExamEpochMessage | DoneMessage
#: Receives the messages of a job.
Report = Callable[[Message], None]

_EVENTS: dict[str, type[Message]] = {
    "step": StepMessage,
    "epoch": EpochMessage,
    "exam_epoch": ExamEpochMessage,
    "done": DoneMessage,
}
_NAMES = {message: event for event, message in _EVENTS.items()}


def print_text(message: Message) -> None:
    """Print a message for people."""
    say(str(message))


def print_json(message: Message) -> None:
    """Print a message as a JSON line, for `parse_message`.

    In one call and on a line of its own, because other output of the process may end without a new line.
    """
    sys.stdout.write(f"\n{json.dumps({'event': _NAMES[type(message)], **asdict(message)})}\n")
    sys.stdout.flush()


def parse_message(line: str) -> Message | None:
    """Parse a line of a job's output; None if it is not a progress message."""
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
        return _EVENTS[fields.pop("event")](**fields)
    except (ValueError, KeyError, TypeError):
        return None


def format_duration(seconds: float) -> str:
    """Format a duration with a suitable unit: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size * 2 or (unit == "h" and seconds >= size):
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
