"""Progress of the training jobs of a run: a bar on a terminal, elsewhere a line per epoch and at least every 30 s."""

import threading
import time
from types import TracebackType

from tqdm import tqdm

from models.progress_messages import EpochMessage, ExamEpochMessage, Message, StepMessage
from pipeline.console import SECONDS_PER_LINE, progress_visible, say


class JobProgress:
    """Receives the messages of all jobs, from several threads. A context manager.

    Args:
        jobs: Number of jobs.
        epochs: Epochs of all slice networks.
    """

    def __init__(self, jobs: int, epochs: int) -> None:
        self._jobs, self._finished = jobs, 0
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._said = self._started = time.monotonic()
        self._bar = tqdm(total=epochs, unit="epoch", desc="models", disable=not progress_visible(), leave=False)
        self._reminder = threading.Thread(target=self._remind, daemon=True)

    def __enter__(self) -> "JobProgress":
        if not progress_visible():
            self._reminder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._reminder.ident:
            self._reminder.join()
        self._bar.close()

    def started(self, job: str) -> None:
        """Record that a job has started."""
        with self._lock:
            self._running[job] = "starting"

    def message(self, job: str, message: Message) -> None:
        """Record a message of a job."""
        with self._lock:
            self._running[job] = str(message)
            if isinstance(message, StepMessage | EpochMessage):
                self._bar.set_postfix_str(f"{job}: {message}")
            if isinstance(message, EpochMessage):
                self._bar.update()
            if isinstance(message, EpochMessage | ExamEpochMessage) and not progress_visible():
                self._say(f"{job}: {message}")

    def finished(self, job: str, line: str | None = None) -> None:
        """Record that a job has ended, and print its results."""
        with self._lock:
            del self._running[job]
            self._finished += 1
            if line:
                self._say(f"{job}: {line}")

    def status(self) -> str:
        """Finished and running jobs in one line."""
        running = "; ".join(f"{job}: {state}" for job, state in self._running.items())
        minutes = (time.monotonic() - self._started) / 60
        return f"models: {self._finished} of {self._jobs} jobs finished in {minutes:.1f} min; {running}"

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        say(line)

    def _remind(self) -> None:
        """Print the status whenever nothing was printed for a while."""
        while not self._ended.wait(SECONDS_PER_LINE / 10):
            with self._lock:
                if time.monotonic() - self._said > SECONDS_PER_LINE * 0.9:
                    self._say(self.status())
