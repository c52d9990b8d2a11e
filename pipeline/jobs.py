"""Independent jobs spread over processes: joblib at home, Dask on a cluster (see pipeline.cluster).

A job is a module-level function called with picklable arguments; what it makes, it writes
atomically, so a rerun or a duplicate is harmless.
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

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Let the kernel end this process when its starter is killed, so that a rerun meets no second writer (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def cores() -> int:
    """The cores that this process may use (respects taskset and cgroups' cpusets)."""
    return len(os.sched_getaffinity(0))


def run_jobs(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    *,
    what: str,
    unit: str = "exam",
    workers: int = 0,
    reads: Path | None = None,
) -> Iterator[Any]:
    """Run `function(*argument)` for every argument; yield results in the order of `arguments`.

    Args:
        function: a module-level function.
        arguments: one tuple a job.
        what: the name on the progress bar.
        unit: what one job is called on the bar.
        workers: processes on this machine; 0 means one a core.
        reads: a folder that the jobs read; of a cluster, every machine must see it.

    Raises:
        UserError: a cluster that is not there or cannot take the work (see pipeline.cluster).
    """
    arguments = list(arguments)
    if scheduler():
        results = run_on_cluster(function, arguments, reads=reads)
    else:
        workers = min(workers or cores(), max(1, len(arguments)))
        jobs = (delayed(_run_in_worker)(os.getpid(), function, each) for each in arguments)
        results = Parallel(n_jobs=workers, return_as="generator")(jobs)
    yield from progress(results, what=what, total=len(arguments), unit=unit)


def _run_in_worker(starter: int, function: Callable[..., Any], argument: tuple) -> Any:
    if os.getppid() == starter:  # not the starter itself (one worker)
        end_with_parent()
    return function(*argument)
