"""Does a run that is killed with SIGKILL at random moments, and started again each time, end with the same bytes?

    ./run.sh bench kills --root ~/kills                    twelve kills of the smallest run
    ./run.sh bench kills --root ~/kills --kills 3 --seed 1

Runs settings/tests.toml twice below ROOT: once undisturbed, and once with its whole process group killed at random
moments (exponentially distributed, the undisturbed duration divided by the number of kills on average) and the same
command started again. Then compares every file of both, except manifests, the model card and the evidence report, which
contain times. With --set-up the environment of the killed run is installed from scratch too, so that kills hit it.
"""

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import sha256

COMMAND = [str(paths.CHECKOUT / "run.sh"), "--settings", "settings/tests.toml"]
#: Names of files that contain times, or belong to no result.
NOT_COMPARED = ("manifest.json", "model_card.json", "model_card.md", "evidence.html", "leaderboard.csv")


def run_once(root: Path, variables: dict[str, str], limit_s: float | None = None) -> bool:
    """Run the command below `root`; return whether it ended before it was killed.

    Args:
        root: the artifact root.
        variables: further environment variables.
        limit_s: kill the whole process group after so many seconds; None: never.

    Raises:
        UserError: the run failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **variables, "PE_ROOT": str(root)}
    with (root / "output.log").open("a") as log, subprocess.Popen(
        COMMAND, env=environment, cwd=paths.CHECKOUT, stdout=log, stderr=log, start_new_session=True
    ) as process:  # fmt: skip
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False
    if status:
        raise UserError(f"The run failed with status {status}; see {root / 'output.log'}.")
    return True


def run_with_kills(root: Path, variables: dict[str, str], *, kills: int, mean_s: float, seed: int) -> int:
    """Run until it ends, with at most `kills` kills; return how often it was killed.

    Args:
        root: the artifact root.
        variables: further environment variables.
        kills: maximum number of kills.
        mean_s: mean time to a kill.
        seed: of the random times.
    """
    generator = np.random.default_rng(seed)
    for number in range(kills):
        if run_once(root, variables, limit_s=float(generator.exponential(mean_s))):
            return number
        time.sleep(0.5)  # orphaned stages end with their parent
    run_once(root, variables)
    return kills


def digests(root: Path) -> dict[str, str]:
    """Path below `root` -> sha256 of every compared file of artifacts and experiments."""
    files = [file for folder in ("artifacts", "experiments") for file in sorted((root / folder).rglob("*"))]
    return {
        file.relative_to(root).as_posix(): sha256(file)
        for file in files
        if file.is_file() and file.name not in NOT_COMPARED
    }


def main() -> int:
    """Run, kill, compare; the status is 1 if a file differs."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--kills", type=int, default=12, help="number of kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (%(default)s)")
    parser.add_argument("--set-up", action="store_true", help="install the environment of the killed run from scratch")
    arguments = parser.parse_args()
    root = arguments.root.expanduser().resolve()
    started = time.monotonic()
    run_once(root / "undisturbed", {})
    seconds = time.monotonic() - started
    say(f"undisturbed: {seconds:.0f} s")
    variables = {"PE_VENV": str(root / "killed" / ".venv"), "PE_PYTHON": ""} if arguments.set_up else {}
    kills = run_with_kills(
        root / "killed", variables, kills=arguments.kills, mean_s=seconds / max(arguments.kills, 1), seed=arguments.seed
    )
    expected, found = digests(root / "undisturbed"), digests(root / "killed")
    faults = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    say(f"{kills} kills: {len(faults)} of {len(expected)} files differ")
    for name in faults:
        say(f"  {name}")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
