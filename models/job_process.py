"""A process that trains networks one after another: they share its imports, and folds share a compiled network."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from models.progress_messages import DoneMessage, Message, parse_message


class JobEnd(NamedTuple):
    """How a job ended.

    Attributes:
        summary: Summary of the results; None if the job failed.
        fault: Exit status of the process and the last line of the log, or the whole error message; empty if it
            did not fail.
    """

    summary: str | None
    fault: str = ""


class JobProcess:
    """Runs the jobs named on its standard input. A context manager.

    The process starts with its first job. If a job fails, the process ends, and the next job starts another one.

    Args:
        command: Command of the process: `models jobs`, or `models fold` for a single job.
        environment: Its environment variables.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "JobProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            if fault:
                self._process.kill()
            self._end(self._process)

    def run(self, job: str, log: Path, report: Callable[[Message], None]) -> JobEnd:
        """Run one job: write its output to its log, and its progress messages as text, and report them.

        Args:
            job: Line that names the job: backbone and fold.
            log: File for the output.
            report: Receives the progress messages.
        """
        process = self._send(job)
        last_line = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            for line in process.stdout or ():
                message = parse_message(line)
                if line == "\n":
                    continue  # before every message
                file.write(f"{message}\n" if message else line)
                file.flush()
                if last_line.startswith("error: "):
                    last_line = f"{last_line} {line.strip()}"  # an error lists faults in several lines
                else:
                    last_line = (str(message) if message else line.strip()) or last_line
                if message:
                    report(message)
                if isinstance(message, DoneMessage):
                    return JobEnd(message.summary)
        self._process = None
        return JobEnd(None, f"(exit {self._end(process)}): {last_line}")

    def _send(self, job: str) -> "subprocess.Popen[str]":
        """Send a job to the process, or to a new one if there is none or it has ended."""
        process = self._process
        if process is None or not _write_line(process, job):
            if process:
                self._end(process)
            process = self._process = self._start()
            _write_line(process, job)  # if it cannot start, its output says why
        return process

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._environment,
        )  # fmt: skip

    @staticmethod
    def _end(process: "subprocess.Popen[str]") -> int:
        """Close the pipes, wait for the process and return its exit status."""
        with suppress(BrokenPipeError), process:
            pass
        return process.wait()


def _write_line(process: "subprocess.Popen[str]", line: str) -> bool:
    """Write a line to a process; return whether it was running."""
    if process.poll() is not None or not process.stdin:
        return False
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True
