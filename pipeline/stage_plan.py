"""The plan of one stage: the state of its artifacts and its estimated needs; standard library only.

`./run.sh STAGE VERB --dry-run` prints it, with `--json` as one JSON object for `./run.sh --dry-run` and `doctor`.
Whether a finished artifact still matches the settings is decided by its stage when it runs.
"""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from pipeline import paths
from pipeline.estimates import format_bytes, format_hours

MANIFEST = "manifest.json"
BUILDING = ".building.json"


class ArtifactState(TypedDict):
    """One artifact's folder, its state (finished, incomplete or not built) and, if finished, its build time."""

    path: str
    state: str
    wall_seconds: float | None


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What one stage has built and what it needs under given settings.

    Attributes:
        stage: its name.
        artifacts: the states of its artifacts.
        facts: lines to print, e.g. the number of slices.
        disk_bytes: estimated size of all its artifacts.
        cpu_memory_bytes: estimated peak memory if it runs on a CPU; 0 if it is not worth a check.
        hours: estimated duration for each name of pipeline.estimates.compared_hardware().
        assumptions: lines on what the estimates are based on.
        faults: what prevents a run, each with the next step.
    """

    stage: str
    artifacts: list[ArtifactState]
    facts: list[str] = dataclasses.field(default_factory=list)
    disk_bytes: int = 0
    cpu_memory_bytes: int = 0
    hours: dict[str, float] = dataclasses.field(default_factory=dict)
    assumptions: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether every artifact is finished."""
        return all(artifact["state"] == "finished" for artifact in self.artifacts)


def artifact_states(directories: Iterable[Path]) -> list[ArtifactState]:
    """Look at the folders of artifacts."""
    return [
        {"path": str(directory), "state": _state(directory), "wall_seconds": _wall_seconds(directory)}
        for directory in directories
    ]


def add_dry_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run and --json to the main command of a stage."""
    parser.add_argument("--dry-run", action="store_true", help="print artifacts and estimated needs; change nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print them as JSON")


def print_plan(plan: StagePlan, *, as_json: bool) -> None:
    """Print a plan as text or as one JSON object."""
    print(json.dumps(dataclasses.asdict(plan)) if as_json else "\n".join(_lines(plan)))


def parse_plan(text: str) -> StagePlan:
    """Read what `print_plan` printed as JSON."""
    values: dict[str, Any] = json.loads(text)
    return StagePlan(**values)


def describe_artifacts(plan: StagePlan) -> str:
    """The states of a stage's artifacts in one line, e.g. "models: 4 finished, 2 not built"."""
    folders = [Path(artifact["path"]) for artifact in plan.artifacts]
    states = Counter(artifact["state"] for artifact in plan.artifacts)
    if len(folders) == 1:
        return f"{paths.shown(folders[0])}: {plan.artifacts[0]['state']}"
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{paths.shown(folders[0].parent.parent)}: {counts}"


def _lines(plan: StagePlan) -> list[str]:
    lines = [f"{plan.stage:<13} {describe_artifacts(plan)}", *(f"  {fact}" for fact in plan.facts)]
    if plan.disk_bytes:
        lines.append(f"  disk: {format_bytes(plan.disk_bytes)}")
    lines += [f"  hours, {name}: {format_hours(hours)}" for name, hours in plan.hours.items()]
    return lines + [f"  {assumption}" for assumption in plan.assumptions]


def _state(directory: Path) -> str:
    if (directory / MANIFEST).is_file():
        return "finished"
    return "incomplete" if (directory / BUILDING).is_file() else "not built"


def _wall_seconds(directory: Path) -> float | None:
    try:
        return float(json.loads((directory / MANIFEST).read_text())["wall_seconds"])
    except (OSError, ValueError, KeyError):
        return None
