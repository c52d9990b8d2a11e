"""What a run would do: the settings as resolved, the data, and how far each stage's products are.

Standard library only, so that it answers before the set-up. It tells finished from unfinished
products; whether a finished one still fits the settings is decided by its stage, which knows.
"""

import json
import os
import shutil
from pathlib import Path

from pipeline import hours, needs, paths
from pipeline.settings import Settings

MANIFEST = "manifest.json"


def describe(settings: Settings, file: str) -> list[str]:
    """The lines that `./run.sh --dry-run` shows above the commands."""
    data = settings.data_root
    if settings.is_phantom:
        note = "the phantom's" if data.exists() else "the phantom's; drawn by the input stage"
    else:
        note = "yours, read only" if data.is_dir() else "not there"
    lines = [f"settings      {file}", f"data          {paths.shown(data)} ({note})"]
    for stage, directories in product_directories(settings).items():
        counts: dict[str, int] = {}
        for directory in directories:
            counts[state(directory)] = counts.get(state(directory), 0) + 1
        place = paths.shown(directories[0] if len(directories) == 1 else directories[0].parent.parent)
        told = ", ".join(f"{count} {name}" if len(directories) > 1 else name for name, count in counts.items())
        lines.append(f"{stage:<13} {place}: {told}")
    return lines + estimates(settings)


def estimates(settings: Settings) -> list[str]:
    """Files, disk and hours that the whole run takes, about; for a contest that is not there, the published one's."""
    counted = needs.split_slices(settings)
    train, test = counted or needs.CONTEST_SLICES
    slices = train + test
    origin = "" if counted else f"; published counts, {sum(needs.CONTEST_EXAMS):,} exams"
    disk = ", ".join(f"{name} {needs.told(size)}" for name, size in needs.disk_bytes(settings, slices).items() if size)
    free = shutil.disk_usage(existing(paths.root())).free
    lines = [
        f"{'files':<13} {slices:,} slices ({train:,} training, {test:,} test{origin}), "
        f"{needs.told(needs.raw_bytes(settings, slices))} to read",
        f"{'disk':<13} {disk}; {needs.told(free)} free at {paths.root()}",
        f"{'hours':<13} estimates, not promises: rates in pipeline/hours.py, of GPUs assumed; "
        "the exam networks' own epochs not counted",
    ]
    here = hours.Hardware(f"this machine's {cores()} cores, no GPU", cores())
    for machine in (here, hours.ONE_GPU, hours.EIGHT_GPUS):
        ingest = hours.told(hours.ingest_hours(settings, slices, machine))
        training = hours.told(hours.training_hours(settings, train, test, machine))
        lines.append(f"  {machine.name:<36} ingest {ingest:>8}   training {training:>8}")
    return lines


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in [path, *path.parents] if each.exists())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def product_directories(settings: Settings) -> dict[str, list[Path]]:
    """Stage -> the folders of its products under these settings."""
    runs = [paths.model_run(name, fold) for name in settings.models.networks for fold in range(settings.input.folds)]
    return {
        "input": [paths.prepared()],
        "features": [paths.store()],
        "models": runs or [paths.model_run("none", 0)],
        "ensemble": [paths.ensemble_run()],
        "submissions": [paths.submissions()],
    }


def state(directory: Path) -> str:
    """`finished`, `begun` or `not built` for one product folder."""
    if (directory / MANIFEST).is_file():
        return "finished"
    return "begun" if (directory / ".building.json").is_file() else "not built"


def wall_seconds(directory: Path) -> float | None:
    """How long a finished product took to build, from its manifest."""
    try:
        return float(json.loads((directory / MANIFEST).read_text())["wall_seconds"])
    except (OSError, ValueError, KeyError):
        return None
