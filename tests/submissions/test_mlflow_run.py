"""A run in MLflow: what is reported is read back from a file store; without the setting nothing is imported."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from models.network_artifacts import network_artifact
from pipeline import experiments, paths
from pipeline.cli import add_experiment_arguments, experiment_options, settings_from
from pipeline.errors import UserError
from pipeline.experiments import start
from pipeline.files import write_json, write_table
from pipeline.settings import InputSettings, ModelsSettings, Settings, SubmissionsSettings, TrackingSettings
from submissions import mlflow_run
from submissions.leaderboard import leaderboard_path, read_leaderboard
from submissions.mlflow_run import EXPERIMENT, artifact_location, tracking_uri
from submissions.write_submission import write_all
from tests.support.submission_cases import random_labels, write_ensemble, write_tree

HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.7], "learning_rate": [1e-3, 5e-4]})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A small contest with a finished ensemble and one trained network."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    train, test = random_labels(30, seed=1), random_labels(12, seed=2, first=100)
    write_tree(tmp_path / "contest", train, test)
    write_ensemble(tmp_path / "root", train, test, {"prior": 0.0, "stack": 2.0})
    write_table(paths.model_run("mobilenetv2@b", 0) / "history.csv", HISTORY)
    return Settings(
        input=InputSettings(data=str(tmp_path / "contest"), folds=2),
        models=ModelsSettings(backbones=("mobilenetv2@b",)),
        submissions=SubmissionsSettings(bootstrap=20),
        tracking=TrackingSettings(mlflow=str(tmp_path / "tracking")),
    )


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The package with the variables that this project sets, and without any connection."""
    import socket

    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was opened")

    for name, value in mlflow_run.VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield pytest.importorskip("mlflow")


def test_parameters_metrics_and_results_are_read_back(settings: Settings, mlflow, tmp_path: Path) -> None:
    write_all(settings)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "tracking").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", paths.UNNAMED)
    assert run.data.params["models.epochs"] == "5" and run.data.params["input.data"] == ""
    assert not any(key.startswith("tracking") for key in run.data.params)
    rows = read_leaderboard(leaderboard_path()).set_index("candidate")
    for candidate in ("prior", "stack"):
        for column in ("cv", "cv_low", "test"):
            assert run.data.metrics[f"{candidate}/{column}"] == pytest.approx(rows.loc[candidate, column])
    assert run.data.metrics["cv"] == run.data.metrics["stack/cv"] and run.data.tags["pe.candidate"] == "stack"
    history = client.get_metric_history(run.info.run_id, "mobilenetv2_b/fold0/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.9), (2, 0.7)]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"submission.csv", "report.md", "report.png", "model_card.md"} <= files
    stored = Path(client.download_artifacts(run.info.run_id, "submission.csv", str(tmp_path)))
    assert stored.read_bytes() == (paths.submissions() / "submission.csv").read_bytes()


def test_a_run_is_reported_once_and_a_killed_report_is_repeated(
    settings: Settings, mlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        """Ends a report as a signal would."""

    def killed() -> list[Path]:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(mlflow_run, "result_files", killed)
        write_all(settings)
    write_all(settings)
    capsys.readouterr()
    write_all(settings)
    assert "tracking: up to date" in capsys.readouterr().out
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "tracking").as_uri())
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


def test_a_fault_of_mlflow_does_not_end_the_run(
    settings: Settings, mlflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tracking").write_text("a file")
    write_all(settings)
    assert f"not reported to {tmp_path / 'tracking'}: " in capsys.readouterr().out
    assert (paths.submissions() / "submission.csv").is_file()


def test_without_the_setting_mlflow_is_not_imported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # an import would fail
    monkeypatch.delitem(sys.modules, "submissions.mlflow_run")
    write_all(dataclasses.replace(settings, tracking=TrackingSettings()))
    assert "submissions.mlflow_run" not in sys.modules


def test_a_missing_mlflow_is_one_line_before_any_work(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="mlflow is not installed. Install it: .* -m pip install mlflow-skinny$"):
        start(settings)
    assert not (paths.experiment() / experiments.SETTINGS).exists()


def test_tracking_is_no_part_of_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(experiments.importlib.util, "find_spec", lambda name: name)
    parser = argparse.ArgumentParser()
    add_experiment_arguments(parser)

    def select(*words: str) -> tuple[Settings, list[str]]:
        arguments = parser.parse_args(["--settings", "settings/tests.toml", *words])
        return settings_from(arguments), experiment_options(arguments)

    plain, _ = select()
    start(plain)
    tracked, options = select("--set", "tracking.mlflow=http://user:secret@host")
    assert tracked.tracking.mlflow == "http://user:secret@host" and "tracking.mlflow=http://user:secret@host" in options
    assert paths.experiment().name == "tests" and tracked.as_dict() == plain.as_dict()
    assert tracked.without_paths() == plain.without_paths()
    start(tracked)
    assert "secret" not in (paths.experiment() / experiments.SETTINGS).read_text()
    for folder in (paths.prepared(), paths.store(), paths.masks()):
        write_json(folder / "manifest.json", {"identity": folder.name})
    identities = {network_artifact(settings, "mobilenetv2", 0).identity for settings in (plain, tracked)}
    assert len(identities) == 1
    arguments = parser.parse_args(["--name", "tests", "--set", "tracking.mlflow=there"])
    recalled = settings_from(arguments)
    assert recalled.phantom.name == "tiny" and recalled.tracking.mlflow == "there"


@pytest.mark.parametrize("uri", ["https://host:5000", "sqlite:////folder/mlflow.db", "file:///folder", "databricks"])
def test_a_uri_is_used_as_it_is(uri: str) -> None:
    assert tracking_uri(uri) == uri


def test_a_folder_is_a_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("runs") == (tmp_path / "runs").resolve().as_uri()
    assert artifact_location("sqlite:////folder/mlflow.db") == "file:///folder/mlflow-artifacts"
    assert artifact_location("https://host:5000") is None
