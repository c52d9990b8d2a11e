"""Jobs on a Dask cluster: errors for people, results in order, and the same bytes when a worker is killed."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from distributed import KilledWorker, LocalCluster

import features.build_store
from input.tables import prepare
from pipeline import cluster, paths
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.isolated_call import run_isolated
from pipeline.jobs import run_jobs
from pipeline.settings import FeaturesSettings, InputSettings, Settings
from tests.support.dicom_files import write_tree

LOCAL = {"dashboard_address": None, "threads_per_worker": 1}


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> None:
    raise UserError(f"no {number}")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(cluster, "CONNECT_S", 2)
    return tmp_path / "root"


def test_a_scheduler_that_does_not_answer_is_reported_with_the_commands_that_start_one(root, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    monkeypatch.setenv("PE_SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127.0.0.1:9: no Dask scheduler answers .*run.sh scheduler .*run.sh worker"):
        list(run_jobs(double, [(1,)], desc="x"))


def test_a_scheduler_without_workers_is_reported(root, monkeypatch):
    with LocalCluster(n_workers=0, processes=False, **LOCAL) as local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
        with pytest.raises(UserError, match="the scheduler has no worker. Start one: "):
            list(run_jobs(double, [(1,)], desc="x"))


def test_results_are_in_order_and_exceptions_of_the_function_are_raised(root, monkeypatch):
    with LocalCluster(n_workers=1, processes=False, **LOCAL) as local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        assert list(run_jobs(double, [(number,) for number in range(9)], desc="x")) == list(range(0, 18, 2))
        with pytest.raises(UserError, match="no 4"):
            list(run_jobs(refuse, [(4,)], desc="x"))
        with pytest.raises(UserError, match="does not see /nowhere/rsna. Workers must share the file system"):
            list(run_jobs(double, [(1,)], desc="x", reads=Path("/nowhere/rsna")))
        versions = iter([{}, {"numpy": "0.1"}])  # first the worker's
        monkeypatch.setattr(cluster, "_code_versions", lambda: next(versions))
        with pytest.raises(UserError, match="numpy: expected 0.1 as on this machine, got None"):
            list(run_jobs(double, [(1,)], desc="x"))
    assert list(root.iterdir()) == []  # the file that tests sharing is removed


def test_a_job_whose_workers_keep_dying_fails_with_a_message():
    def result(timeout):
        raise KilledWorker("job", SimpleNamespace(address="tcp://node7:9"), 3)

    with pytest.raises(UserError, match="failed because its workers died 4 times, last on tcp://node7:9"):
        cluster._result(None, SimpleNamespace(result=result))


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), TimeoutError("the function's own")])
def test_an_exception_of_the_function_is_not_reported_as_a_lost_connection(fault):
    def result(timeout):
        raise fault

    with pytest.raises(type(fault)) as caught:
        cluster._result(None, SimpleNamespace(result=result, status="error", exception=lambda: fault))
    assert caught.value is fault


def test_a_lost_scheduler_is_reported(monkeypatch):
    def result(timeout):
        raise OSError("Timed out trying to connect")

    monkeypatch.setenv("PE_SCHEDULER", "tcp://node1:8786")
    with pytest.raises(UserError, match="Lost the connection to the scheduler tcp://node1:8786"):
        cluster._result(None, SimpleNamespace(result=result, status="lost"))


def test_an_isolated_call_returns_the_value_or_raises_the_exception():
    assert run_isolated(pow, 3, 4, timeout_s=60) == 81
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_isolated(divmod, 1, 0)


def test_a_batch_whose_process_dies_is_repeated_with_one_process_per_exam(monkeypatch):
    calls = []

    def die_if_direct(function, jobs, timeout_s=None):
        calls.append(function.__name__)
        if timeout_s:
            raise RuntimeError("its process ended with status -11")
        return [f"{job} guarded" for job in jobs]

    monkeypatch.setattr(features.build_store, "run_isolated", die_if_direct)
    assert features.build_store._ingest_on_worker(("a", "b")) == ["a guarded", "b guarded"]
    assert calls == ["_ingest_directly", "_ingest_guarded"]


def build_and_hash(root: Path, settings: Settings, monkeypatch) -> dict[str, str]:
    """Build a store under `root` and hash its files."""
    monkeypatch.setenv("PE_ROOT", str(root))
    prepare(settings)
    features.build_store.build(settings)
    store = paths.store()
    return {file.name: sha256(file) for file in store.iterdir() if file.name != "manifest.json"}


def kill_when_stored(pid: int, folder: Path) -> None:
    """Kill a process as soon as the first exam is stored below an artifact root."""
    while not list(folder.glob("artifacts/features/store-*/*.b2nd")):
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_built_on_a_cluster_with_a_killed_worker_has_the_same_bytes_as_a_local_one(root, tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "tree", exams=3)
    settings = Settings(input=InputSettings(data=str(tree), folds=2), features=FeaturesSettings(spacing_mm=1.0))
    local_hashes = build_and_hash(tmp_path / "here", settings, monkeypatch)
    monkeypatch.setattr(cluster, "CONNECT_S", 60)
    monkeypatch.setattr(features.build_store, "BATCH", 1)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "300s"}):
        local = LocalCluster(n_workers=1, **LOCAL)  # another one takes its place
    with local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        victim = local.workers[0].pid
        killer = threading.Thread(target=kill_when_stored, args=(victim, tmp_path / "there"))
        killer.start()
        cluster_hashes = build_and_hash(tmp_path / "there", settings, monkeypatch)
        killer.join()
        assert not Path(f"/proc/{victim}").exists() or local.workers[0].pid != victim
    assert cluster_hashes == local_hashes and len(local_hashes) == 2 * 5 + 3
