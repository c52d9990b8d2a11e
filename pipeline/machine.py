"""Cores, memory and free disk space of this machine; standard library only."""

import os
import shutil
from pathlib import Path


def cores() -> int:
    """Number of CPU cores that this process may use (respects taskset and the cpusets of cgroups)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk_bytes(path: Path) -> int:
    """Free bytes of the file system that `path` is on, or will be on."""
    return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent folder that exists."""
    return next(folder for folder in [path, *path.parents] if folder.exists())
