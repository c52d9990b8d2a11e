"""Slice networks trained on a Dask cluster, one of whose workers is killed, have the bytes of networks trained here."""

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

from features.build_store import build
from features.clot_masks import build_masks
from input.phantom.synthetic_contest import generate_contest
from input.tables import prepare
from models.training_jobs import train_all
from pipeline import cluster, paths
from pipeline.artifact import MANIFEST
from pipeline.experiments import start
from pipeline.files import sha256
from pipeline.load_settings import load_settings
from pipeline.settings import Settings

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

SMALLEST = "settings/tests.toml"
# One job at a time here, with all cores: as many threads per job as a cluster job on a worker with one thread.
OVERRIDES = (
    'models.backbones=["mobilenetv2"]', "models.weights=none", "models.workers=1", "models.epochs=2",
    "models.used_share=0.2", "models.frozen_share=0.1", "models.exam.kinds=[]",
    "models.height=32", "models.width=32", "models.epoch_slices=32", "phantom.rows=64", "phantom.slices=12",
    "phantom.train_exams=8", "phantom.test_exams=2",
)  # fmt: skip
OPTIONS = [
    "--name", "small", "--settings", SMALLEST, *(word for override in OVERRIDES for word in ("--set", override))
]  # fmt: skip


def select(root: Path, patch: pytest.MonkeyPatch) -> Settings:
    patch.setenv("PE_ROOT", str(root))
    paths.select_experiment("small")
    return load_settings(SMALLEST, overrides=OVERRIDES)


def network_hashes(root: Path) -> dict[str, str]:
    """Path below artifacts/models -> sha256 of every file but the manifests, which contain times."""
    models = root / "artifacts" / "models"
    files = [file for file in sorted(models.rglob("*")) if file.is_file() and file.name != MANIFEST]
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_networks_of_a_cluster_with_a_killed_worker_have_the_bytes_of_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    settings = select(here, monkeypatch)
    start(settings)
    generate_contest(settings.phantom, settings.data_root, force=False, shared=True)
    prepare(settings)
    build(settings)
    build_masks(settings)
    shutil.copytree(here, there, symlinks=True)
    train_all(settings, OPTIONS, force=False)

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
    assert len(network_hashes(here)) >= 2 * 8
    assert network_hashes(there) == network_hashes(here)
