"""A finished run in MLflow, if `tracking.mlflow` is set to a folder or a tracking URI: parameters, metrics, results.

    parameters    the settings
    metrics       <network>/fold<k>/loss, .../learning_rate, ...: one value per epoch
                  <candidate>/cv, <candidate>/test, ...: the leaderboard's columns; cv, test, ...: of the promoted one
    artifacts     submission.csv, report.md, report.png, model card, settings, learning curves

A folder is an MLflow file store; no server is needed, and no connection is opened. A run that is reported already is
not reported again. mlflow is imported here alone, and only if the setting is used.
"""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from models.network_names import network_names
from pipeline import paths
from pipeline.console import say
from pipeline.experiments import SETTINGS
from pipeline.files import read_table
from pipeline.identity import flat
from pipeline.settings import Settings
from submissions.finished_run import SUBMISSION
from submissions.leaderboard import KEY, rows_of_run

if TYPE_CHECKING:
    import mlflow

#: Name of the MLflow experiment that contains the runs of all experiments.
EXPERIMENT = "pulmonary-embolism"
#: Tags that identify a run.
NAME_TAG, RUN_TAG = "pe.experiment", "pe.run"
#: What MLflow accepts at once.
BATCH = 100
#: Set before mlflow is imported, unless the user has set them. File stores are off by default in newer versions.
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def report_run(settings: Settings, run: str) -> None:
    """Report a finished run. A fault of MLflow is printed: the results do not depend on it.

    Args:
        settings: those of the run.
        run: identity of its submissions.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    target = settings.tracking.mlflow
    try:
        client = MlflowClient(tracking_uri=tracking_uri(target))
        if _is_reported(client, run):
            say(f"mlflow:      {target}: up to date")
            return
        _report(client, settings, run)
        say(f"mlflow:      {target}, experiment {EXPERIMENT}, run {paths.experiment().name}")
    except (MlflowException, OSError) as fault:
        reason = str(fault).strip().splitlines()[0]
        say(f"mlflow:      not reported to {target}: {reason}. The results are complete. Report them: ./run.sh again")


def tracking_uri(target: str) -> str:
    """The tracking URI of `tracking.mlflow`: a URI as it is, and a folder as a file store."""
    if "://" in target or re.match(r"(file|databricks)\b:?", target):
        return target
    return Path(target).expanduser().resolve().as_uri()


def artifact_location(uri: str) -> str | None:
    """Where the files of runs go: beside an SQLite file, not in the working directory; None: MLflow's choice."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts").as_uri()


def _is_reported(client: "mlflow.MlflowClient", run: str) -> bool:
    """Whether MLflow has the whole run; what a killed report left behind is marked as killed."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return False
    wanted = f"tags.`{NAME_TAG}` = '{paths.experiment().name}' and tags.`{RUN_TAG}` = '{run}'"
    states = {}
    for known in client.search_runs([experiment.experiment_id], filter_string=wanted):
        states[known.info.run_id] = known.info.status
        if known.info.status == "RUNNING":
            client.set_terminated(known.info.run_id, "KILLED")
    return "FINISHED" in states.values()


def _report(client: "mlflow.MlflowClient", settings: Settings, run: str) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    name = paths.experiment().name
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        experiment_id = experiment.experiment_id
    else:
        location = artifact_location(tracking_uri(settings.tracking.mlflow))
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
    created = client.create_run(
        experiment_id, start_time=now, run_name=name, tags={NAME_TAG: name, RUN_TAG: run, **_facts(run)}
    )
    run_id = created.info.run_id
    parameters = [Param(key, str(value)) for key, value in flat(settings.without_paths()).items()]
    metrics = [
        Metric(re.sub(r"[^\w\-. /]", "_", key), value, now, step)
        for key, value, step in (*epoch_metrics(settings), *candidate_metrics(run))
    ]
    for first in range(0, len(parameters), BATCH):
        client.log_batch(run_id, params=parameters[first : first + BATCH])
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + BATCH])
    for file in result_files():
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id, "FINISHED")


def epoch_metrics(settings: Settings) -> Iterator[tuple[str, float, int]]:
    """(name, value, epoch) of every network's history."""
    for network in network_names(settings.models):
        for fold in range(settings.input.folds):
            file = paths.model_run(network, fold) / "history.csv"
            if not file.is_file():
                continue
            for row in read_table(file).to_dict("records"):
                epoch = int(row.pop("epoch"))
                yield from (
                    (f"{network}/fold{fold}/{column}", float(value), epoch)
                    for column, value in row.items()
                    if np.isfinite(value)
                )


def candidate_metrics(run: str) -> Iterator[tuple[str, float, int]]:
    """(name, value, 0) of every candidate's row of the leaderboard, and of the promoted one without its name."""
    for row in rows_of_run(run).to_dict("records"):
        prefixes = [f"{row['candidate']}/", *([""] if _is_promoted(row) else [])]
        for column, value in row.items():
            if column not in (*KEY, "promoted") and isinstance(value, float) and np.isfinite(value):
                yield from ((f"{prefix}{column}", value, 0) for prefix in prefixes)


def result_files() -> list[Path]:
    """The files of the experiment that are reported, as far as they exist."""
    names = (SUBMISSION, "report.md", "report.png", "model_card.md", "model_card.json", SETTINGS)
    files = [*(paths.submissions() / name for name in names), paths.learning_curves()]
    return [file for file in files if file.is_file()]


def _facts(run: str) -> dict[str, str]:
    """Facts of the run for MLflow's tags."""
    rows = rows_of_run(run)
    promoted = next((row for row in rows.to_dict("records") if _is_promoted(row)), None)
    if promoted is None:
        return {}
    return {f"pe.{key}": str(promoted[key]) for key in ("candidate", "data", "commit") if pd.notna(promoted[key])}


def _is_promoted(row: dict[str, Any]) -> bool:
    return str(row["promoted"]).lower() == "true"
