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


def test_a_scheduler_that_does_not_answer_is_told_with_the_commands_that_start_one(root, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    monkeypatch.setenv("PE_SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127.0.0.1:9: no Dask scheduler answers .*run.sh scheduler .*run.sh worker"):
        list(run_jobs(double, [(1,)], what="x"))


def test_a_scheduler_without_workers_is_told(root, monkeypatch):
    with LocalCluster(n_workers=0, processes=False, **LOCAL) as local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
        with pytest.raises(UserError, match="the scheduler has no worker. Start: "):
            list(run_jobs(double, [(1,)], what="x"))


def test_results_come_in_order_and_faults_are_those_of_the_function(root, monkeypatch):
    with LocalCluster(n_workers=1, processes=False, **LOCAL) as local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        assert list(run_jobs(double, [(each,) for each in range(9)], what="x")) == list(range(0, 18, 2))
        with pytest.raises(UserError, match="no 4"):
            list(run_jobs(refuse, [(4,)], what="x"))
        with pytest.raises(UserError, match="does not see /nowhere/rsna; workers must share the file system"):
            list(run_jobs(double, [(1,)], what="x", reads=Path("/nowhere/rsna")))
        code = iter([{}, {"numpy": "0.1"}])  # the worker's, then this process's
        monkeypatch.setattr(cluster, "_code", lambda: next(code))
        with pytest.raises(UserError, match="has numpy None, here it is 0.1"):
            list(run_jobs(double, [(1,)], what="x"))
    assert list(root.iterdir()) == []  # the file by which sharing is tested is gone


def test_a_job_whose_workers_keep_dying_is_given_up_with_a_message():
    def result(timeout):
        raise KilledWorker("job", SimpleNamespace(address="tcp://node7:9"), 3)

    with pytest.raises(UserError, match="given up after its workers died 4 times, last on tcp://node7:9"):
        cluster._result(None, SimpleNamespace(result=result))


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), TimeoutError("the function's own")])
def test_a_fault_of_the_function_is_not_taken_for_a_lost_connection(fault):
    def result(timeout):
        raise fault

    with pytest.raises(type(fault)) as told:
        cluster._result(None, SimpleNamespace(result=result, status="error", exception=lambda: fault))
    assert told.value is fault


def test_a_lost_scheduler_is_told(monkeypatch):
    def result(timeout):
        raise OSError("Timed out trying to connect")

    monkeypatch.setenv("PE_SCHEDULER", "tcp://node1:8786")
    with pytest.raises(UserError, match="connection to the scheduler tcp://node1:8786 was lost"):
        cluster._result(None, SimpleNamespace(result=result, status="lost"))


def test_a_call_in_a_process_of_its_own_returns_its_value_or_its_fault():
    assert run_isolated(pow, 3, 4, timeout_s=60) == 81
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_isolated(divmod, 1, 0)


def test_a_batch_whose_process_dies_is_taken_again_with_a_process_an_exam(monkeypatch):
    called = []

    def die_plainly(function, jobs, timeout_s=None):
        called.append(function.__name__)
        if timeout_s:
            raise RuntimeError("its process ended with status -11")
        return [f"{job} guarded" for job in jobs]

    monkeypatch.setattr(features.build_store, "run_isolated", die_plainly)
    assert features.build_store._ingest_elsewhere(("a", "b")) == ["a guarded", "b guarded"]
    assert called == ["_ingest_plainly", "_ingest_guarded"]


def built(root: Path, settings: Settings, monkeypatch) -> dict[str, str]:
    """sha256 of every file of a store built under `root`."""
    monkeypatch.setenv("PE_ROOT", str(root))
    prepare(settings)
    features.build_store.build(settings)
    store = paths.store()
    return {file.name: sha256(file) for file in store.iterdir() if file.name != "manifest.json"}


def kill_when_stored(pid: int, folder: Path) -> None:
    """Kill a process as soon as a first exam lies in a store."""
    while not list(folder.glob("*.b2nd")):
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_built_on_a_cluster_of_which_a_worker_is_killed_has_the_bytes_of_a_local_one(
    root, tmp_path, monkeypatch
):
    tree = write_tree(tmp_path / "tree", exams=3)
    settings = Settings(input=InputSettings(data=str(tree), folds=2), features=FeaturesSettings(spacing_mm=1.0))
    here = built(tmp_path / "here", settings, monkeypatch)
    monkeypatch.setattr(cluster, "CONNECT_S", 60)
    monkeypatch.setattr(features.build_store, "BATCH", 1)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "300s"}):
        local = LocalCluster(n_workers=2, **LOCAL)
    with local:
        monkeypatch.setenv("PE_SCHEDULER", local.scheduler_address)
        victim = local.workers[0].pid
        killer = threading.Thread(target=kill_when_stored, args=(victim, tmp_path / "there" / "features" / "store"))
        killer.start()
        there = built(tmp_path / "there", settings, monkeypatch)
        killer.join()
        assert not Path(f"/proc/{victim}").exists() or local.workers[0].pid != victim
    assert there == here and len(here) == 2 * 5 + 3
