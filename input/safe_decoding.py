"""Decode untrusted files in worker processes, so that a crash or a hang never ends the run.

Every exam is one job in a worker process with a time limit. When its worker dies, hangs or raises, each of its
files is decoded alone. Files that fail there are reported, and the exam is decoded again without them.
"""

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from input.archive import source_files
from input.dicom import Series, read_series
from input.slice_errors import DicomError
from input.slice_file import read_plane
from pipeline.errors import UserError
from pipeline.machine import cores

#: Workers are replaced after this many jobs, so that memory leaks of decoders do not accumulate.
JOBS_PER_WORKER = 200
#: Jobs per worker that are submitted before the first result is read; more would only use memory.
JOBS_AHEAD = 4
EXAM_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ExamJob:
    """One exam to decode; `files` are the files that its function will read."""

    name: str
    files: tuple[Path, ...]
    payload: Any = None  # further input of the function; picklable


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the job.
        value: what the function returned; None after a fault.
        fault: why there is no value; "" when there is one.
        bad_files: files that crashed or hung their decoder and were left out -> reason.
    """

    job: ExamJob
    value: Any = None
    fault: str = ""
    bad_files: dict[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name


def decode_file(path: Path) -> None:
    """Decode one file. A DicomError is ignored: the exam's function handles it."""
    try:
        read_plane(path)
    except DicomError:
        return


def decode_exams(
    jobs: Iterable[ExamJob],
    function: Callable[[ExamJob, dict[Path, str]], Any],
    *,
    workers: int = 0,
    timeout_s: float = EXAM_TIMEOUT_S,
    file_timeout_s: float = 60.0,
    try_file: Callable[[Path], None] = decode_file,
) -> Iterator[Outcome]:
    """Run `function(job, bad_files)` for every exam; yield one outcome per job, in the order of `jobs`.

    Args:
        jobs: the exams; consumed lazily, so memory does not grow with their number.
        function: a module-level function. It must skip the files in `bad_files` (empty at the first attempt) and
            handle DicomErrors itself.
        workers: number of processes; 0 means one per core.
        timeout_s: time limit of one exam, seconds.
        file_timeout_s: time limit of one file that is decoded alone, seconds.
        try_file: a module-level function that decodes one file alone.

    Raises:
        UserError: `function` raised it. Other exceptions become faults of the outcome.
    """
    jobs, workers = iter(jobs), workers or cores()
    first_jobs = list(itertools.islice(jobs, JOBS_AHEAD * workers))
    # Workers are spawned: a fork would copy locks held by threads of the parent.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=min(workers, max(1, len(first_jobs))), max_tasks=JOBS_PER_WORKER, context=context)

    def start(job: ExamJob, bad_files: dict[Path, str]) -> Any:
        return pool.schedule(function, args=(job, bad_files), timeout=timeout_s)

    try:
        running = deque((job, start(job, {})) for job in first_jobs)
        while running:
            job, future = running.popleft()
            value, fault = _result(future, timeout_s)
            running.extend((next_job, start(next_job, {})) for next_job in itertools.islice(jobs, 1))
            bad_files: dict[Path, str] = {}
            if fault:
                bad_files = _bad_files(pool, job.files, try_file, file_timeout_s)
                value, fault = _result(start(job, bad_files), timeout_s)
            yield Outcome(job, value, fault, bad_files)
    finally:
        pool.stop()
        pool.join()


def read_series_safely(source: Path, *, timeout_s: float = EXAM_TIMEOUT_S, file_timeout_s: float = 60.0) -> Series:
    """Run `input.dicom.read_series` in a worker process; files that crash or hang it are quarantined.

    Args:
        source: a folder or a zip archive.
        timeout_s: time limit of the series, seconds.
        file_timeout_s: time limit of one file that is decoded alone, seconds.

    Raises:
        UserError: no usable series.
    """
    job = ExamJob(str(source), tuple(source_files(source)[0]))
    (outcome,) = decode_exams([job], _read_series_job, workers=1, timeout_s=timeout_s, file_timeout_s=file_timeout_s)
    if outcome.fault:
        raise UserError(f"{source}: cannot be decoded: {outcome.fault}")
    return outcome.value


def _read_series_job(job: ExamJob, bad_files: dict[Path, str]) -> Series:
    return read_series(Path(job.name), without=bad_files)


def _bad_files(
    pool: ProcessPool, files: tuple[Path, ...], try_file: Callable[[Path], None], timeout_s: float
) -> dict[Path, str]:
    """Try every file alone; return those that crash or hang their decoder, with the reason."""
    futures = [(path, pool.schedule(try_file, args=(path,), timeout=timeout_s)) for path in files]
    faults = ((path, _result(future, timeout_s)[1]) for path, future in futures)
    return {path: fault for path, fault in faults if fault}


def _result(future: Any, timeout_s: float) -> tuple[Any, str]:
    """Return the value of a future and "", or None and the fault."""
    try:
        return future.result(), ""
    except (UserError, KeyboardInterrupt, CancelledError):
        raise
    except TimeoutError:
        return None, f"timed out after {timeout_s:g} s"
    except ProcessExpired as fault:
        return None, f"decoder process died with exit code {fault.exitcode}"
    except BaseException as fault:  # a panic of a Rust decoder is not an Exception
        return None, f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
