"""Exit of a command, the arguments that all stages share, console output and paths."""

import argparse
import errno
import os
import subprocess
import sys
import time

import pytest

from pipeline import console, paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import muted, progress, progress_visible, reminders, say
from pipeline.errors import UserError


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_settings_arguments(parser)
    return parser.parse_args(words)


def raising(fault: BaseException):
    def main() -> None:
        raise fault

    return main


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_is_what_main_returns(returned: int | None, status: int) -> None:
    with pytest.raises(SystemExit) as ended:
        run(lambda: returned)
    assert ended.value.code == status


def test_a_user_error_is_one_readable_message_without_a_traceback(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(raising(UserError("train.csv: 3 rows without a label")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: train.csv: 3 rows without a label\n"


def test_an_interrupt_names_the_command_that_resumes(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(raising(KeyboardInterrupt()))
    assert ended.value.code == 130
    assert "Rerun the same command to resume." in capsys.readouterr().err


def test_a_full_disk_is_one_message_that_names_the_place(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(raising(OSError(errno.ENOSPC, "No space left on device", "/data/x.parquet")))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the disk is full: /data/x.parquet. Delete some files, or set ")
    with pytest.raises(PermissionError):
        run(raising(PermissionError(errno.EACCES, "Permission denied")))


def test_other_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_a_listing_shows_forty_faults_and_counts_the_others() -> None:
    message = str(UserError.listing("Faults:", (f"row {i}" for i in range(45)), "Correct them."))
    assert message.splitlines()[0] == "Faults:"
    assert "  - row 39" in message
    assert "row 40" not in message
    assert message.splitlines()[-2:] == ["  ... and 5 more", "Correct them."]


def test_arguments_become_settings(tmp_path) -> None:
    words = ["--settings", "settings/tests.toml", "--set", "input.folds=4", "--set", "models.epochs=2"]
    settings = settings_from(parse(*words, "--data", str(tmp_path)))
    assert (settings.input.folds, settings.models.epochs) == (4, 2)
    assert settings.data_root == tmp_path.resolve()


def test_without_arguments_the_phantom_is_used() -> None:
    arguments = parse()
    assert settings_from(arguments).is_phantom
    assert arguments.force is False


def test_a_progress_bar_is_shown_only_on_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.delenv("PE_PROGRESS", raising=False)
    assert list(progress([1, 2], desc="exams")) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("PE_PROGRESS", "1")
    assert progress_visible()
    assert list(progress([1, 2], desc="exams")) == [1, 2]
    assert "exams" in capsys.readouterr().err


def test_one_variable_moves_all_artifacts(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    folders = [paths.raw(), paths.prepared(), paths.store(), paths.weights(), paths.model_run("m", 1)]
    folders += [paths.ensemble_run(), paths.submissions(), paths.logs()]
    assert all(folder.is_relative_to(tmp_path.resolve()) for folder in folders)
    monkeypatch.delenv("PE_ROOT")
    assert paths.prepared().is_relative_to(paths.CHECKOUT / "experiments")


@pytest.mark.parametrize("stage", ["input", "features", "models", "ensemble", "submissions", "inference", "pipeline"])
def test_help_has_an_example_and_imports_no_heavy_library(stage: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", stage, "--help"]
    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT)}
    shown = subprocess.run(command, capture_output=True, text=True, cwd=paths.CHECKOUT, env=environment, check=True)
    assert "example" in shown.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
    assert imported.isdisjoint({"tensorflow", "keras", "lightgbm", "matplotlib", "sklearn"})


def test_a_long_silent_step_prints_reminders(monkeypatch, capsys) -> None:
    monkeypatch.setattr(console, "SECONDS_PER_LINE", 0.02)
    with reminders(lambda: "search: trial 3"), muted():
        say("a remark of the step")
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and set(lines) == {"search: trial 3"}
    say("after it")
    assert capsys.readouterr().out == "after it\n"
