"""Limits of containers, a hanging nvidia-smi, and file systems without locks."""

import errno
import fcntl
import time
from pathlib import Path

import pytest

from pipeline import machine
from pipeline.errors import UserError
from pipeline.file_lock import locked


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch):
    """Simulate the cgroups of this process: lines of /proc/self/cgroup, and files below the mount."""

    def make(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "cgroup")
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "mount")
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    return make


@pytest.mark.parametrize(
    ("membership", "files", "cores", "memory"),
    [
        ("0::/\n", {"cpu.max": "250000 100000", "memory.max": "1000000"}, 3, 1_000_000),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 1, None),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000", "memory.max": "2000000"}, 1, 2_000_000),
        (
            "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "memory/docker/x/memory.limit_in_bytes": "3000000",
            },
            4, 3_000_000,
        ),
        (
            "4:cpu:/\n3:memory:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            16, None,
        ),
        ("", {}, 16, None),
    ],
    ids=["v2", "v2 parent", "v2 namespace", "v1", "v1 without limits", "none"],
)  # fmt: skip
def test_the_limits_of_a_container_count(cgroups, membership, files, cores, memory):
    cgroups(membership, files)
    assert machine.cores() == cores
    if memory:
        assert machine.memory_bytes() == memory
    else:
        assert machine.memory_bytes() > 100_000_000


def write_program(folder: Path, text: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(("text", "expected"), [("echo GPU 0: a card", "GPU 0: a card"), ("echo failed; exit 9", "")])
def test_nvidia_smi_is_run(tmp_path, monkeypatch, text, expected):
    write_program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    machine.nvidia_smi.cache_clear()
    assert machine.nvidia_smi("-L") == expected


def test_a_hanging_nvidia_smi_is_given_up(tmp_path, monkeypatch):
    write_program(tmp_path, "exec sleep 30")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(machine, "NVIDIA_SMI_S", 0.2)
    machine.nvidia_smi.cache_clear()
    started = time.monotonic()
    with pytest.raises(UserError, match="No answer from nvidia-smi within 0.2 s"):
        machine.nvidia_smi("-L")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_the_work_goes_on_with_a_warning(tmp_path, monkeypatch, capsys, code):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "new" / ".lock") as is_mine:
        assert is_mine
    assert "No file locks at" in capsys.readouterr().err


def test_a_lock_excludes_another_holder(tmp_path):
    with locked(tmp_path / ".lock"), locked(tmp_path / ".lock", wait=False) as is_mine:
        assert not is_mine
