"""`./run.sh doctor`: the machine, the environment and the products in one screen, for bug reports."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pipeline import environment, needs, paths, plan
from pipeline.settings import Settings

LIBRARIES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "lightgbm",
    "scikit-learn",
    "numpy",
    "pandas",
    "pydicom",
    "blosc2",
)


def examine(settings: Settings, venv: Path) -> tuple[list[str], list[str]]:
    """Look at everything a run depends on.

    Returns:
        The facts as lines, and the faults (empty when all is well).
    """
    kind = environment.device()
    lock, weights = environment.lock_file(kind), paths.CHECKOUT / environment.WEIGHTS_LOCK
    faults = [] if environment.is_current(venv, lock) else environment.lacks(venv, kind)
    lines = [
        f"{'system':<13} {platform.platform()}, {_cores()} cores, {_memory_gb():.0f} GB memory",
        f"{'python':<13} {platform.python_version()} at {sys.executable}",
        f"{'device':<13} {kind}{_cards()}",
        f"{'environment':<13} {_fitness(venv, lock)}",
        f"{'weights':<13} {_fitness(paths.weights() / 'wheels', weights)}",
        f"{'libraries':<13} {_libraries()}",
        f"{'products':<13} {paths.root()}, {_free_gb():.0f} GB free",
    ]
    need_lines, need_faults = _needs(settings, kind)
    lines += need_lines
    for stage, directories in plan.product_directories(settings).items():
        lines += [_product_line(stage, directory) for directory in directories]
    return lines, faults + need_faults


def _needs(settings: Settings, kind: str) -> tuple[list[str], list[str]]:
    """What the run will take of disk and memory, and what of it is not there."""
    slices = needs.count_slices(settings)
    if slices is None:
        return [], [f"{settings.data_root}: no train.csv and test.csv; --data expects a contest tree"]
    disk = needs.disk_bytes(settings, slices)
    # What lies there already need not fit again.
    stages = plan.product_directories(settings)
    open_disk = sum(
        size for stage, size in disk.items() if any(plan.state(each) != "finished" for each in stages[stage])
    )
    memory = needs.memory_bytes(settings, _cores()) if kind == "cpu" else 0
    parts = ", ".join(f"{stage} {needs.told(size)}" for stage, size in disk.items() if size)
    lines = [
        f"{'needs':<13} {slices:,} slices: {parts} of disk" + (f", {needs.told(memory)} of memory" if memory else "")
    ]
    faults = []
    if open_disk > _free_gb() * 1e9:
        faults.append(
            f"disk: about {needs.told(open_disk)} needed at {paths.root()}, {_free_gb():.0f} GB free; "
            "PE_ROOT moves the products, features.spacing_mm shrinks the store"
        )
    if memory > _memory_gb() * 1e9:
        faults.append(
            f"memory: about {needs.told(memory)} needed, {_memory_gb():.0f} GB there; --set models.workers=1 trains "
            "one network at a time"
        )
    return lines, faults


def _product_line(stage: str, directory: Path) -> str:
    seconds = plan.wall_seconds(directory)
    took = "" if seconds is None else f" in {seconds:.0f} s"
    return f"  {stage:<11} {paths.shown(directory)}: {plan.state(directory)}{took}"


def _fitness(directory: Path, lock: Path) -> str:
    state = "current" if environment.is_current(directory, lock) else "absent or stale; ./run.sh sets it up"
    return f"{paths.shown(directory)} against {lock.name}: {state}"


def _libraries() -> str:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or "none in this Python"


def _cards() -> str:
    if not shutil.which("nvidia-smi"):
        return " (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    if answer.returncode:
        return " (nvidia-smi fails)"
    return f" ({'; '.join(answer.stdout.strip().splitlines())})"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _free_gb() -> float:
    root = paths.root()
    return shutil.disk_usage(next(each for each in [root, *root.parents] if each.exists())).free / 1e9
