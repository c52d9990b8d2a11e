"""Does a run that is killed with SIGKILL at random moments, and started again each time, end with the same bytes?

    ./run.sh bench kills --root ~/kills                    twelve kills of the smallest run
    ./run.sh bench kills --root ~/kills --kills 3 --seed 1

Runs settings/tests.toml twice below ROOT: once undisturbed, and once with its whole process group killed and the same
command started again. The moments are random over the whole duration: a kill waits for the file that the undisturbed
run had written by then, and then for the rest of the time. At the end, every file of both runs is compared, except
those that contain times (NOT_COMPARED). With --set-up the environment of the killed run is installed from scratch too,
and a quarter of the kills are spread over the set-up.
"""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import sha256

#: The command of the runs; `add_overrides` extends it.
COMMAND = [str(paths.CHECKOUT / "run.sh"), "--settings", "settings/tests.toml"]
#: Names of files that contain times, or belong to no result.
NOT_COMPARED = ("manifest.json", "model_card.json", "model_card.md", "evidence.html", "leaderboard.csv")
LOG = "output.log"
#: Seconds between two looks at the files of a run.
LOOK_S = 0.1


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add --set, as of run.sh, which extends COMMAND."""
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override a setting, e.g. --set 'models.backbones=[\"mobilenetv2\"]' for a shorter run (repeatable)",
    )  # fmt: skip


def start(root: Path, variables: Mapping[str, str] = {}) -> subprocess.Popen:  # noqa: B006
    """Start the run below `root` in a process group of its own; its output is appended to LOG.

    Args:
        root: the artifact root.
        variables: further environment variables.
    """
    root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **variables, "PE_ROOT": str(root)}
    with (root.parent / f"{root.name}-{LOG}").open("a") as log:
        return subprocess.Popen(
            COMMAND, env=environment, cwd=paths.CHECKOUT, stdout=log, stderr=log, start_new_session=True
        )


def finish(root: Path, variables: Mapping[str, str] = {}) -> float:  # noqa: B006
    """Run to the end; return the seconds.

    Raises:
        UserError: the run failed.
    """
    started = time.monotonic()
    status = start(root, variables).wait()
    if status:
        raise UserError(f"The run failed with status {status}. Log: {root.parent / f'{root.name}-{LOG}'}")
    return time.monotonic() - started


def result_files(root: Path) -> list[Path]:
    """All files of artifacts and experiments."""
    folders = (root / "artifacts", root / "experiments")
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def kill_at(process: subprocess.Popen, root: Path, moment: float, timeline: Mapping[str, float]) -> bool:
    """Kill a run and its descendants at a moment of the undisturbed run; return whether it had not ended before.

    Args:
        process: the run.
        root: its artifact root.
        moment: seconds after the start of the undisturbed run.
        timeline: file, relative to the root -> seconds after which the undisturbed run had written it.
    """
    earlier = {name: seconds for name, seconds in timeline.items() if seconds <= moment}
    last = max(earlier, key=earlier.__getitem__, default="")
    while process.poll() is None and not (root / last).exists():
        time.sleep(LOOK_S)
    try:
        process.wait(moment - earlier.get(last, 0.0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # orphaned processes end with their parent
        return True
    return False


def digests(root: Path) -> dict[str, str]:
    """Path below `root` -> sha256 of every compared file of artifacts and experiments."""
    files = [file for file in result_files(root) if file.name not in NOT_COMPARED]
    return {file.relative_to(root).as_posix(): sha256(file) for file in files}


def compare(title: str, undisturbed: Path, other: Path) -> int:
    """Print how many files differ between two roots, and which; return their number."""
    expected, found = digests(undisturbed), digests(other)
    faults = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    say(f"{title}: {len(faults)} of {len(expected)} files differ")
    for name in faults:
        say(f"  {name}")
    return len(faults)


def last_line(root: Path) -> str:
    """The last line of a run's output."""
    lines = (root.parent / f"{root.name}-{LOG}").read_text(errors="replace").split("\n")
    return next((line.rpartition("\r")[2] for line in reversed(lines) if line.strip()), "")


def undisturbed_run(root: Path) -> tuple[Path, dict[str, float]]:
    """Finish the undisturbed run below `root`; return its artifact root, and file -> seconds after the start."""
    undisturbed = root / "undisturbed"
    began = time.time()
    seconds = finish(undisturbed)
    files = result_files(undisturbed)
    say(f"undisturbed: {seconds:.0f} s, {len(files)} files")
    return undisturbed, {file.relative_to(undisturbed).as_posix(): file.stat().st_mtime - began for file in files}


def main() -> int:
    """Run, kill, compare; the status is 1 if a file differs."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--kills", type=int, default=12, help="number of kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (%(default)s)")
    parser.add_argument("--set-up", action="store_true", help="install the environment of the killed run from scratch")
    add_overrides(parser)
    arguments = parser.parse_args()
    COMMAND.extend(word for override in arguments.overrides for word in ("--set", override))
    root = arguments.root.expanduser().resolve()
    undisturbed, timeline = undisturbed_run(root)
    killed = root / "killed"
    generator = np.random.default_rng(arguments.seed)
    variables: dict[str, str] = {}
    moments = np.sort(generator.uniform(0, max(timeline.values()), arguments.kills))
    if arguments.set_up:
        variables = {"PE_VENV": str(root / ".venv"), "PE_PYTHON": ""}
        in_set_up = arguments.kills // 4
        moments = np.concatenate([np.sort(generator.uniform(0, 20, in_set_up)), moments[in_set_up:]])
    count = 0
    for moment in moments:
        if kill_at(start(killed, variables), killed, float(moment), timeline):
            count += 1
            say(f"kill {count} at {moment:.0f} s: {last_line(killed)[:100]}")
    finish(killed, variables)
    return 1 if compare(f"{count} kills", undisturbed, killed) else 0


if __name__ == "__main__":
    run(main)
