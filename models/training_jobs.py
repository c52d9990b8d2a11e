"""Training jobs: one per (backbone, fold), as many at a time as the machine can run."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from models.backbones import weights_fault
from models.check_recipe import check_recipes
from models.device import SHARED_GPU_VARIABLES, unused_gpu_reason, visible_gpus
from models.job_process import JobProcess
from models.job_progress import JobProgress
from models.learning_curves import draw_overview
from models.network_artifacts import job_artifacts
from models.network_names import network_names
from pipeline import paths
from pipeline.artifact import MANIFEST, verify
from pipeline.cluster import scheduler
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import read_table
from pipeline.isolated_call import run_isolated
from pipeline.jobs import run_jobs
from pipeline.machine import cores
from pipeline.settings import Settings


class Job(NamedTuple):
    """The training of one (backbone, fold)."""

    backbone: str
    fold: int

    @property
    def title(self) -> str:
        """Name of the job in messages."""
        return f"models/{self.backbone}/fold{self.fold}"

    @property
    def log(self) -> Path:
        """File with the output of the job."""
        return paths.logs() / f"models-{self.backbone}-fold{self.fold}.log"


class Slots(NamedTuple):
    """The jobs that run at a time on a machine.

    Attributes:
        devices: CUDA_VISIBLE_DEVICES of each slot ("": no GPU); None leaves the variable unchanged.
        threads: CPU threads of each job.
    """

    devices: tuple[str | None, ...]
    threads: int

    def variables(self, device: str | None) -> dict[str, str]:
        """Return the environment variables of a job in a slot with this device; the user's own have precedence."""
        shared = SHARED_GPU_VARIABLES if self.devices.count(device) > 1 else {}
        visible = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        return {**shared, **os.environ, **visible, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}


def train_all(settings: Settings, experiment: list[str], *, force: bool) -> None:
    """Train every (backbone, fold) that is not up to date.

    Args:
        settings: The experiment.
        experiment: Command-line arguments of these settings, passed on to the jobs.
        force: Train even what is up to date.

    Raises:
        UserError: Invalid recipes, missing weights, or failed jobs with their logs; each time all in one message.
    """
    jobs = [Job(backbone, fold) for backbone in settings.models.backbones for fold in range(settings.input.folds)]
    check_recipes(settings.models)
    stale_jobs = [
        job for job in jobs
        if not all([artifact.is_current(force=force) for artifact in job_artifacts(settings, *job)])
    ]  # fmt: skip
    if not stale_jobs:
        return
    _check_weights(settings, [job for job in stale_jobs if force or job_artifacts(settings, *job)[0].build_reason()])
    _verify_inputs()
    arguments = [*experiment, *(["--force"] if force else [])]
    if scheduler():
        outcomes = _run_on_cluster(stale_jobs, arguments)
    else:
        outcomes = _run_here(settings, stale_jobs, arguments, share_machine(settings.models.workers, len(jobs)))
    _draw_overview(settings)
    faults = [fault for fault in outcomes if fault]
    if faults:
        raise UserError.listing(
            "Training failed:", faults, "Finished networks and epochs are kept. Rerun the same command to resume."
        )


def _verify_inputs() -> None:
    """Compare the files that all jobs read with their manifests, so that a damaged one is one error, not one per job.

    This reads the whole store, as every job does: minutes at contest size, where training takes a day.

    Raises:
        UserError: Lists the files of an artifact that are missing or changed.
    """
    for folder in (paths.prepared(), paths.store(), paths.masks()):
        if (folder / MANIFEST).is_file():
            verify(folder)


def _check_weights(settings: Settings, jobs: list[Job]) -> None:
    """Check the initial weights of slice networks that have to be trained.

    Raises:
        UserError: Lists all missing weights.
    """
    faults = [weights_fault(job.backbone, settings.models.of(job.backbone).weights) for job in jobs]
    distinct_faults = dict.fromkeys(fault for fault in faults if fault)
    if distinct_faults:
        raise UserError.listing("Initial weights are missing:", distinct_faults)


def _run_here(settings: Settings, jobs: list[Job], arguments: list[str], slots: Slots) -> list[str | None]:
    """Run jobs on this machine, in one process per slot; return the fault of each job, or None."""
    say(f"models: training {len(jobs)} networks, {len(slots.devices)} at a time, {slots.threads} threads each")
    if any(slots.devices) and (reason := run_isolated(unused_gpu_reason)):
        say(f"models: {reason}")
    waiting, outcomes = WaitingJobs(jobs), dict[Job, str | None]()
    epochs = sum(settings.models.of(job.backbone).epochs for job in jobs)

    def work(device: str | None) -> None:
        """Run jobs in one process until none waits."""
        with JobProcess(_command(arguments, slots.threads, "jobs"), _environment(slots, device)) as process:
            last = None
            while job := waiting.take(last):
                try:
                    outcomes[job] = _run(job, process, progress)
                except BaseException:  # such as a full disk: no slot may start another job
                    waiting.clear()
                    raise
                last = job

    with JobProgress(len(jobs), epochs) as progress, ThreadPoolExecutor(len(slots.devices)) as pool:
        try:
            list(pool.map(work, slots.devices))
        finally:  # after Ctrl-C, no slot may start another job
            waiting.clear()
    return [outcomes[job] for job in jobs]


class WaitingJobs:
    """Jobs that have not been started; several threads take them.

    Args:
        jobs: In the order in which they are taken, except that a process prefers the backbone that it has compiled,
            and otherwise the one of which the fewest jobs were started.
    """

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = list(jobs)
        self._taken: list[str] = []
        self._lock = threading.Lock()

    def take(self, last: Job | None) -> Job | None:
        """Take the next job of a process, given its last one; None when all have been taken."""
        compiled = last.backbone if last else None
        with self._lock:
            if not self._jobs:
                return None
            job = min(self._jobs, key=lambda job: (job.backbone != compiled, self._taken.count(job.backbone)))
            self._jobs.remove(job)
            self._taken.append(job.backbone)
            return job

    def clear(self) -> None:
        """Forget the jobs that have not been started."""
        with self._lock:
            self._jobs.clear()


def _run_on_cluster(jobs: list[Job], arguments: list[str]) -> list[str | None]:
    """Run jobs on a Dask cluster, one per worker thread; its machines see the same files under the same paths."""
    say(f"models: training {len(jobs)} networks on {scheduler()}")
    names = ("PE_ROOT", "KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "PYTHONHASHSEED")
    variables = {name: os.environ[name] for name in names if name in os.environ} | {"PE_ROOT": str(paths.root())}
    tasks = [(job, arguments, variables, str(Path.cwd())) for job in jobs]
    return list(run_jobs(_run_on_worker, tasks, desc="models", unit="network"))


def _run_on_worker(job: Job, arguments: list[str], variables: dict[str, str], folder: str) -> str | None:
    """Run one job on a Dask worker, with its share of the machine's cores."""
    from distributed import get_worker

    os.environ.update(variables)
    os.chdir(folder)
    jobs = get_worker().state.nthreads
    slots = Slots((None,) * jobs, max(1, cores() // jobs))  # keep the CUDA_VISIBLE_DEVICES of the worker
    command = _command(arguments, slots.threads, "fold", "--backbone", job.backbone, "--fold", str(job.fold))
    with JobProgress(1, 0) as progress, JobProcess(command, _environment(slots, None)) as process:
        return _run(job, process, progress)


def _draw_overview(settings: Settings) -> None:
    """Draw the learning curves of all finished runs."""
    runs = [(name, fold) for name in network_names(settings.models) for fold in range(settings.input.folds)]
    tables = {(name, fold): paths.model_run(name, fold) / "history.csv" for name, fold in runs}
    tables = {title: file for title, file in tables.items() if (file.parent / MANIFEST).is_file()}
    for file in tables.values():
        verify(file.parent, [file.name])
    histories = {f"{name}/fold{fold}": read_table(file) for (name, fold), file in tables.items()}
    if histories:
        draw_overview(paths.learning_curves(), histories)
        say(f"models: learning curves of {len(histories)} runs: {paths.shown(paths.learning_curves())}")


def share_machine(workers: int, jobs: int) -> Slots:
    """Choose the number of jobs at a time and their threads.

    They depend on the machine and the number of all jobs, not on the number of remaining jobs: sums depend on the
    number of threads, and a resumed run must train with the same.

    Args:
        workers: Jobs at a time; 0 means one per GPU, or one per core without a GPU (two networks with one thread each
            train a third faster than one after the other with two threads).
        jobs: Number of all jobs of the experiment.
    """
    gpus = visible_gpus()
    count = max(1, min(workers or len(gpus) or cores(), jobs))
    devices = gpus or ("" if os.environ.get("PE_DEVICE") == "cpu" else None,)
    return Slots(tuple(devices[slot % len(devices)] for slot in range(count)), max(1, cores() // count))


def _command(arguments: list[str], threads: int, *verb: str) -> list[str]:
    """The command of a process that trains networks."""
    options = ["--threads", str(threads), "--end-with-parent", "--progress", "json"]
    return [sys.executable, "-m", "models", *verb, *options, *arguments]


def _environment(slots: Slots, device: str | None) -> dict[str, str]:
    environment = slots.variables(device)
    environment.pop("PE_PROGRESS", None)  # a progress bar of the job would only fill the log
    return environment


def _run(job: Job, process: JobProcess, progress: JobProgress) -> str | None:
    """Run one job in a process; return its fault, or None."""
    started = time.monotonic()
    progress.started(job.title)
    result = None
    try:
        end = process.run(f"{job.backbone} {job.fold}", job.log, lambda message: progress.message(job.title, message))
        if end.summary is not None:
            result = f"{end.summary or 'up to date'}, {time.monotonic() - started:.0f} s"
    finally:
        progress.finished(job.title, result)
    return f"{job.backbone} fold {job.fold} {end.fault}; log: {paths.shown(job.log)}" if end.fault else None
