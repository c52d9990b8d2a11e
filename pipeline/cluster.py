"""Jobs on a Dask cluster: `run_jobs` uses it if --scheduler (or $PE_SCHEDULER) gives an address.

The machines share a file system: a job receives paths, writes its outputs atomically, and returns numbers only. If a
worker dies, its job runs again on another one and writes the same bytes.

joblib's dask backend is not used: it waits forever if the workers of a job keep dying (it gets no callback).
"""

import os
import platform
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.software import library_versions, source_hash

if TYPE_CHECKING:
    from distributed import Client

VARIABLE = "PE_SCHEDULER"
CONNECT_S = 15
#: Jobs per thread of the cluster that are submitted before the first result is taken.
JOBS_AHEAD = 3
PATIENCE_S = 60
START = "./run.sh scheduler on one machine, ./run.sh worker tcp://HOST:8786 on every worker"


def scheduler() -> str:
    """Address of the Dask scheduler that runs the jobs; empty if they run on this machine."""
    return os.environ.get(VARIABLE, "")


def run_on_cluster(function: Callable[..., Any], arguments: Iterable[tuple], *, reads: Path | None) -> Iterator[Any]:
    """Run `function(*argument)` for every argument on the cluster.

    Args:
        function: a module-level function of this checkout, from which the workers must run too.
        arguments: one tuple per job, consumed as jobs are submitted.
        reads: a folder that the jobs read; every worker must see it.

    Yields:
        The results, in the order of `arguments`.

    Raises:
        UserError: no scheduler, no worker, workers with other files or code, or workers that keep dying.
        Exception: raised by the function.
    """
    with connected(scheduler(), reads) as client:
        arguments = iter(arguments)
        ahead = JOBS_AHEAD * sum(client.ncores().values())
        running = deque(client.submit(function, *argument, pure=False) for argument in islice(arguments, ahead))
        while running:
            yield _result(client, running.popleft())
            running.extend(client.submit(function, *argument, pure=False) for argument in islice(arguments, 1))


@contextmanager
def connected(address: str, reads: Path | None = None) -> Iterator["Client"]:
    """Connect to a scheduler with at least one worker, all of which run this code and see these files.

    Args:
        address: of the scheduler, e.g. tcp://node1:8786.
        reads: a folder that every worker must see.

    Raises:
        UserError: the faults of the cluster, worker by worker, and how to start one.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"--scheduler {address}: no Dask scheduler answers ({reason}). Start one: {START}") from fault
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as fault:
            raise UserError(f"--scheduler {address}: the scheduler has no worker. Start one: {START}") from fault
        faults = _worker_faults(client, reads)
        if faults:
            raise UserError.listing(f"--scheduler {address}: these workers cannot run the jobs:", faults)
        yield client


def _worker_faults(client: "Client", reads: Path | None) -> list[str]:
    token = paths.root() / f".cluster-{secrets.token_hex(4)}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        checks = client.run(_check_worker, [str(token), *([str(reads)] if reads else [])], on_error="return")
    finally:
        token.unlink(missing_ok=True)
    faults = []
    local_versions = _code_versions()
    for worker, check in checks.items():
        if isinstance(check, BaseException):
            faults.append(f"{worker}: cannot run this checkout's code ({check}). Start it with ./run.sh worker")
            continue
        missing_paths, versions = check
        if missing_paths:
            names = ", ".join(missing_paths).replace(str(token), str(paths.root()))
            faults.append(f"{worker}: does not see {names}. Workers must share the file system under the same paths")
        faults += [
            f"{worker}: {name}: expected {version} as on this machine, got {versions.get(name)}"
            for name, version in local_versions.items()
            if versions.get(name) != version
        ]
    return faults


def _check_worker(wanted: list[str]) -> tuple[list[str], dict[str, str]]:
    """Run on a worker: the paths that it does not see, and the versions of its code."""
    return [path for path in wanted if not Path(path).exists()], _code_versions()


def _code_versions() -> dict[str, str]:
    """Hashes of the sources and versions of the libraries that results depend on."""
    sources = {f"source hash of {name}/": source_hash(name) for name in ("input", "features", "models", "pipeline")}
    return {**sources, **library_versions(), "python": platform.python_version()}


def _result(client: "Client", future: Any) -> Any:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError

    reported = False
    while True:
        try:
            return future.result(timeout=PATIENCE_S)
        except TimeoutError:
            if future.status == "error" and isinstance(future.exception(), TimeoutError):
                raise  # raised by the function
            if not reported and not client.ncores():
                say("cluster: no worker left; waiting for one to return")
                reported = True
        except KilledWorker as fault:
            raise UserError(
                f"A job failed because its workers died {fault.allowed_failures + 1} times, last on "
                f"{fault.last_worker.address}. Read that worker's log; often memory ran out. Finished work is kept. "
                "Rerun the same command to resume."
            ) from fault
        except (FutureCancelledError, FuturesCancelledError, OSError) as fault:
            if future.status == "error":
                raise  # raised by the function, e.g. a full disk
            raise UserError(
                f"Lost the connection to the scheduler {scheduler()}. Finished work is kept. "
                "Rerun the same command to resume."
            ) from fault
