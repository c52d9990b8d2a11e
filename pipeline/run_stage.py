"""Run one stage of the main job: `python -m pipeline.run_stage STAGE VERB [options of run.sh]`; standard library only.

The stage's output is shown and appended to logs/STAGE.log. After a failure the stage, its log and the command that
resumes are printed.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from pipeline import paths
from pipeline.cli import experiment_options, run
from pipeline.front_door import STAGES, parse, selected_stages


def main() -> int:
    """Run a stage if it is selected; return its status."""
    stage, verb, *words = sys.argv[1:]
    arguments = parse(words)
    if stage not in selected_stages(arguments):
        return 0
    command = [stage, verb, *experiment_options(arguments), *(["--force"] if arguments.force else [])]
    log = paths.logs() / f"{stage}.log"
    status = run_logged(command, log)
    if status:
        print("\n".join(_failure(stage, status, arguments, log)), file=sys.stderr)
    return status


def run_logged(command: list[str], log: Path) -> int:
    """Run a stage's command, show its output and append it to a log.

    Of a progress bar only the last state is logged. The process inherits the lock of run.sh, so that a run waits for
    a stage that outlived a killed one.

    Args:
        command: stage, verb and options.
        log: the log file.

    Returns:
        The exit status; 128 plus the signal's number if a signal ended it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    python = os.environ.get("PE_PYTHON") or sys.executable
    # An interrupt from the keyboard reaches the stage too. It ends first, and its last lines are still logged.
    signal.signal(signal.SIGINT, lambda *_: None)
    with log.open("ab") as file:
        file.write(f"== {time.strftime('%F %T')} ./run.sh {shlex.join(command)}\n".encode())
        file.flush()
        with subprocess.Popen(
            [python, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=False,
            env={**os.environ, **_terminal_variables()},
        ) as process:  # fmt: skip
            if process.stdout:
                _copy(process.stdout, file)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _copy(output: IO[bytes], log: IO[bytes]) -> None:
    """Copy a stage's output to stdout at once, and line by line to the log."""
    line = b""
    while chunk := os.read(output.fileno(), 1 << 16):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        *lines, line = (text.rpartition(b"\r")[2] for text in (line + chunk).split(b"\n"))
        log.writelines(finished + b"\n" for finished in lines)
        log.flush()
    if line:
        log.write(line + b"\n")


def _terminal_variables() -> dict[str, str]:
    """Describe the terminal to the stage, which writes to a pipe and cannot look."""
    if not sys.stdout.isatty():
        return {}
    size = os.get_terminal_size(sys.stdout.fileno())
    return {"PE_PROGRESS": "1", "LINES": str(size.lines or 24), "COLUMNS": str(size.columns or 80)}


def _failure(stage: str, status: int, arguments: argparse.Namespace, log: Path) -> list[str]:
    """What failed and how to resume; without --force, so that partial work is kept."""
    run_sh = [os.environ.get("PE_RUN_SH", "./run.sh"), *experiment_options(arguments)]
    to = ["--to", arguments.last] if arguments.last != STAGES[-1] else []
    lines = [] if status == 130 else [f"error: the stage '{stage}' failed (status {status}). Log: {log}"]
    lines.append(f"Finished work is kept. Resume: {shlex.join([*run_sh, '--from', stage, *to])}")
    if arguments.force and stage != arguments.last:
        following = STAGES[STAGES.index(stage) + 1]
        lines.append(f"Then rebuild the later stages: {shlex.join([*run_sh, '--from', following, *to, '--force'])}")
    return lines


if __name__ == "__main__":
    run(main)
