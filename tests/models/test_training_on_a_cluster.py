"""A network trained on a Dask cluster, one of whose workers is killed, has the bytes of one trained here."""

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import dask
import psutil
import pytest
from distributed import LocalCluster

from models.training_jobs import train_all
from pipeline import cluster
from pipeline.artifact import MANIFEST
from pipeline.files import sha256
from tests.support.small_run import OPTIONS, select

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

#: The only network that is trained on the cluster. Here, it shared a process and a compiled network with fold 0.
NETWORK = "mobilenetv2-fold1-*"


def network_hashes(root: Path) -> dict[str, str]:
    """Path below artifacts/models -> sha256 of every file of the network but its manifest, which contains times."""
    models = root / "artifacts" / "models"
    files = [file for file in sorted(models.glob(f"{NETWORK}/*")) if file.name != MANIFEST]
    return {file.relative_to(models).as_posix(): sha256(file) for file in files}


def kill_in_training(local: LocalCluster, root: Path, killed: list[int]) -> None:
    """Kill the worker of the first job that has finished an epoch, between two epochs of its training."""
    while not killed:
        time.sleep(0.02)
        for checkpoint in root.glob("artifacts/models/*/.checkpoint.npz"):
            fold = checkpoint.parent.name.split("-")[1].removeprefix("fold")
            killed += [worker.pid for worker in local.workers.values() if trains(worker.pid, fold)][:1]
    del killed[1:]
    os.kill(killed[0], signal.SIGKILL)


def trains(pid: int, fold: str) -> bool:
    """Whether a process has started the job of a fold."""
    with suppress(psutil.NoSuchProcess):
        commands = [child.cmdline() for child in psutil.Process(pid).children()]
        return any(words[2:4] == ["models", "fold"] and words[words.index("--fold") + 1] == fold for words in commands)
    return False


@pytest.mark.timeout(900)
def test_a_network_of_a_cluster_with_a_killed_worker_has_the_bytes_of_the_local_one(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    shutil.copytree(small_run, there, symlinks=True, ignore=shutil.ignore_patterns(NETWORK))
    assert network_hashes(there) == {}
    settings = select(there, monkeypatch)
    monkeypatch.setattr(cluster, "CONNECT_S", 60)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "300s"}):
        local = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    killed: list[int] = []
    with local:
        monkeypatch.setenv(cluster.VARIABLE, local.scheduler_address)
        killer = threading.Thread(target=kill_in_training, args=(local, there, killed), daemon=True)
        killer.start()
        train_all(settings, OPTIONS, force=False)
        killer.join(10)
    assert len(killed) == 1
    assert len(network_hashes(small_run)) >= 8
    assert network_hashes(there) == network_hashes(small_run)
