"""Cores, memory, free disk space and graphics cards that this process may use; standard library only.

In a container the limits of its control group count, not the machine (cgroups v1 and v2).
"""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pipeline.errors import UserError

MEMBERSHIP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: A broken driver lets nvidia-smi wait forever, in a state that no signal ends.
NVIDIA_SMI_S = 5.0


def cores() -> int:
    """Number of CPU cores that this process may use (respects taskset, and the cpusets and quotas of cgroups)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([usable, *(math.ceil(quota) for quota in _cpu_quotas())]))


def memory_bytes() -> int:
    """Memory that this process may use: the physical memory, or the limit of its cgroup."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_memory_limits()])


def free_disk_bytes(path: Path) -> int:
    """Free bytes of the file system that `path` is on, or will be on."""
    return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent folder that exists."""
    return next(folder for folder in [path, *path.parents] if folder.exists())


def _cpu_quotas() -> Iterator[float]:
    """CPU quotas of this process's cgroups and their parents, in cores."""
    for folder in _cgroup_folders("cpu"):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"),
        ]  # fmt: skip
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])  # `max` and -1 are no limit


def _memory_limits() -> Iterator[int]:
    """Memory limits of this process's cgroups and their parents, in bytes (v1: a huge number if unlimited)."""
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _read(folder / name)).isdigit():
                yield int(limit)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups for a controller, and their parents.

    In a container the membership may be a path of the host that is not mounted; the mount point is then the cgroup.
    """
    for line in _read(MEMBERSHIP).splitlines():
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0" and not controllers:
            mount = CGROUPS
        elif controller in controllers.split(","):
            mount = CGROUPS / controllers if (CGROUPS / controllers).is_dir() else CGROUPS / controller
        else:
            continue
        folder = mount / path.strip("/")
        yield from (parent for parent in [folder, *folder.parents] if parent.is_relative_to(mount))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


@lru_cache
def nvidia_smi(*options: str) -> str | None:
    """Run nvidia-smi once.

    Returns:
        Its output; "" if it fails; None if it is not installed.

    Raises:
        UserError: no answer within NVIDIA_SMI_S.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    process = subprocess.Popen([program, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        output, _ = process.communicate(timeout=NVIDIA_SMI_S)
    except subprocess.TimeoutExpired as fault:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process inside a broken driver does not end
            process.wait(1.0)
        if process.stdout:
            process.stdout.close()
        raise UserError(
            f"No answer from nvidia-smi within {NVIDIA_SMI_S:g} s. Expected a list of GPUs. Reload the NVIDIA driver "
            "or restart the machine, or compute without a GPU: PE_DEVICE=cpu"
        ) from fault
    return "" if process.returncode else output.strip()
