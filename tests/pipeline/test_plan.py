"""The plan of a run: every stage describes itself as JSON, before any package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.estimates import EIGHT_GPUS, ONE_GPU, format_bytes, format_hours
from pipeline.plan import describe, stage_plans
from pipeline.stage_plan import StagePlan, artifact_states, describe_artifacts, parse_plan, print_plan
from pipeline.stages import MAIN_COMMANDS

THIRD_PARTY = {"numpy", "pandas", "tqdm", "joblib", "keras", "tensorflow", "blosc2", "pydicom", "lightgbm", "sklearn"}


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (1_500, "1.5 kB"), (37e6, "37 MB"), (2.88e11, "288 GB")])
def test_bytes_have_two_significant_digits(number: float, text: str) -> None:
    assert format_bytes(number) == text


@pytest.mark.parametrize(("number", "text"), [(0.001, "1 min"), (1.5, "90 min"), (64.2, "64 h"), (100, "4 days")])
def test_hours_have_a_suitable_unit(number: float, text: str) -> None:
    assert format_hours(number) == text


@pytest.mark.parametrize("stage", MAIN_COMMANDS)
def test_a_dry_run_needs_only_the_standard_library(stage: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", stage, MAIN_COMMANDS[stage], "--dry-run", "--json"]
    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT), "PE_ROOT": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    plan = parse_plan(result.stdout)
    assert plan.stage == stage
    assert {artifact["state"] for artifact in plan.artifacts} == {"not built"}
    assert list(tmp_path.iterdir()) == []
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert imported.isdisjoint(THIRD_PARTY)


def test_a_plan_survives_json(capsys) -> None:
    plan = StagePlan(
        "models", artifact_states([Path("/nowhere/a/fold0")]), ["9 slices"], 7, 8, {"here": 1.5}, [], ["x"]
    )
    print_plan(plan, as_json=True)
    assert parse_plan(capsys.readouterr().out) == plan


def test_artifacts_are_finished_incomplete_or_not_built(tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / "net" / f"fold{fold}" for fold in range(4)]
    for folder in folders[:3]:
        folder.mkdir(parents=True)
    for folder in folders[:2]:
        (folder / "manifest.json").write_text('{"wall_seconds": 12.5}')
    (folders[2] / ".building.json").write_text("{}")
    states = artifact_states(folders)
    assert [state["state"] for state in states] == ["finished", "finished", "incomplete", "not built"]
    assert [state["wall_seconds"] for state in states] == [12.5, 12.5, None, None]
    plan = StagePlan("models", states)
    assert describe_artifacts(plan) == f"{tmp_path / 'runs'}: 2 finished, 1 incomplete, 1 not built"
    assert not plan.is_finished


def test_the_plan_of_a_run_lists_artifacts_disk_space_and_hours(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    plans = stage_plans(["--settings", "settings/rsna.toml", "--data", str(tmp_path / "rsna")])
    assert [plan.stage for plan in plans] == list(MAIN_COMMANDS)
    lines = describe(plans, "settings/rsna.toml", ["models"])
    text = "\n".join(lines)
    assert "published counts, 7,929 exams" in text
    assert "features 243 GB" in text and "estimates, not promises" in text
    assert "prepared: not built (not selected)" in text and "models: 20 not built\n" in text
    assert all(any(line.startswith(f"  {machine.name}") for line in lines) for machine in (ONE_GPU, EIGHT_GPUS))
