"""Training jobs: one process per (backbone, fold), as many at a time as the machine can run."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from models.backbones import weights_fault
from models.check_recipe import check_recipes
from models.device import SHARED_GPU_VARIABLES, unused_gpu_reason, visible_gpus
from models.job_progress import JobProgress
from models.learning_curves import draw_overview
from models.network_artifacts import job_artifacts
from models.network_names import network_names
from models.progress_messages import DoneMessage, parse_message
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
    """Run jobs on this machine; return the fault of each job, or None."""
    say(f"models: training {len(jobs)} networks, {len(slots.devices)} at a time, {slots.threads} threads each")
    if any(slots.devices) and (reason := run_isolated(unused_gpu_reason)):
        say(f"models: {reason}")
    free_devices: SimpleQueue = SimpleQueue()
    for device in slots.devices:
        free_devices.put(device)
    epochs = sum(settings.models.of(job.backbone).epochs for job in jobs)
    with JobProgress(len(jobs), epochs) as progress, ThreadPoolExecutor(len(slots.devices)) as pool:
        return list(pool.map(lambda job: _run(job, arguments, slots, free_devices, progress), jobs))


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
    free_devices: SimpleQueue = SimpleQueue()
    free_devices.put(None)
    with JobProgress(1, 0) as progress:
        return _run(job, arguments, slots, free_devices, progress)


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


def _run(
    job: Job, arguments: list[str], slots: Slots, free_devices: SimpleQueue, progress: JobProgress
) -> str | None:  # fmt: skip
    """Run one job in a process of its own, on a free device; return its fault, or None."""
    device = free_devices.get()
    command = [
        sys.executable, "-m", "models", "fold", "--backbone", job.backbone, "--fold", str(job.fold),
        "--threads", str(slots.threads), "--end-with-parent", "--progress", "json", *arguments,
    ]  # fmt: skip
    environment = slots.variables(device)
    environment.pop("PE_PROGRESS", None)  # a progress bar of the job would only fill the log
    started = time.monotonic()
    progress.started(job.title)
    result = None
    try:
        status, last_line, summary = _run_logged(job, command, environment, progress)
        if not status:
            result = f"{summary or 'up to date'}, {time.monotonic() - started:.0f} s"
    finally:
        progress.finished(job.title, result)
        free_devices.put(device)
    if status:
        return f"{job.backbone} fold {job.fold} (exit {status}): {last_line}; log: {paths.shown(job.log)}"
    return None


def _run_logged(
    job: Job, command: list[str], environment: dict[str, str], progress: JobProgress
) -> tuple[int, str, str]:  # fmt: skip
    """Run a job's command: write its output to its log, and its progress messages as text, and report them.

    Returns:
        Exit status, last line of the log or the whole error message, and the summary of the results ("" if there is
        none).
    """
    last_line = summary = ""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("w") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            message = parse_message(line)
            log.write(f"{message}\n" if message else line)
            log.flush()
            if last_line.startswith("error: "):
                last_line = f"{last_line} {line.strip()}"  # an error lists faults in several lines
            else:
                last_line = (str(message) if message else line.strip()) or last_line
            if message:
                progress.message(job.title, message)
            if isinstance(message, DoneMessage):
                summary = message.summary
    return process.returncode, last_line, summary
