"""The front door, with a stand-in for Python that writes down what it is asked to do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import paths

RUN = paths.CHECKOUT / "run.sh"
STAGES = ["input prepare", "features build", "models train", "ensemble fit", "submissions write"]

# Passes `-m pipeline` on to the real Python; of a stage it prints what a stage would and obeys FAIL and SLEEP.
STAND_IN = """#!/usr/bin/env bash
[[ ${2:-} == pipeline ]] && exec "$REAL_PYTHON" "$@"
echo "$PWD|${*:2}" >>"$CALLS"
echo "working on $2"
printf '10%%\\r50%%\\r100%%\\n' >&2
[[ ${SLEEP:-} == "$2" ]] && sleep 3
[[ ${FAIL:-} == "$2" ]] && { echo "error: no luck" >&2; exit "${STATUS:-2}"; }
exit 0
"""


class House:
    """A temporary root of products, the stand-in, and what was called."""

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
            [str(RUN), *words], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        """What the stand-in was asked, without the working directory."""
        if not self.calls_file.exists():
            return []
        return [line.split("|", 1)[1] for line in self.calls_file.read_text().splitlines()]

    def log(self, stage: str) -> str:
        return (self.folder / "root" / "logs" / f"{stage}.log").read_text()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_help_teaches_options_verbs_and_examples_without_any_python(house: House) -> None:
    shown = house.run("--help", PE_PYTHON="/nowhere", PATH="/usr/bin:/bin")
    assert shown.returncode == 0
    for word in ("--data", "--settings", "--set", "--from", "--to", "--force", "--dry-run", "predict", "examples"):
        assert word in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 100


def test_without_options_the_five_stages_run_in_order(house: House) -> None:
    done = house.run()
    assert done.returncode == 0, done.stderr
    assert house.calls() == STAGES
    assert "working on models" in done.stdout


def test_options_reach_every_stage_as_they_were_given(house: House) -> None:
    (house.folder / "my data").mkdir()
    words = [
        "--data",
        "my data",
        "--settings=settings/tests.toml",
        "--set",
        "models.epochs=2",
        "--set",
        "input.folds=2",
    ]
    assert house.run(*words).returncode == 0
    given = "--data my data --settings settings/tests.toml --set models.epochs=2 --set input.folds=2"
    assert house.calls() == [f"{stage} {given}" for stage in STAGES]


def test_stages_work_in_the_callers_directory_so_that_relative_paths_hold(house: House) -> None:
    house.run("--to", "input")
    assert house.calls_file.read_text().startswith(f"{house.folder}|")


def test_from_and_to_choose_stages_and_force_reaches_only_them(house: House) -> None:
    assert house.run("--from", "features", "--to", "models", "--force").returncode == 0
    assert house.calls() == ["features build --force", "models train --force"]


def test_a_dry_run_shows_state_and_commands_and_runs_nothing(house: House) -> None:
    shown = house.run("--dry-run", "--from", "models", "--set", "models.epochs=2")
    assert shown.returncode == 0, shown.stderr
    assert house.calls() == []
    assert "input/prepared: not built" in shown.stdout
    assert "would run     python -m models train --set models.epochs=2" in shown.stdout
    assert "-m features build" not in shown.stdout
    assert not (house.folder / "root").exists()


def test_a_dry_run_plans_a_contest_that_is_not_there_yet(house: House) -> None:
    shown = house.run("--dry-run", "--data", "rsna", "--settings", "settings/rsna.toml")
    assert shown.returncode == 0, shown.stderr
    assert "published counts, 7,929 exams" in shown.stdout and "8 GPUs" in shown.stdout
    assert house.calls() == []


def test_a_scheduler_reaches_every_stage(house: House) -> None:
    assert house.run("--scheduler", "tcp://node1:8786", "--to", "features").returncode == 0
    assert house.calls() == [f"{stage} --scheduler tcp://node1:8786" for stage in STAGES[:2]]


@pytest.mark.parametrize("verb", ["scheduler", "worker"])
def test_cluster_verbs_start_dask_with_their_arguments(house: House, verb: str) -> None:
    assert house.run(verb, "tcp://node1:8786", "--nthreads", "4").returncode == 0
    assert house.calls() == [f"distributed.cli.dask_{verb} tcp://node1:8786 --nthreads 4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dat", "x"], "unknown option or verb: --dat"),
        (["trian"], "unknown option or verb: trian"),
        (["--from", "modles"], "--from modles: the stages are input, features, models, ensemble, submissions"),
        (["--to"], "--to needs a value"),
        (["--from", "models", "--to", "input"], "--from models lies after --to input"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
    ],
)
def test_a_wrong_option_is_told_and_nothing_runs(house: House, words: list[str], message: str) -> None:
    told = house.run(*words)
    assert told.returncode == 2
    assert f"error: {message}" in told.stderr
    assert "./run.sh --help" in told.stderr
    assert house.calls() == []


def test_a_misspelt_setting_is_told_before_any_stage(house: House) -> None:
    told = house.run("--set", "models.epoch=3")
    assert told.returncode == 2
    assert "models.epoch: unknown; nearest: epochs" in told.stderr
    assert house.calls() == []


def test_a_failing_stage_names_itself_its_log_and_the_resuming_command(house: House) -> None:
    told = house.run("--set", "models.seed=4", FAIL="models")
    assert told.returncode == 2
    assert house.calls() == [f"{stage} --set models.seed=4" for stage in STAGES[:3]]
    assert "the stage 'models' failed (status 2)" in told.stderr
    assert f"{house.folder}/root/logs/models.log" in told.stderr
    assert f"to go on: {RUN} --set models.seed=4 --from models\n" in told.stderr
    assert "error: no luck" in house.log("models")


def test_the_resuming_command_keeps_quotes_and_the_last_stage(house: House) -> None:
    told = house.run("--set", 'models.backbones=["a"]', "--to", "ensemble", FAIL="input")
    assert f"""to go on: {RUN} --set 'models.backbones=["a"]' --from input --to ensemble\n""" in told.stderr


def test_a_forced_run_resumes_without_throwing_partial_work_away(house: House) -> None:
    told = house.run("--from", "models", "--force", FAIL="models")
    assert f"to go on: {RUN} --from models\n" in told.stderr
    assert f"then, to force the stages behind it too: {RUN} --from ensemble --force\n" in told.stderr


def test_an_interrupted_stage_is_not_called_a_failure(house: House) -> None:
    told = house.run(FAIL="features", STATUS="130")
    assert told.returncode == 130
    assert "failed" not in told.stderr
    assert "--from features" in told.stderr


def test_a_stage_that_is_killed_counts_as_failed(house: House) -> None:
    assert house.run(FAIL="ensemble", STATUS="137").returncode == 137


def test_logs_hold_command_output_and_only_the_last_state_of_a_bar(house: House) -> None:
    house.run("--to", "input")
    house.run("--to", "input")
    log = house.log("input")
    assert log.count("== ") == 2
    assert "-m input prepare" in log
    assert log.splitlines()[1:3] == ["working on input", "100%"]


def test_a_second_run_waits_for_the_first(house: House) -> None:
    environment = house.environment | {"SLEEP": "features"}
    with subprocess.Popen([str(RUN)], env=environment, cwd=house.folder, stdout=subprocess.DEVNULL) as first:
        while "features build" not in house.calls():
            time.sleep(0.05)
        second = house.run("--from", "submissions")
        assert "an earlier run still works" in second.stderr
        assert second.returncode == 0
        assert first.wait(timeout=30) == 0
    assert house.calls() == [*STAGES, STAGES[-1]]


def test_after_kill_9_of_run_sh_the_next_run_waits_for_the_orphaned_stage(house: House) -> None:
    environment = house.environment | {"SLEEP": "features"}
    with subprocess.Popen([str(RUN)], env=environment, cwd=house.folder, stdout=subprocess.DEVNULL) as first:
        while "features build" not in house.calls():
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    again = house.run()
    assert again.returncode == 0
    assert "waiting for it to end" in again.stderr
    assert house.calls() == [*STAGES[:2], *STAGES]


@pytest.mark.parametrize("verb", ["predict", "check", "score", "leaderboard", "evidence"])
def test_verbs_of_the_submissions_get_all_arguments(house: House, verb: str) -> None:
    assert house.run(verb, "some file", "--truth", "t.csv").returncode == 0
    assert house.calls() == [f"submissions {verb} some file --truth t.csv"]


def test_the_status_of_a_verb_is_passed_on(house: House) -> None:
    assert house.run("check", "x.csv", FAIL="submissions", STATUS="1").returncode == 1


def test_the_test_verb_runs_pytest_in_the_checkout(house: House) -> None:
    assert house.run("test", "-k", "metric").returncode == 0
    assert house.calls_file.read_text() == f"{paths.CHECKOUT}|pytest -k metric\n"


def test_doctor_shows_machine_environment_and_products(house: House) -> None:
    shown = house.run("doctor", "--settings", "settings/tests.toml", PE_DEVICE="cpu")
    for word in ("system", "python", "device", "environment", "weights", "libraries", "products", "not built"):
        assert word in shown.stdout
    assert str(house.folder / "root") in shown.stdout


def test_a_machine_without_a_fitting_python_is_told_what_to_install(house: House) -> None:
    tools = house.folder / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "stty", "cat"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    told = house.run("--to", "input", PE_PYTHON="", PE_VENV=str(house.folder / ".venv"), PATH=str(tools))
    assert told.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in told.stderr
    assert "apt-get install python3 python3-venv" in told.stderr
