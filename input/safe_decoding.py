"""Untrusted files are decoded in processes of their own: a crash or a hang costs one exam's attempt, not the run.

Every exam is one job in a worker process with a time limit. When its worker dies, hangs or raises, each
of its files is decoded alone; those that misbehave are named, and the exam runs once more without them.
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
from input.slice_faults import DicomFault
from input.slice_file import read_plane
from pipeline.errors import UserError
from pipeline.jobs import cores

#: Workers are replaced after this many jobs, so that a decoder's leaks do not add up.
JOBS_PER_WORKER = 200
#: So many jobs a worker are handed out before the first result is taken; more only fill memory.
JOBS_AHEAD = 4
EXAM_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ExamJob:
    """One exam to decode; `files` are those that its function will read."""

    name: str
    files: tuple[Path, ...]
    payload: Any = None  # whatever else the function needs; picklable


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a value, or a fault in words; `bad_files` were left out, with the reason."""

    job: ExamJob
    value: Any = None
    fault: str = ""
    bad_files: dict[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name


def decode_file(path: Path) -> None:
    """Decode one file; an ordinary fault is the exam's own business, so it passes."""
    try:
        read_plane(path)
    except DicomFault:
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
    """Run `function(job, bad_files)` for every exam; yield an outcome a job, in the order of `jobs`.

    Args:
        jobs: the exams; drawn from an iterator as they are needed, so memory does not grow with their number.
        function: module-level; it must leave out the files named in `bad_files` (empty at first) and
            quarantine ordinary DicomFaults itself.
        workers: processes; 0 means one a core.
        timeout_s: limit of one exam.
        file_timeout_s: limit of one file that is decoded alone.
        try_file: module-level; what is done with one file alone.

    Raises:
        UserError: one that `function` raised. Other exceptions become faults.
    """
    jobs, workers = iter(jobs), workers or cores()
    first = list(itertools.islice(jobs, JOBS_AHEAD * workers))
    # Workers are spawned: a fork would copy the locks of whatever threads the parent runs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=min(workers, max(1, len(first))), max_tasks=JOBS_PER_WORKER, context=context)

    def start(job: ExamJob, bad_files: dict[Path, str]) -> Any:
        return pool.schedule(function, args=(job, bad_files), timeout=timeout_s)

    try:
        running = deque((job, start(job, {})) for job in first)
        while running:
            job, future = running.popleft()
            value, fault = _result(future, timeout_s)
            running.extend((each, start(each, {})) for each in itertools.islice(jobs, 1))
            bad_files: dict[Path, str] = {}
            if fault:
                bad_files = _bad_files(pool, job.files, try_file, file_timeout_s)
                value, fault = _result(start(job, bad_files), timeout_s)
            yield Outcome(job, value, fault, bad_files)
    finally:
        pool.stop()
        pool.join()


def read_series_safely(source: Path, *, timeout_s: float = EXAM_TIMEOUT_S, file_timeout_s: float = 60.0) -> Series:
    """`input.dicom.read_series` in a process of its own; files that kill or hang it are quarantined.

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
    """The files that kill, hang or break their decoder, each tried alone, with the reason."""
    futures = [(path, pool.schedule(try_file, args=(path,), timeout=timeout_s)) for path in files]
    faults = ((path, _result(future, timeout_s)[1]) for path, future in futures)
    return {path: fault for path, fault in faults if fault}


def _result(future: Any, timeout_s: float) -> tuple[Any, str]:
    """The value of a future, or its fault in words."""
    try:
        return future.result(), ""
    except (UserError, KeyboardInterrupt, CancelledError):
        raise
    except TimeoutError:
        return None, f"hung: no end after {timeout_s:g} s"
    except ProcessExpired as fault:
        return None, f"its process died with exit code {fault.exitcode}"
    except BaseException as fault:  # a panic of a Rust decoder is no Exception
        return None, f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
