"""Which artifacts exist, which experiment uses them, and their sizes on disk; standard library only."""

import os
from pathlib import Path

from pipeline import paths
from pipeline.experiments import names
from pipeline.stage_plan import MANIFEST


def used_by(name: str) -> set[Path]:
    """The folders of the artifacts that an experiment has links to."""
    links = paths.experiments() / name / paths.LINKS
    found = [Path(folder) / entry for folder, folders, files in os.walk(links) for entry in (*folders, *files)]
    return {link.resolve() for link in found if link.is_symlink()}


def all_artifacts() -> list[Path]:
    """The folders of all shared artifacts, finished or not, by stage and name."""
    return sorted(folder for folder in paths.artifacts().glob("*/*") if folder.is_dir())


def unused_artifacts() -> list[Path]:
    """The folders of artifacts that no experiment has a link to."""
    used = set().union(*(used_by(name) for name in names()))
    return [folder for folder in all_artifacts() if folder.resolve() not in used]


def is_finished(folder: Path) -> bool:
    """Whether an artifact is finished."""
    return (folder / MANIFEST).is_file()


def size_on_disk(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    files = [Path(parent) / name for parent, _, names_ in os.walk(folder) for name in names_]
    return sum(file.lstat().st_size for file in files)
