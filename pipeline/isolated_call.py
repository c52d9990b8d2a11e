"""Call a function in a separate Python process; unlike multiprocessing, this also works inside a Dask worker.

The function and its arguments are sent to the process as a pickle, and the result is returned as one; both are written
by this module.
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
    """Call a module-level function in a new process, which ends when this process is killed.

    Args:
        function: a module-level function.
        arguments: its positional arguments, picklable.
        timeout_s: kill the process after this many seconds; None: no limit.

    Returns:
        The function's result.

    Raises:
        UserError: raised by the function.
        RuntimeError: the process died or exceeded the time limit, or the function raised another exception (with its
            traceback).
    """
    environment = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    command, call = [sys.executable, "-m", "pipeline.isolated_call"], pickle.dumps((function, arguments))
    try:
        finished = subprocess.run(
            command, input=call, stdout=subprocess.PIPE, env=environment, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as fault:
        raise RuntimeError(f"{function.__name__}: not finished after {timeout_s:g} s") from fault
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
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed text must not mix with the result
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
        result = "value", function(*arguments)
    except UserError as fault:
        result = "user error", str(fault)
    except BaseException:  # a panic of a Rust decoder is not an Exception
        result = "fault", traceback.format_exc()
    with output:
        pickle.dump(result, output)


if __name__ == "__main__":
    _main()
