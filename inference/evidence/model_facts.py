"""Facts about the promoted model for the evidence report: scores, curves, folds, operating points, provenance."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ensemble.decode import decode
from features.store import store_table
from inference.evidence.reliability import Reliability, reliability
from input.contest import STUDY
from input.tables import load_exams, load_slices
from models.network_names import network_names
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.identity import identity_of
from pipeline.settings import Settings
from submissions.bootstrap_intervals import RankedScores
from submissions.finished_run import (
    ARTIFACT_NAME,
    SUBMISSION,
    Candidates,
    known_test_truth,
    quarantined_slices,
    trained_on_phantoms,
)
from submissions.leaderboard import commit, leaderboard_path, read_leaderboard
from submissions.operating_points import OperatingPoint, operating_points
from submissions.score import Score, prepared_truth, read_predictions, score

#: Names of the two sets of exams that are scored.
OUT_OF_FOLD, TEST = "out of fold", "test"


@dataclasses.dataclass(frozen=True)
class Model:
    """The promoted candidate.

    Attributes:
        name: of the candidate.
        leaderboard: the leaderboard's rows of this run; empty without submissions of this ensemble.
        scores: `out of fold`, and `test` if there are submissions of this ensemble and a test truth: the same
            figures as in report.md.
        reliability: of every label, out of fold.
        operating_points: on the same sets of exams, as in report.md.
        folds: one row per fold, including the slice networks' own AUC on it.
        artifacts: manifests, in the order of the stages.
        quarantined: STUDY, SOP, quarantine of every slice that no network received.
        is_phantom: trained on synthetic exams.
        settings: identity of the resolved settings.
        commit: the checkout's current commit.
    """

    name: str
    leaderboard: pd.DataFrame
    scores: dict[str, Score]
    reliability: Reliability
    operating_points: dict[str, OperatingPoint]
    folds: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    quarantined: pd.DataFrame
    is_phantom: bool
    settings: str
    commit: str


def describe_model(settings: Settings, candidates: Candidates) -> Model:
    """Gather the facts about the promoted candidate from the artifacts on disk.

    Args:
        settings: of the run.
        candidates: the finished ensemble.

    Raises:
        UserError: the submission does not match its manifest.
    """
    exams = load_exams()
    truth = prepared_truth(exams, load_slices())
    folds = exams.loc[exams["split"] == "train", "fold"].to_numpy()
    predicted = decode(*candidates.predictions(candidates.promoted, "oof"))
    seed = settings.submissions.seed
    scores = {OUT_OF_FOLD: score(truth, *predicted, seed=seed)}
    artifacts = _manifests(settings, candidates)
    run = ""
    if artifacts and artifacts[-1]["name"] == ARTIFACT_NAME:
        run = artifacts[-1]["identity"]
        verify(paths.submissions(), [SUBMISSION])
    test_truth = known_test_truth(settings)
    if run and test_truth:
        submitted = read_predictions(paths.submissions() / SUBMISSION, test_truth)
        scores[TEST] = score(test_truth, *submitted, seed=seed)
    leaderboard = read_leaderboard(leaderboard_path())
    return Model(
        name=candidates.promoted,
        leaderboard=leaderboard[leaderboard["run"] == run].sort_values("cv", kind="stable"),
        scores=scores,
        reliability=reliability(truth.exams, predicted[0], seed=seed),
        operating_points=operating_points(scores[OUT_OF_FOLD], scores.get(TEST), folds),
        folds=_fold_rows(settings, scores[OUT_OF_FOLD], folds),
        artifacts=artifacts,
        quarantined=quarantined_slices(),
        is_phantom=trained_on_phantoms(),
        settings=identity_of(settings.as_dict()),
        commit=commit(),
    )


def _slice_auc(network: str, fold: int) -> float | None:
    """A slice network's AUC on its held-out fold; None without a finished network."""
    folder = paths.model_run(network, fold)
    return read_manifest(folder)["metrics"]["oof_slice_auc"] if (folder / MANIFEST).is_file() else None


def _fold_rows(settings: Settings, out_of_fold: Score, folds: np.ndarray) -> list[dict[str, Any]]:
    """Exams, exams with PE, metric, PE AUC, and every slice network's slice AUC on its held-out fold.

    Exam networks are missing: their manifests contain the loss only.
    """
    rows = []
    for fold in np.unique(folds):
        held_out = folds == fold
        positive = out_of_fold.positive[held_out]
        auc = RankedScores(out_of_fold.pe_scores[held_out], positive, np.arange(held_out.sum())).auc()
        rows.append(
            {
                "fold": int(fold),
                "exams": int(held_out.sum()),
                "with_pe": int(positive.sum()),
                "metric": float(out_of_fold.loss[held_out].sum() / out_of_fold.weight[held_out].sum()),
                "exam_auc": auc,
                "networks": {name: _slice_auc(name, fold) for name in settings.models.backbones},
            }
        )
    return rows


def _manifests(settings: Settings, candidates: Candidates) -> list[dict[str, Any]]:
    """The manifests of the run's finished artifacts; submissions of another ensemble are omitted."""
    runs = [
        paths.model_run(name, fold) for name in network_names(settings.models) for fold in range(settings.input.folds)
    ]
    folders = [paths.prepared(), paths.store(), *runs, paths.ensemble_run(), paths.submissions()]
    manifests = [{"name": "", **read_manifest(folder)} for folder in folders if (folder / MANIFEST).is_file()]
    return [
        manifest
        for manifest in manifests
        if manifest["name"] != ARTIFACT_NAME or manifest["inputs"].get("ensemble") == candidates.identity
    ]


def training_numbers(columns: list[str]) -> pd.DataFrame:
    """Measured numbers of the run's training exams, the reference for unusual values; empty without a store."""
    table = store_table(paths.store(), "exams")
    if table is None:
        return pd.DataFrame(columns=[STUDY, *columns])
    return table.loc[table["split"] == "train", [column for column in columns if column in table]]
