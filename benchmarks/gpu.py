"""Speed of every network on a GPU, compared with plain PyTorch and with the device's peak, within minutes.

    ./run.sh bench gpu --root ~/gpu                     every network at 256 and 384 pixels, a small contest
    KERAS_BACKEND=jax ./run.sh bench gpu --root ~/gpu   the same on JAX; also torch, tensorflow (default)
    ./run.sh bench gpu --root ~/gpu --backbones mobilenetv2 resnet50v2 --sizes 384 --minutes 4
    ./run.sh bench gpu --root ~/cpu --backbones mobilenetv2 --sizes 64 --batch 2 --steps 2 --no-contest

Every part runs in a process of its own, one after the other:

1. products of large matrices: the device's peak, in bfloat16, or in float32 where it has no bfloat16;
2. every network at every size, with random weights in that precision (mixed): the training step and
   prediction on one batch that lies on the device, and the real training loop, whose views come from a
   store of noise, or from that of --experiment, and are finished on the device. Networks that PyTorch
   has as well come first, then the others by their number of operations;
3. the same network in plain PyTorch, if PyTorch is installed and benchmarks/torch_networks.py has it;
4. the contest of settings/tests.toml with one backbone, from DICOM files to scores, without pretrained
   weights: it shows that the pipeline works on this device, not how well.

The benchmark ends after --minutes; the last --contest-minutes of these belong to the contest. Parts that
did not start or did not finish are listed, and the exit status is then 1. After every part the results
are written to ROOT/gpu-BACKEND.json and ROOT/gpu-BACKEND.txt. No part opens a network connection; PE_PYTHON
names a Python that has the packages, where the set-up of run.sh cannot install them.
"""

import argparse
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.beside_pytorch import NETWORKS
from benchmarks.gpu_networks import Work, measure_device, measure_network
from benchmarks.gpu_pytorch import measure_pytorch
from benchmarks.gpu_tables import report_text
from ensemble.candidates import PRIOR
from models.backbones import BACKBONES
from models.check_recipe import SMALLEST_SIDE
from models.device import is_out_of_memory
from models.estimate import DEFAULT_GMACS, GMACS
from pipeline import paths
from pipeline.artifact import MANIFEST
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import require_writable, write_json, write_text
from pipeline.isolated_call import run_isolated
from pipeline.machine import nvidia_smi
from pipeline.software import library_versions
from submissions.hardware import hardware
from submissions.leaderboard import commit, read_leaderboard

#: The order in which networks are measured.
ORDER = sorted(BACKBONES, key=lambda name: (name not in NETWORKS, GMACS.get(name, DEFAULT_GMACS)))
#: The network of the contest; its folds share the device and start from random weights.
BACKBONE = "mobilenetv2"
CONTEST = (
    f'models.backbones=["{BACKBONE}"]', "models.weights=none", "models.frozen_share=0.0", "models.workers=2",
)  # fmt: skip


class Session:
    """The results so far, saved after every part, and the time that is left.

    Args:
        root: Folder of the result files.
        minutes: Duration of the whole benchmark.
        results: Facts that are known before the first part.
    """

    def __init__(self, root: Path, minutes: float, results: dict[str, Any]) -> None:
        self.root, self.results = root, results
        self._end = time.monotonic() + 60 * minutes

    def seconds_left(self, reserved_minutes: float = 0.0) -> float:
        """Return the seconds until the end, without a reserved time."""
        return self._end - 60 * reserved_minutes - time.monotonic()

    def part(self, title: str, seconds: float, work: Callable[[float], dict[str, Any]]) -> dict[str, Any]:
        """Run one part and record why it gives no result, if so.

        Args:
            title: Name of the part.
            seconds: The time that it may take; it does not start without any.
            work: Measures within the seconds that it receives.

        Returns:
            The result with its duration, `seconds`; empty if there is none.
        """
        if seconds <= 0:
            self.results["not_measured"][title] = "not started: no time left"
            return {}
        say(f"gpu: {title}")
        started = time.monotonic()
        try:
            return work(seconds) | {"seconds": round(time.monotonic() - started, 1)}
        except UserError as fault:
            self.results["not_measured"][title] = str(fault)
        except RuntimeError as fault:  # with the traceback of the part's process
            self.results["not_measured"][title] = _last_error(fault)
            self.results["tracebacks"][title] = str(fault)
        return {}

    def isolated(self, title: str, reserved_minutes: float, function: Callable, *arguments: Any) -> dict[str, Any]:
        """Run a part that is a function with its arguments, in a process of its own."""
        seconds = self.seconds_left(reserved_minutes)
        return self.part(title, seconds, lambda left: run_isolated(function, *arguments, timeout_s=left))

    def save(self) -> None:
        """Write the results as JSON and as text."""
        name = f"gpu-{self.results['backend']}"
        write_json(self.root / f"{name}.json", self.results)
        write_text(self.root / f"{name}.txt", report_text(self.results) + "\n")


def _last_error(fault: Exception) -> str:
    """The line of a traceback that names the exception; some messages are followed by many lines."""
    if is_out_of_memory(fault):
        return "out of memory"
    lines = str(fault).strip().splitlines()
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1])


def measure(session: Session, arguments: argparse.Namespace) -> None:
    """Measure all parts."""
    results, reserved = session.results, 0.0 if arguments.no_contest else arguments.contest_minutes
    results["device"] = session.isolated("peak of matrix products", reserved, measure_device)
    session.save()
    has_pytorch = importlib.util.find_spec("torch") is not None
    for size in arguments.sizes if results["device"] else []:
        for backbone in arguments.backbones:
            title, precision = f"{backbone}, {size} pixels", results["device"]["precision"]
            facts = {"backbone": backbone, "size": size, "batch": arguments.batch, "precision": precision}
            work = Work(**facts, steps=arguments.steps, seconds=arguments.seconds, stored=bool(arguments.experiment))
            own = session.isolated(title, reserved, measure_network, work)
            if own:
                results["networks"].append(facts | own)
            if own and has_pytorch and backbone in NETWORKS:
                other = session.isolated(f"{title}, PyTorch", reserved, measure_pytorch, work, not arguments.eager)
                if other and other["weights"] != own["weights"]:
                    counts = f"{own['weights']:,} and {other['weights']:,} weights"
                    results["not_measured"][f"{title}, PyTorch"] = f"not the same network: {counts}"
                elif other:
                    results["networks"][-1]["pytorch"] = other
            session.save()
    if not arguments.no_contest:
        results["contest"] = session.part("contest", session.seconds_left(), lambda left: run_contest(session, left))
        session.save()


def run_contest(session: Session, seconds: float) -> dict[str, Any]:
    """Run the contest of settings/tests.toml below a new folder of the root.

    Returns:
        `folder`; `candidates`: the names of the network, of the promoted candidate and of the label priors; `scores`:
        the metric of each, out of fold (`cv`) and on the test truth (`test`).

    Raises:
        UserError: The run failed, or did not end within `seconds`.
    """
    folder = Path(tempfile.mkdtemp(prefix="contest-", dir=session.root))
    command = [str(paths.CHECKOUT / "run.sh"), "--settings", "settings/tests.toml", "--name", "contest"]
    command += [word for override in CONTEST for word in ("--set", override)]
    environment = {**os.environ, "PE_ROOT": str(folder), "PE_PYTHON": sys.executable}
    environment.pop(paths.EXPERIMENT, None)
    log = folder / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=paths.CHECKOUT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as fault:
            raise UserError(f"not finished after {seconds:.0f} s. Log: {log}") from fault
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status:
        raise UserError(f"the run failed with status {status}. Log: {log}")
    table = read_leaderboard(folder / "experiments" / "leaderboard.csv").set_index("candidate")
    names = {"network": BACKBONE, "promoted": table.index[table["promoted"]][0], "priors": PRIOR}
    scores = {role: {part: float(table.loc[name, part]) for part in ("cv", "test")} for role, name in names.items()}
    return {"folder": str(folder), "candidates": names, "scores": scores}


def parse() -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: Values out of range, a backend that is not installed, or an experiment without a store.
    """
    parser = argparse.ArgumentParser(
        prog="./run.sh bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the results")
    parser.add_argument("--backbones", nargs="+", choices=sorted(BACKBONES), default=list(ORDER), metavar="NAME",
                        help="networks in the order of their measurement (%(default)s)")  # fmt: skip
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 384], help="pixels per side (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="a measurement with fewer steps ends after this time"
                        ", but not before two steps (%(default)s)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8.0, help="duration of the whole benchmark (%(default)s)")
    parser.add_argument("--contest-minutes", type=float, default=2.5,
                        help="of these, at the end, for the contest alone (%(default)s)")  # fmt: skip
    parser.add_argument("--no-contest", action="store_true", help="leave out the contest")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--experiment", metavar="NAME", default="", help="train on slices of this experiment's store "
                        "under PE_ROOT (after ./run.sh --to features) instead of noise")  # fmt: skip
    arguments = parser.parse_args()
    faults = [
        f"--{name}: expected {least} or more, got {getattr(arguments, name)}"
        for name, least in (("batch", 1), ("steps", 2))
        if getattr(arguments, name) < least
    ]
    small = [size for size in arguments.sizes if size < SMALLEST_SIDE]
    faults += [f"--sizes: expected {SMALLEST_SIDE} or more, got {size}" for size in small]
    if importlib.util.find_spec(backend := backend_name()) is None:
        faults.append(f"KERAS_BACKEND: {backend} is not installed. Install it, or set tensorflow, jax or torch")
    if arguments.experiment:
        paths.select_experiment(arguments.experiment)
        if not (paths.store() / MANIFEST).is_file():
            faults.append(f"--experiment: no finished store: {paths.shown(paths.store())}. Run ./run.sh --to features")
    if faults:
        raise UserError.listing("The benchmark cannot start:", faults)
    return arguments


def backend_name() -> str:
    """Return the Keras backend that the environment chooses."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def main() -> int:
    """Measure, print and write; the status is 1 if a part is missing."""
    arguments = parse()
    root = arguments.root.expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    require_writable(root / "results")
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    session = Session(
        root, arguments.minutes,
        {
            "when": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "backend": backend_name(),
            "hardware": hardware(), "driver": nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader") or "",
            "versions": {"python": platform.python_version(), **library_versions()}, "options": options,
            "device": {}, "networks": [], "contest": {}, "not_measured": {}, "tracebacks": {},
        },
    )  # fmt: skip
    measure(session, arguments)
    say("\n" + report_text(session.results))
    say(f"\nWritten: {root / ('gpu-' + session.results['backend'])}.json and .txt")
    return 1 if session.results["not_measured"] else 0


if __name__ == "__main__":
    run(main)
