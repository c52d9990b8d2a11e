"""One call in a Python process of its own, from wherever it is made: a Dask worker may not use multiprocessing.

The function and its arguments go to the process as a pickle that this code wrote, the result comes back as one.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

from pipeline import paths
from pipeline.errors import UserError
from pipeline.jobs import end_with_parent


def run_isolated(function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
    """Call a module-level function in a new process, which ends when this one is killed; its result.

    Raises:
        UserError: one that the function raised.
        RuntimeError: the process died or took too long, or the function raised something else; with its traceback.
    """
    environment = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    command, order = [sys.executable, "-m", "pipeline.isolated_call"], pickle.dumps((function, arguments))
    try:
        finished = subprocess.run(
            command, input=order, stdout=subprocess.PIPE, env=environment, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as fault:
        raise RuntimeError(f"{function.__name__}: no end after {timeout_s:g} s") from fault
    if finished.returncode:
        raise RuntimeError(f"{function.__name__}: its process ended with status {finished.returncode}")
    kind, value = pickle.loads(finished.stdout)
    if kind == "user error":
        raise UserError(value)
    if kind == "fault":
        raise RuntimeError(f"{function.__name__} failed in its process:\n{value}")
    return value


def _main() -> None:
    end_with_parent()
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not mix with its result
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
        result = "value", function(*arguments)
    except UserError as fault:
        result = "user error", str(fault)
    except BaseException:  # a panic of a Rust decoder is no Exception
        result = "fault", traceback.format_exc()
    with answer:
        pickle.dump(result, answer)


if __name__ == "__main__":
    _main()
