"""Take over artifacts of the earlier layout of folders, one experiment per PE_ROOT; standard library only.

Until version 0.1 artifacts lay in fixed folders such as features/store. They are moved, never copied or removed, to
the folders of shared artifacts, where a run with the same settings finds them. Results, which take seconds to write
again, stay where they are.
"""

import json
import os
import re
import shutil
from pathlib import Path

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.stage_plan import BUILDING, MANIFEST

#: Folder of the earlier layout -> name of the artifact; {} stands for the folders that `*` matches.
EARLIER = {
    "input/raw/*": "input/raw",
    "input/prepared": "input/prepared",
    "features/store": "features/store",
    "features/masks": "features/masks",
    "models/runs/*/fold*": "models/{}/fold{}",
    "ensemble/runs": "ensemble/fit",
}
LEADERBOARD = "leaderboard.csv"


def take_over() -> None:
    """Move every artifact of the earlier layout, finished or not, to its new folder; keep a copy of the leaderboard.

    Raises:
        UserError: a manifest cannot be read.
    """
    moved = [_move(folder) for folder in earlier_artifacts()]
    earlier = paths.root() / "submissions" / "results" / LEADERBOARD
    leaderboard = paths.experiments() / LEADERBOARD
    if earlier.is_file() and not leaderboard.exists():
        leaderboard.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(earlier, leaderboard)
        moved.append(f"{paths.shown(leaderboard)}: copied")
    if moved:
        say(f"{paths.root()}: artifacts of an earlier version are taken over, results stay in their folders:")
        for line in moved:
            say(f"  {line}")


def earlier_artifacts() -> list[Path]:
    """Folders of artifacts in the earlier layout that were not taken over yet."""
    folders = [folder for pattern in EARLIER for folder in sorted(paths.root().glob(pattern))]
    return [folder for folder in folders if (identity := _identity(folder)) and not _target(folder, identity).exists()]


def _target(folder: Path, identity: str) -> Path:
    return paths.artifact(_name(folder), identity)


def _move(folder: Path) -> str:
    """Move one folder; return a line that says so."""
    target = _target(folder, _identity(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    source = folder.relative_to(paths.root())
    if folder.is_symlink():
        target.symlink_to(folder.resolve(), target_is_directory=True)
    else:
        os.rename(folder, target)
    return f"{source} -> {target.relative_to(paths.root())}"


def _name(folder: Path) -> str:
    path = folder.relative_to(paths.root()).as_posix()
    for pattern, name in EARLIER.items():
        match = re.fullmatch(pattern.replace("*", "([^/]+)"), path)
        if match:
            return name.format(*match.groups())
    raise ValueError(f"not a folder of the earlier layout: {folder}")


def _identity(folder: Path) -> str:
    """The identity of an artifact; empty if the folder has none."""
    for name in (MANIFEST, BUILDING):
        if (folder / name).is_file():
            try:
                return str(json.loads((folder / name).read_text())["identity"])
            except (ValueError, KeyError) as fault:
                raise UserError(
                    f"Not a manifest: {folder / name} ({fault}). It is of an earlier version and cannot be taken over. "
                    "Move the folder away and run again."
                ) from fault
    return ""
