"""Does a run whose disk fills up, and that is started again with more space, end with the same bytes?

    sudo ./run.sh bench full_disk --root ~/full            the smallest run on disks of several sizes

Runs settings/tests.toml once undisturbed, which shows how large its files are. Then, once per size, the artifact root
is a file system in memory (tmpfs) that has a share of that space: the run must fail with a message about the disk and
without a traceback. The file system is enlarged, the same command is started again, and every file is compared with
those of the undisturbed run (see benchmarks.kills). Linux only; mounting needs the rights of root.
"""

import argparse
import subprocess
from pathlib import Path

from benchmarks.kills import COMMAND, LOG, add_overrides, compare, finish, last_line, start, undisturbed_run
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.shared_artifacts import size_on_disk

ENLARGED = "size=8g"
#: Signs of a message about the disk: of the stages, of a training job's log, and of the set-up.
SIGNS = ("disk is full", "cannot be written", "No space left")


def mount(*words: str) -> None:
    """Call mount or umount.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)}: {done.stderr.strip()}. Run this benchmark as root, on Linux.")


def fill(disk: Path, undisturbed: Path, size: int) -> list[str]:
    """Run on a disk of `size` bytes, enlarge it and run again; return the faults.

    Args:
        disk: a new folder.
        undisturbed: the artifact root of the undisturbed run.
        size: bytes.
    """
    disk.mkdir(parents=True)
    mount("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
    title = f"{size / 1e6:.1f} MB"
    try:
        if start(disk).wait() == 0:
            say(f"{title}: not filled")
            return []
        output = (disk.parent / f"{disk.name}-{LOG}").read_text(errors="replace")
        message = next((line for line in output.splitlines() if any(sign in line for sign in SIGNS)), "")
        faults = ["a traceback"] if "Traceback" in output else []
        faults += [] if message else [f"no message about the disk, the last line is: {last_line(disk)}"]
        say(f"{title}: {message.strip() or last_line(disk)}")
        mount("mount", "-o", f"remount,{ENLARGED}", str(disk))
        finish(disk)
        if compare(f"{title}, then enlarged", undisturbed, disk):
            faults.append("other bytes")
        return [f"{title}: {fault}" for fault in faults]
    finally:
        mount("umount", "-l", str(disk))


def main() -> int:
    """Fill disks of several sizes; the status is 1 if a run ends with other bytes, or without a clear message."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench full_disk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="a new or empty folder")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=(0.02, 0.25, 0.5, 0.75, 0.9, 0.98),
        help="sizes of the disk as shares of what the undisturbed run needs (%(default)s)",
    )  # fmt: skip
    add_overrides(parser)
    arguments = parser.parse_args()
    COMMAND.extend(word for override in arguments.overrides for word in ("--set", override))
    root = arguments.root.expanduser().resolve()
    undisturbed, _ = undisturbed_run(root)
    needed = size_on_disk(undisturbed)
    say(f"needed: {needed / 1e6:.1f} MB")
    sizes = [int(share * needed) for share in arguments.shares]
    faults = [fault for size in sizes for fault in fill(root / f"disk-{size}", undisturbed, size)]
    for fault in faults:
        say(f"  - {fault}")
    say(f"{len(sizes)} disks: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
