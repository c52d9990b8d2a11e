"""The plan of a whole run: what exists, what would run, and its estimated disk space and hours; standard library only.

Every stage describes itself: its main command runs with `--dry-run --json` in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from pipeline import paths
from pipeline.errors import UserError
from pipeline.estimates import format_bytes, format_hours
from pipeline.machine import free_disk_bytes
from pipeline.stage_plan import StagePlan, describe_artifacts, parse_plan
from pipeline.stages import MAIN_COMMANDS


def stage_plans(options: Sequence[str]) -> list[StagePlan]:
    """Collect the plans of all stages, in the order of a run.

    Args:
        options: the experiment's options, e.g. `--settings FILE`, as pipeline.cli.experiment_options returns them.

    Raises:
        UserError: a stage's command failed; with its message.
    """
    environment = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT)}
    plans = []
    for stage, verb in MAIN_COMMANDS.items():
        command = [sys.executable, "-m", stage, verb, *options, "--dry-run", "--json"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise UserError(f"./run.sh {stage} {verb} --dry-run failed: {result.stderr.strip()}")
        plans.append(parse_plan(result.stdout))
    return plans


def describe(plans: Sequence[StagePlan], settings_file: str, selected: Sequence[str]) -> list[str]:
    """The lines that `./run.sh --dry-run` prints.

    Args:
        plans: of all stages.
        settings_file: as given on the command line.
        selected: names of the stages that would run.
    """
    lines = [f"{'settings':<13} {settings_file}"]
    for plan in plans:
        note = "" if plan.stage in selected else " (not selected)"
        lines += [f"{plan.stage:<13} {describe_artifacts(plan)}{note}", *(f"  {fact}" for fact in plan.facts)]
    disk = ", ".join(f"{plan.stage} {format_bytes(plan.disk_bytes)}" for plan in plans if plan.disk_bytes)
    free = f"{format_bytes(free_disk_bytes(paths.root()))} free at {paths.root()}"
    lines += [f"{'disk':<13} {disk}; {free}", f"{'hours':<13} estimates, not promises:"]
    for name in dict.fromkeys(name for plan in plans for name in plan.hours):
        hours = [f"{plan.stage} {format_hours(plan.hours[name]):>8}" for plan in plans if name in plan.hours]
        lines.append(f"  {name:<36} {'   '.join(hours)}")
    return lines + [f"  {assumption}" for plan in plans for assumption in plan.assumptions]
