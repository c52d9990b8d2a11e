"""Independent jobs in parallel processes: joblib on this machine, Dask on a cluster (see pipeline.cluster).

A job is a module-level function called with picklable arguments. It writes its outputs atomically, so that a rerun or
a duplicate is harmless.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from pipeline.cluster import run_on_cluster, scheduler
from pipeline.console import progress
from pipeline.machine import cores

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, so that a rerun has no second writer (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def run_jobs(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    *,
    desc: str,
    unit: str = "exam",
    workers: int = 0,
    reads: Path | None = None,
) -> Iterator[Any]:
    """Run `function(*argument)` for every argument.

    Args:
        function: a module-level function.
        arguments: one tuple per job.
        desc: text before the progress bar.
        unit: name of one job on the progress bar.
        workers: processes on this machine; 0 means one per core.
        reads: a folder that the jobs read; on a cluster, every machine must see it.

    Yields:
        The results, in the order of `arguments`.

    Raises:
        UserError: no cluster at the scheduler's address, or workers that cannot run the jobs (see pipeline.cluster).
    """
    arguments = list(arguments)
    if scheduler():
        results = run_on_cluster(function, arguments, reads=reads)
    else:
        workers = min(workers or cores(), max(1, len(arguments)))
        jobs = (delayed(_run_in_worker)(os.getpid(), function, argument) for argument in arguments)
        results = Parallel(n_jobs=workers, return_as="generator")(jobs)
    yield from progress(results, desc=desc, total=len(arguments), unit=unit)


def _run_in_worker(parent: int, function: Callable[..., Any], argument: tuple) -> Any:
    if os.getppid() == parent:  # with one worker, joblib calls this in the parent itself
        end_with_parent()
    return function(*argument)
