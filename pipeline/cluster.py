"""The same jobs on a Dask cluster: where --scheduler (or $PE_SCHEDULER) names one, `run_jobs` sends them there.

The machines share a file system: a job gets paths, writes its product atomically, and sends back numbers only. A job
whose worker dies is run again elsewhere; what it wrote twice has the same bytes.

joblib's dask backend is not used: where a job's workers keep dying it waits forever (no callback tells it).
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
from pipeline.artifact import library_versions, source_hash
from pipeline.console import say
from pipeline.errors import UserError

if TYPE_CHECKING:
    from distributed import Client

VARIABLE = "PE_SCHEDULER"
CONNECT_S = 15
#: So many jobs a thread of the cluster are handed out before the first result is taken.
JOBS_AHEAD = 3
PATIENCE_S = 60
START = "./run.sh scheduler on one machine, ./run.sh worker tcp://HOST:8786 on every machine that works"


def scheduler() -> str:
    """The address of the Dask scheduler that jobs go to; empty: they run on this machine."""
    return os.environ.get(VARIABLE, "")


def run_on_cluster(function: Callable[..., Any], arguments: Iterable[tuple], *, reads: Path | None) -> Iterator[Any]:
    """Run `function(*argument)` for every argument on the cluster; yield results in the order of `arguments`.

    Args:
        function: a module-level function of this checkout, which the workers run from too.
        arguments: one tuple a job, drawn as jobs are handed out.
        reads: a folder that the jobs read; every worker must see it.

    Raises:
        UserError: no scheduler, no worker, workers that do not share files or code, or that keep dying.
        Exception: whatever the function raised.
    """
    with connected(scheduler(), reads) as client:
        arguments = iter(arguments)
        ahead = JOBS_AHEAD * sum(client.ncores().values())
        running = deque(client.submit(function, *each, pure=False) for each in islice(arguments, ahead))
        while running:
            yield _result(client, running.popleft())
            running.extend(client.submit(function, *each, pure=False) for each in islice(arguments, 1))


@contextmanager
def connected(address: str, reads: Path | None = None) -> Iterator["Client"]:
    """A client of a scheduler with at least one worker, all of which run this code and see these files.

    Raises:
        UserError: what is wrong with the cluster, worker by worker, and how to start one.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"--scheduler {address}: no Dask scheduler answers there ({reason}). Start: {START}") from fault
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as fault:
            raise UserError(f"--scheduler {address}: the scheduler has no worker. Start: {START}") from fault
        faults = _worker_faults(client, reads)
        if faults:
            raise UserError.listing(f"--scheduler {address}: these workers cannot take this work:", faults)
        yield client


def _worker_faults(client: "Client", reads: Path | None) -> list[str]:
    token = paths.root() / f".cluster-{secrets.token_hex(4)}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        answers = client.run(_look, [str(token), *([str(reads)] if reads else [])], on_error="return")
    finally:
        token.unlink(missing_ok=True)
    faults = []
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            faults.append(f"{worker}: cannot run this checkout's code ({answer}); start it with ./run.sh worker")
            continue
        missing, code = answer
        if missing:
            seen = ", ".join(missing).replace(str(token), str(paths.root()))
            faults.append(f"{worker}: does not see {seen}; workers must share the file system, under the same paths")
        faults += [f"{worker}: has {name} {code.get(name)}, here it is {own}" for name, own in _code().items()
                   if code.get(name) != own]  # fmt: skip
    return faults


def _look(wanted: list[str]) -> tuple[list[str], dict[str, str]]:
    """Runs on a worker: the paths that are not there, and the code that jobs would run with."""
    return [each for each in wanted if not Path(each).exists()], _code()


def _code() -> dict[str, str]:
    """What results depend on: sources and libraries."""
    sources = {f"another source of {name}/": source_hash(name) for name in ("input", "features", "models", "pipeline")}
    return {**sources, **library_versions(), "python": platform.python_version()}


def _result(client: "Client", future: Any) -> Any:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError

    told = False
    while True:
        try:
            return future.result(timeout=PATIENCE_S)
        except TimeoutError:
            if future.status == "error" and isinstance(future.exception(), TimeoutError):
                raise  # the function's own
            if not told and not client.ncores():
                say("the cluster has no worker left; waiting for one to come back")
                told = True
        except KilledWorker as fault:
            raise UserError(
                f"a job was given up after its workers died {fault.allowed_failures + 1} times, last on "
                f"{fault.last_worker.address}: look at that worker's log (often memory ran out); what is finished is "
                "kept, the same command goes on"
            ) from fault
        except (FutureCancelledError, FuturesCancelledError, OSError) as fault:
            if future.status == "error":
                raise  # the function's own, such as a full disk
            raise UserError(
                f"the connection to the scheduler {scheduler()} was lost; what is finished is kept, the same command "
                "goes on"
            ) from fault
