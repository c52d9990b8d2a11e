"""`./run.sh doctor`: everything that a run depends on, before any long work; all faults at once, each with its mend."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pipeline import environment, needs, paths, plan
from pipeline.settings import Settings

NO_TOOL, TOOL_FAILS = " (no nvidia-smi)", " (nvidia-smi fails)"
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
    # A Python of one's own is used as it is: nothing is set up, so nothing can be lacking for that.
    ready = bool(os.environ.get("PE_PYTHON")) or environment.is_current(venv, lock)
    faults = [] if ready else environment.lacks(venv, kind)
    lines = [
        f"{'system':<13} {platform.platform()}, {plan.cores()} cores, {_memory_gb():.0f} GB memory",
        f"{'python':<13} {platform.python_version()} at {sys.executable}",
        f"{'device':<13} {kind}{_cards()}",
        f"{'environment':<13} {_fitness(venv, lock)}",
        f"{'weights':<13} {_fitness(paths.weights() / 'wheels', weights)}",
        f"{'libraries':<13} {_libraries()}",
        f"{'products':<13} {paths.root()}, {_free_gb():.0f} GB free",
    ]
    faults += _machine_faults(kind, environment.is_current(venv, lock))
    for more_lines, more_faults in (_needs(settings, kind), _tree(settings), _cluster(settings)):
        lines += more_lines
        faults += more_faults
    for stage, directories in plan.product_directories(settings).items():
        lines += [_product_line(stage, directory) for directory in directories]
    return lines, list(dict.fromkeys(faults))


def _machine_faults(kind: str, is_set_up: bool) -> list[str]:
    """Libraries, packages, the GPU and the right to write: what stops a run in its middle."""
    faults = environment.library_faults()
    if (is_set_up or os.environ.get("PE_PYTHON")) and (missing := environment.missing_packages()):
        mend = "install them there" if os.environ.get("PE_PYTHON") else "remove .venv, ./run.sh sets it up anew"
        faults.append(f"packages of {sys.executable}: {', '.join(missing)}; {mend}")
    if kind == "gpu" and _cards() in (NO_TOOL, TOOL_FAILS):
        faults.append(f"a GPU that answers{_cards()}; install the NVIDIA driver, or set PE_DEVICE=cpu")
    home = plan.existing(paths.root())
    if not os.access(home, os.W_OK):
        faults.append(f"the right to write to {home}; set PE_ROOT to a folder of yours")
    return faults


def _tree(settings: Settings) -> tuple[list[str], list[str]]:
    """A contest tree's files against its tables; the check is the input stage's own, in its own process."""
    if settings.is_phantom or not settings.data_root.is_dir():
        return [], [] if settings.is_phantom else [
            f"{settings.data_root}: no such folder; --data expects a contest tree"
        ]
    if environment.missing_packages():
        return [f"{'data':<13} {settings.data_root}: checked after the set-up"], []
    command = [sys.executable, "-m", "input", "check", str(settings.data_root)]
    variables = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    answer = subprocess.run(command, capture_output=True, text=True, cwd=paths.CHECKOUT, env=variables)
    shown = answer.stdout.strip().splitlines()
    faults = [line.removeprefix("  - ") for line in shown if line.startswith("  - ")]
    if answer.returncode not in (0, 1):
        faults.append(f"{settings.data_root}: cannot be checked: {answer.stderr.strip()[-300:]}")
    return [f"{'data':<13} {line}" for line in shown if not line.startswith("  - ")], faults


def _cluster(settings: Settings) -> tuple[list[str], list[str]]:
    """Whether the scheduler answers, and whether its workers see this code and these files."""
    address = os.environ.get("PE_SCHEDULER")
    if not address or environment.missing_packages():
        return [], []
    from pipeline.cluster import connected
    from pipeline.errors import UserError

    try:
        with connected(address, settings.data_root if settings.data_root.is_dir() else None) as client:
            threads = client.ncores()
    except UserError as fault:
        return [], [str(fault)]
    return [f"{'cluster':<13} {address}: {len(threads)} workers, {sum(threads.values())} jobs at a time"], []


def _needs(settings: Settings, kind: str) -> tuple[list[str], list[str]]:
    """What the run will take of disk and memory, and what of it is not there."""
    slices = needs.count_slices(settings)
    if slices is None:
        absent = f"{settings.data_root}: no train.csv and test.csv; --data expects a contest tree"
        return [], [absent] if settings.data_root.is_dir() else []
    disk = needs.disk_bytes(settings, slices)
    # What lies there already need not fit again.
    stages = plan.product_directories(settings)
    open_disk = sum(
        size for stage, size in disk.items() if any(plan.state(each) != "finished" for each in stages[stage])
    )
    memory = needs.memory_bytes(settings, plan.cores()) if kind == "cpu" else 0
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
        return NO_TOOL
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    if answer.returncode:
        return TOOL_FAILS
    return f" ({'; '.join(answer.stdout.strip().splitlines())})"


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _free_gb() -> float:
    return shutil.disk_usage(plan.existing(paths.root())).free / 1e9
