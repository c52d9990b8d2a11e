"""The artifact of this stage: a valid CSV for every candidate, leaderboard rows, the report and the model card."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.decode import decode
from features.build_acceptance import read_acceptance
from input.tables import load_exams, load_slices, verify_generated
from pipeline import paths
from pipeline.artifact import Artifact, verify
from pipeline.console import progress, say
from pipeline.files import atomic_path
from pipeline.identity import identity_of
from pipeline.settings import Settings
from submissions.bootstrap_intervals import resample_counts
from submissions.check_submission import require_valid
from submissions.finished_run import (
    SUBMISSION,
    TEST_TRUTH,
    Candidates,
    quarantined_slices,
    read_candidates,
    submission_artifact,
    trained_on_phantoms,
    truth_path,
)
from submissions.hardware import hardware
from submissions.kaggle_csv import Layout, read_layout, write_submission
from submissions.leaderboard import (
    append,
    commit,
    cv_columns,
    leaderboard_path,
    rows_of_run,
    run_legend,
    run_table,
    truth_columns,
)
from submissions.model_card import write_card
from submissions.not_assessable import PriorPolicy, prior_policy
from submissions.score import Score, Truth, prepared_truth, read_predictions, read_truth, score
from submissions.score_report import SYNTHETIC, write_report


def write_all(settings: Settings, *, force: bool = False) -> None:
    """Decode, write, check and score every candidate's submission, and print the results and their paths.

    Args:
        settings: those of the finished run.
        force: rebuild an artifact that is up to date.

    Raises:
        UserError: no finished ensemble, damaged files, or a submission that is not valid.
    """
    verify_generated(settings, "test.csv", "sample_submission.csv", TEST_TRUTH)
    candidates = read_candidates(paths.ensemble_run())
    artifact = submission_artifact(settings, candidates)
    if artifact.is_current(force=force):
        verify(artifact.directory)
    else:
        with artifact.building(fresh=force):
            rows = _build(settings, candidates, artifact)
            artifact.finish(
                rows={"candidates": len(candidates.names), **rows},
                metrics={"promoted": candidates.promoted},
                is_phantom=trained_on_phantoms(),
                hardware=hardware(),
                run_settings=settings.without_paths(),
            )
    if len(rows_of_run(artifact.identity)):
        write_card(settings)
    else:
        board = paths.shown(leaderboard_path())
        say(f"{board}: no row of this run, so no model card is written. Add both: ./run.sh --from submissions --force")
    _print_results(settings, artifact.identity)
    if settings.tracking.mlflow:
        from submissions.mlflow_run import report_run

        report_run(settings, artifact.identity)


def _build(settings: Settings, candidates: Candidates, artifact: Artifact) -> dict[str, int]:
    """Write the artifact's files and the leaderboard's rows; return row counts for the manifest."""
    layout = read_layout(settings.data_root)
    policy = prior_policy(candidates, read_acceptance(), prepared_truth(load_exams(), load_slices()))
    for name in progress(candidates.names, desc="submissions", unit="candidate"):
        write_candidate(artifact.directory / f"{name}.csv", *policy.predictions(candidates, name, "test"), layout)
    with atomic_path(artifact.directory / SUBMISSION) as temporary:
        shutil.copyfile(artifact.directory / f"{candidates.promoted}.csv", temporary)
    require_valid(artifact.directory / SUBMISSION, layout)

    scores = _out_of_fold_scores(settings, candidates, policy)
    tests = _test_scores(settings, candidates, artifact.directory)
    facts = _facts(settings, artifact.identity)
    rows = [
        {
            **facts,
            "candidate": name,
            "promoted": name == candidates.promoted,
            **cv_columns(*scores[name]),
            **(truth_columns(tests[name]) if tests else {}),
        }
        for name in candidates.names
    ]
    append(leaderboard_path(), rows)
    write_report(
        artifact.directory,
        rows=rows_of_run(artifact.identity),
        out_of_fold={name: decoded for name, (decoded, _) in scores.items()},
        test=tests,
        quarantined=quarantined_slices(),
        is_phantom=trained_on_phantoms(),
        settings=settings.submissions,
        folds=_training_folds(),
        policy=policy,
    )
    return {"exams": len(layout.studies), "slices": len(layout.slices), "submission": len(layout.ids)}


def _training_folds() -> np.ndarray:
    exams = load_exams()
    return exams.loc[exams["split"] == "train", "fold"].to_numpy()


def write_candidate(path: Path, exams: pd.DataFrame, slices: pd.DataFrame, layout: Layout) -> None:
    """Decode predictions, write the submission, and check the written file.

    Args:
        path: the CSV.
        exams: StudyInstanceUID, the nine labels and optionally expected_q, one row per exam.
        slices: StudyInstanceUID, SOPInstanceUID and `label`, one row per slice.
        layout: the rows and their order.

    Raises:
        UserError: incomplete predictions, or a written file that is not valid.
    """
    decoded_exams, decoded_slices = decode(exams, slices)
    write_submission(path, decoded_exams, decoded_slices, layout)
    require_valid(path, layout)


def _out_of_fold_scores(
    settings: Settings, candidates: Candidates, policy: PriorPolicy
) -> dict[str, tuple[Score, float]]:
    """Score of every candidate's decoded out-of-fold predictions, and the decoding cost."""
    truth = prepared_truth(load_exams(), load_slices())
    counts = _counts(settings, truth)
    scores = {}
    for name in progress(candidates.names, desc="out-of-fold scores", unit="candidate"):
        exams, slices = policy.predictions(candidates, name, "oof")
        raw = score(truth, exams, slices)
        decoded = score(truth, *decode(exams, slices), counts=counts, seed=settings.submissions.seed)
        scores[name] = decoded, decoded.total.value - raw.total.value
    return scores


def _test_scores(settings: Settings, candidates: Candidates, directory: Path) -> dict[str, Score]:
    """Scores of the written files on the test truth, which no earlier step reads; empty without a test truth."""
    path = truth_path(settings)
    if not path.is_file():
        return {}
    truth = read_truth(path)
    counts = _counts(settings, truth)
    return {
        name: score(
            truth, *read_predictions(directory / f"{name}.csv", truth), counts=counts, seed=settings.submissions.seed
        )
        for name in progress(candidates.names, desc="test scores", unit="candidate")
    }


def _counts(settings: Settings, truth: Truth) -> np.ndarray:
    return resample_counts(len(truth.exams), settings.submissions.bootstrap, settings.submissions.seed)


def _facts(settings: Settings, run: str) -> dict[str, Any]:
    phantom = settings.phantom
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "run": run,
        "experiment": paths.experiment().name,
        "settings": identity_of(settings.as_dict()),
        "commit": commit(),
        "data": f"phantom {phantom.name} (seed {phantom.seed})" if settings.is_phantom else settings.data_root.name,
    }


def _print_results(settings: Settings, run: str) -> None:
    directory = paths.shown(paths.submissions())
    rows = rows_of_run(run)
    if len(rows):
        say(f"\n{run_table(rows)}\n\n{run_legend(rows)}\n")
    if trained_on_phantoms():
        say(SYNTHETIC)
    say(f"submission:  {directory}/{SUBMISSION}  (each candidate: {directory}/<candidate>.csv)")
    say(f"report:      {directory}/report.md, report.png")
    say(f"model card:  {directory}/model_card.md, model_card.json")
    say(f"leaderboard: {paths.shown(leaderboard_path())}  (all runs: ./run.sh leaderboard)")
    check = f"./run.sh check-submission {directory}/{SUBMISSION} --data {paths.shown(settings.data_root)}"
    say(f"check it:    {check}")
