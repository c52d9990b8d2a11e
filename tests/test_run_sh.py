"""run.sh, with a stand-in for Python that records the commands it receives."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.front_door import SHORTCUTS
from pipeline.stages import MAIN_COMMANDS

RUN_SH = paths.CHECKOUT / "run.sh"
COMMANDS = [f"{stage} {verb}" for stage, verb in MAIN_COMMANDS.items()]

# Passes `-m pipeline...` to the real Python. For a stage it prints what a stage would and obeys FAIL and SLEEP.
STAND_IN = """#!/usr/bin/env bash
[[ ${2:-} == pipeline* ]] && exec "$REAL_PYTHON" "$@"
echo "$PWD|${*:2}" >>"$CALLS"
echo "working on $2"
printf '10%%\\r50%%\\r100%%\\n' >&2
[[ ${SLEEP:-} == "$2" ]] && sleep 3
[[ ${FAIL:-} == "$2" ]] && { echo "error: broken" >&2; exit "${STATUS:-2}"; }
exit 0
"""


class FrontDoor:
    """run.sh with a temporary artifact root and the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        stand_in = folder / "python"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PE_ROOT": str(folder / "root"),
            "PE_PYTHON": str(stand_in),
            "REAL_PYTHON": sys.executable,
            "CALLS": str(self.calls_file),
        }

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        environment = self.environment | variables
        return subprocess.run(
            [str(RUN_SH), *words], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        """The arguments of each call of the stand-in."""
        if not self.calls_file.exists():
            return []
        return [line.split("|", 1)[1] for line in self.calls_file.read_text().splitlines()]

    def log(self, stage: str) -> str:
        return (self.folder / "root" / "logs" / f"{stage}.log").read_text()


@pytest.fixture
def front_door(tmp_path: Path) -> FrontDoor:
    return FrontDoor(tmp_path)


def test_run_sh_lists_the_stages_in_their_order_and_stays_short() -> None:
    text = RUN_SH.read_text()
    assert re.findall(r"^  stage (\w+) +(\w+)", text, flags=re.MULTILINE) == list(MAIN_COMMANDS.items())
    assert len(text.splitlines()) <= 120


def test_run_sh_needs_no_feature_of_bash_4() -> None:
    assert not re.search(r"declare -A|\$\{\w+@|;;&|\$\{\w+(,,|\^\^)|mapfile|readarray|&>>", RUN_SH.read_text())


def test_run_sh_handles_every_command_that_the_help_lists() -> None:
    labels = {label.strip() for line in re.findall(r"^ +([a-z0-9| -]+)\)", RUN_SH.read_text(), flags=re.MULTILINE)
              for label in line.split("|")}  # fmt: skip
    assert set(SHORTCUTS) <= labels


@pytest.mark.parametrize("home", ["missing", "not writable", "usable"])
def test_programs_get_a_home_or_a_cache_that_they_can_write(front_door: FrontDoor, home: str) -> None:
    (front_door.folder / "python").write_text('#!/usr/bin/env bash\necho "$HOME|${XDG_CACHE_HOME:-}"\n')
    if home == "missing":
        del front_door.environment["HOME"]
    elif home == "not writable":
        front_door.environment["HOME"] = "/nowhere"
    cache = f"{paths.CHECKOUT}/.cache"  # below PE_ROOT if the checkout is read-only
    expected = {"missing": f"{cache}|{cache}", "not writable": f"/nowhere|{cache}", "usable": f"{front_door.folder}|"}
    assert front_door.run("models", "fold").stdout.strip() == expected[home]


def test_help_lists_options_commands_examples_and_variables(front_door: FrontDoor) -> None:
    shown = front_door.run("--help", COLUMNS="100")
    assert shown.returncode == 0, shown.stderr
    options = ("--data", "--settings", "--set", "--from", "--to", "--force", "--dry-run", "--scheduler")
    for word in (*options, *SHORTCUTS[:19], "examples", "PE_ROOT", "KERAS_BACKEND"):
        assert word in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 110
    assert front_door.calls() == []


def test_without_options_the_stages_run_in_order(front_door: FrontDoor) -> None:
    done = front_door.run()
    assert done.returncode == 0, done.stderr
    assert front_door.calls() == COMMANDS
    assert "working on models" in done.stdout


def test_options_reach_every_stage(front_door: FrontDoor) -> None:
    (front_door.folder / "my data").mkdir()
    words = ["--data", "my data", "--settings=settings/tests.toml"]
    words += ["--set", "models.epochs=2", "--set", "input.folds=2"]
    assert front_door.run(*words).returncode == 0
    options = "--data my data --settings settings/tests.toml --set models.epochs=2 --set input.folds=2"
    assert front_door.calls() == [f"{command} {options}" for command in COMMANDS]


def test_stages_run_in_the_working_directory_of_the_caller(front_door: FrontDoor) -> None:
    front_door.run("--to", "input")
    assert front_door.calls_file.read_text().startswith(f"{front_door.folder}|")


def test_from_and_to_select_stages_and_force_reaches_only_them(front_door: FrontDoor) -> None:
    assert front_door.run("--from", "features", "--to", "models", "--force").returncode == 0
    assert front_door.calls() == ["features build --force", "models train --force"]


def test_a_dry_run_shows_artifacts_and_runs_nothing(front_door: FrontDoor) -> None:
    shown = front_door.run("--dry-run", "--from", "models", "--set", "models.epochs=2")
    assert shown.returncode == 0, shown.stderr
    assert front_door.calls() == []
    assert "experiments/phantom,models.epochs=2/artifacts/prepared: not built (not selected)" in shown.stdout
    assert re.search(r"^models .*models: \d+ not built$", shown.stdout, flags=re.MULTILINE)
    assert not (front_door.folder / "root").exists()


def test_a_dry_run_plans_a_contest_that_is_not_downloaded(front_door: FrontDoor) -> None:
    shown = front_door.run("--dry-run", "--data", "rsna", "--settings", "settings/rsna.toml")
    assert shown.returncode == 0, shown.stderr
    assert "published counts, 7,929 exams" in shown.stdout and "8 GPUs" in shown.stdout
    assert front_door.calls() == []


def test_a_scheduler_reaches_every_stage(front_door: FrontDoor) -> None:
    assert front_door.run("--scheduler", "tcp://node1:8786", "--to", "features").returncode == 0
    assert front_door.calls() == [f"{command} --scheduler tcp://node1:8786" for command in COMMANDS[:2]]


@pytest.mark.parametrize("command", ["scheduler", "worker"])
def test_cluster_commands_start_dask_with_their_arguments(front_door: FrontDoor, command: str) -> None:
    assert front_door.run(command, "tcp://node1:8786", "--nthreads", "4").returncode == 0
    assert front_door.calls() == [f"distributed.cli.dask_{command} tcp://node1:8786 --nthreads 4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dat", "x"], "unknown option or command: --dat"),
        (["scor"], "unknown option or command: scor. Did you mean score?"),
        (["--from", "modles"], "argument --from: invalid choice: 'modles' (choose from "),
        (["--to"], "argument --to: expected one argument"),
        (["--from", "models", "--to", "input"], "--from models is after --to input"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
    ],
)
def test_a_wrong_option_is_reported_and_nothing_runs(front_door: FrontDoor, words: list[str], message: str) -> None:
    result = front_door.run(*words)
    assert result.returncode == 2
    assert f"error: {message}" in result.stderr
    assert "./run.sh --help" in result.stderr
    assert front_door.calls() == []


def test_a_misspelt_setting_is_reported_before_any_stage(front_door: FrontDoor) -> None:
    result = front_door.run("--set", "models.epoch=3")
    assert result.returncode == 2
    assert "models.epoch: unknown; nearest: epochs" in result.stderr
    assert front_door.calls() == []


def test_a_failed_stage_names_itself_its_log_and_the_resuming_command(front_door: FrontDoor) -> None:
    result = front_door.run("--set", "models.seed=4", FAIL="models")
    assert result.returncode == 2
    assert front_door.calls() == [f"{command} --set models.seed=4" for command in COMMANDS[:3]]
    assert "the stage 'models' failed (status 2)" in result.stderr
    assert f"{front_door.folder}/root/logs/models.log" in result.stderr
    assert f"Resume: {RUN_SH} --set models.seed=4 --from models\n" in result.stderr
    assert "error: broken" in front_door.log("models")


def test_the_resuming_command_keeps_quotes_and_the_last_stage(front_door: FrontDoor) -> None:
    result = front_door.run("--set", 'models.backbones=["a"]', "--to", "ensemble", FAIL="input")
    assert f"""Resume: {RUN_SH} --set 'models.backbones=["a"]' --from input --to ensemble\n""" in result.stderr


def test_a_forced_run_resumes_without_discarding_partial_work(front_door: FrontDoor) -> None:
    result = front_door.run("--from", "models", "--force", FAIL="models")
    assert f"Resume: {RUN_SH} --from models\n" in result.stderr
    assert f"Then rebuild the later stages: {RUN_SH} --from ensemble --force\n" in result.stderr


def test_an_interrupted_stage_is_not_reported_as_a_failure(front_door: FrontDoor) -> None:
    result = front_door.run(FAIL="features", STATUS="130")
    assert result.returncode == 130
    assert "failed" not in result.stderr
    assert "--from features" in result.stderr


def test_a_killed_stage_counts_as_failed(front_door: FrontDoor) -> None:
    assert front_door.run(FAIL="ensemble", STATUS="137").returncode == 137


@pytest.mark.slow
def test_logs_contain_the_output_and_only_the_last_state_of_a_progress_bar(front_door: FrontDoor) -> None:
    front_door.run("--to", "input")
    front_door.run("--to", "input")
    log = front_door.log("input")
    assert log.count("== ") == 2
    assert "./run.sh input prepare" in log
    assert log.splitlines()[1:3] == ["working on input", "100%"]


@pytest.mark.slow
def test_a_second_run_waits_for_the_first(front_door: FrontDoor) -> None:
    environment = front_door.environment | {"SLEEP": "features"}
    with subprocess.Popen([str(RUN_SH)], env=environment, cwd=front_door.folder, stdout=subprocess.DEVNULL) as first:
        while "features build" not in front_door.calls():
            time.sleep(0.05)
        second = front_door.run("--from", "submissions")
        assert "Another run is using" in second.stderr
        assert second.returncode == 0
        assert first.wait(timeout=30) == 0
    assert front_door.calls() == [*COMMANDS, *COMMANDS[-2:]]


@pytest.mark.slow
def test_after_kill_9_of_run_sh_the_next_run_waits_for_the_orphaned_stage(front_door: FrontDoor) -> None:
    environment = front_door.environment | {"SLEEP": "features"}
    with subprocess.Popen([str(RUN_SH)], env=environment, cwd=front_door.folder, stdout=subprocess.DEVNULL) as first:
        while "features build" not in front_door.calls():
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    again = front_door.run()
    assert again.returncode == 0
    assert "waiting for it to end" in again.stderr
    assert front_door.calls() == [*COMMANDS[:2], *COMMANDS]


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        ("predict", "inference"),
        ("predict-contest", "inference"),
        ("evidence", "inference"),
        ("export-dicom", "inference"),
        ("check-data", "input"),
        ("check-store", "features"),
        ("check-submission", "submissions"),
        ("score", "submissions"),
        ("leaderboard", "submissions"),
        ("kaggle-dataset", "submissions"),
    ],
)
def test_a_shortcut_runs_its_stage_with_all_arguments(front_door: FrontDoor, command: str, stage: str) -> None:
    assert front_door.run(command, "some file", "--truth", "t.csv").returncode == 0
    assert front_door.calls() == [f"{stage} {command} some file --truth t.csv"]


@pytest.mark.parametrize("stage", MAIN_COMMANDS)
def test_any_command_of_a_stage_can_be_run(front_door: FrontDoor, stage: str) -> None:
    assert front_door.run(stage, "some-verb", "--help").returncode == 0
    assert front_door.calls() == [f"{stage} some-verb --help"]


def test_bench_runs_a_benchmark(front_door: FrontDoor) -> None:
    assert front_door.run("bench", "ingest_speed", "--memory", "10").returncode == 0
    assert front_door.calls() == ["benchmarks.ingest_speed --memory 10"]
    assert front_door.run("bench").returncode == 2


def test_the_status_of_a_command_is_returned(front_door: FrontDoor) -> None:
    assert front_door.run("check-submission", "x.csv", FAIL="submissions", STATUS="1").returncode == 1


def test_the_test_command_runs_pytest_in_the_checkout(front_door: FrontDoor) -> None:
    assert front_door.run("test", "-k", "metric").returncode == 0
    assert (
        front_door.calls_file.read_text() == f"{paths.CHECKOUT}|pytest --numprocesses auto --dist loadfile "
        "--no-loadscope-reorder -k metric\n"
    )


def test_doctor_shows_machine_environment_and_artifacts(front_door: FrontDoor) -> None:
    shown = front_door.run("doctor", "--settings", "settings/tests.toml", PE_DEVICE="cpu")
    for word in ("system", "python", "device", "environment", "weights", "libraries", "artifacts", "not built"):
        assert word in shown.stdout
    assert str(front_door.folder / "root") in shown.stdout


def test_without_a_suitable_python_the_message_says_what_to_install(front_door: FrontDoor) -> None:
    tools = front_door.folder / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    venv = str(front_door.folder / ".venv")
    result = front_door.run("--to", "input", PE_PYTHON="", PE_VENV=venv, PATH=str(tools))
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in result.stderr
    assert "apt-get install python3 python3-venv" in result.stderr
