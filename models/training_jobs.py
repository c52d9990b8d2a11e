"""Runs the (backbone, fold) jobs: each in its own process, as many at a time as the machine feeds."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tqdm import tqdm

from models.backbones import weights_fault
from models.check_recipe import check_recipes
from models.learning_curves import draw_overview
from models.slice_runs import job_artifacts
from pipeline import paths
from pipeline.cluster import scheduler
from pipeline.console import say, watched
from pipeline.errors import UserError
from pipeline.files import read_table
from pipeline.jobs import cores, run_jobs
from pipeline.settings import Settings

#: Else the first of several jobs on a GPU takes all of its memory; on a CPU they mean nothing.
_SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Job(NamedTuple):
    """One network to train."""

    backbone: str
    fold: int

    @property
    def log(self) -> Path:
        """Everything that the job prints."""
        return paths.logs() / f"models-{self.backbone}-fold{self.fold}.log"


class Slots(NamedTuple):
    """How jobs share a machine.

    Attributes:
        devices: a slot's CUDA_VISIBLE_DEVICES each ("": no GPU may be used); None: as it is.
        threads: of each job.
    """

    devices: tuple[str | None, ...]
    threads: int

    def variables(self, device: str | None) -> dict[str, str]:
        """The environment of a job in a slot with this device."""
        shared = _SHARED_GPU if self.devices.count(device) > 1 else {}
        chosen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        return {**shared, **os.environ, **chosen, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}


def train_all(settings: Settings, experiment: list[str], *, force: bool) -> None:
    """Train every (backbone, fold) that is not up to date.

    Args:
        settings: the experiment.
        experiment: the command-line arguments that led to these settings, handed on to the jobs.
        force: train even what is up to date.

    Raises:
        UserError: recipes that cannot be trained, weights that are not there, or failed jobs, each with its log; all
            of a kind at once.
    """
    jobs = [Job(backbone, fold) for backbone in settings.models.backbones for fold in range(settings.input.folds)]
    check_recipes(settings.models)
    waiting = [job for job in jobs if not all([each.is_current(force=force) for each in job_artifacts(settings, *job)])]
    if not waiting:
        return
    to_train = [job for job in waiting if force or job_artifacts(settings, *job)[0].stale_reason()]  # the slice network
    faults = [weights_fault(job.backbone, settings.models.of(job.backbone).weights) for job in to_train]
    if any(faults):
        raise UserError.listing("Weights to start from are not there:", dict.fromkeys(filter(None, faults)))
    arguments = [*experiment, *(["--force"] if force else [])]
    if scheduler():
        faults = _run_on_cluster(waiting, arguments)
        _draw_overview(settings)
        _tell(faults)
        return
    slots = share_machine(settings.models.workers, len(jobs))
    say(f"models: {len(waiting)} networks to train, {len(slots.devices)} at a time, {slots.threads} threads each")
    free: SimpleQueue = SimpleQueue()
    for device in slots.devices:
        free.put(device)
    with (
        tqdm(total=sum(settings.models.of(job.backbone).epochs for job in waiting), unit="epoch", desc="models",
             disable=not watched(), leave=False) as bar,
        ThreadPoolExecutor(len(slots.devices)) as pool,
    ):  # fmt: skip
        faults = list(pool.map(lambda job: _run(job, arguments, slots, free, bar), waiting))
    _draw_overview(settings)
    _tell(faults)


def _run_on_cluster(jobs: list[Job], arguments: list[str]) -> list[str | None]:
    """Train on the workers of a Dask cluster, a job a thread; they see the same files under the same paths."""
    say(f"models: {len(jobs)} networks to train on {scheduler()}")
    names = ("PE_ROOT", "KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "PYTHONHASHSEED")
    variables = {name: os.environ[name] for name in names if name in os.environ} | {"PE_ROOT": str(paths.root())}
    tasks = [(job, arguments, variables, str(Path.cwd())) for job in jobs]
    return list(run_jobs(_run_there, tasks, what="models", unit="network"))


def _run_there(job: Job, arguments: list[str], variables: dict[str, str], folder: str) -> str | None:
    """Runs on a worker: one job, with this worker's share of its machine's cores."""
    from distributed import get_worker

    os.environ.update(variables)
    os.chdir(folder)
    jobs = get_worker().state.nthreads
    slots = Slots((None,) * jobs, max(1, cores() // jobs))  # the worker's own CUDA_VISIBLE_DEVICES stays
    free: SimpleQueue = SimpleQueue()
    free.put(None)
    with tqdm(disable=True) as bar:
        return _run(job, arguments, slots, free, bar)


def _tell(faults: list[str | None]) -> None:
    faults = [fault for fault in faults if fault]
    if faults:
        raise UserError.listing(
            "Training failed:", faults, "Finished networks and epochs are kept; the same command resumes."
        )


def _draw_overview(settings: Settings) -> None:
    """Draw the learning curves of all finished runs."""
    runs = [(name, fold) for name in settings.models.networks for fold in range(settings.input.folds)]
    tables = {(name, fold): paths.model_run(name, fold) / "history.csv" for name, fold in runs}
    histories = {f"{name}/fold{fold}": read_table(file) for (name, fold), file in tables.items() if file.is_file()}
    if histories:
        draw_overview(paths.learning_curves(), histories)
        say(f"models: learning curves of {len(histories)} runs: {paths.shown(paths.learning_curves())}")


def share_machine(workers: int, jobs: int) -> Slots:
    """Decide how many jobs run at a time and with how many threads.

    Depends on the machine and the number of all jobs, not on how many are left, so a resumed
    run trains with the same number of threads (on which sums depend).

    Args:
        workers: wanted jobs at a time; 0: one a GPU, without a GPU one a core (two networks of
            one thread train a third faster than one of two threads).
        jobs: all jobs of the experiment.
    """
    gpus = gpus_to_use()
    count = max(1, min(workers or len(gpus) or cores(), jobs))
    devices = gpus or ("" if os.environ.get("PE_DEVICE") == "cpu" else None,)
    return Slots(tuple(devices[slot % len(devices)] for slot in range(count)), max(1, cores() // count))


def gpus_to_use() -> tuple[str, ...]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them; none under PE_DEVICE=cpu.

    Of the cards that nvidia-smi lists, all, or those that CUDA_VISIBLE_DEVICES names where it is set: numbers, or
    "GPU-..." and "MIG-..."; as for CUDA itself, what follows a name of another kind does not count.
    """
    if os.environ.get("PE_DEVICE") == "cpu" or not shutil.which("nvidia-smi"):
        return ()
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    cards = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")] if not listing.returncode else []
    numbers = [str(number) for number in range(len(cards))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not cards:
        return tuple(numbers)
    named = (name.strip() for name in visible.split(","))
    return tuple(takewhile(lambda name: name in numbers or name.startswith(("GPU-", "MIG-")), named))


def _run(job: Job, arguments: list[str], slots: Slots, free: SimpleQueue, bar: tqdm) -> str | None:
    """Run one job in a process of its own, on a free device; what went wrong, or None."""
    device = free.get()
    command = [
        sys.executable, "-m", "models", "fold", "--backbone", job.backbone, "--fold", str(job.fold),
        "--threads", str(slots.threads), "--end-with-parent", *arguments,
    ]  # fmt: skip
    environment = slots.variables(device)
    environment.pop("PE_PROGRESS", None)  # a bar of its own would only fill the log
    job.log.parent.mkdir(parents=True, exist_ok=True)
    last, started = "", time.monotonic()
    try:
        with job.log.open("w") as log, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:  # fmt: skip
            for line in process.stdout:
                log.write(line)
                log.flush()
                last = line.strip() or last
                bar.update(line.startswith("epoch "))
                if line.startswith(("epoch ", "step ")):
                    bar.set_postfix_str(f"{job.backbone} fold {job.fold}: {line.strip()}")
    finally:
        free.put(device)
    if process.returncode:
        return f"{job.backbone} fold {job.fold} (exit {process.returncode}): {last}; log: {paths.shown(job.log)}"
    say(f"models/{job.backbone}/fold{job.fold}: {last.removeprefix('done: ')}, {time.monotonic() - started:.0f} s")
    return None
