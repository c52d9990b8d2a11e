"""What the report tells of the promoted model: scores, curves, folds, the operating point, where it comes from."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ensemble.decode import decode
from features.store import store_table
from inference.evidence.reliability import Reliability, reliability
from input.contest import STUDY
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.artifact import MANIFEST, identity_of, verify
from pipeline.files import read_json
from pipeline.settings import Settings
from submissions.bootstrap_intervals import RankedScores
from submissions.finished_run import (
    PRODUCT,
    SUBMISSION,
    Candidates,
    known_test_truth,
    quarantined_slices,
    trained_on_phantoms,
)
from submissions.leaderboard import commit, leaderboard_path, read_leaderboard
from submissions.operating_points import Operation, operating_points
from submissions.score import Score, prepared_truth, read_predictions, score

OUT_OF_FOLD, TEST = "out of fold", "test"


@dataclasses.dataclass(frozen=True)
class Model:
    """The promoted candidate.

    Attributes:
        name: the candidate's.
        board: the leaderboard's rows of this run; empty where the submissions are not those of this ensemble.
        scores: `out of fold`, and `test` where there are submissions of this ensemble and a test truth: the same
            figures as in report.md.
        reliability: of every label, out of fold.
        operated: the operating point on the same exams, as in report.md.
        folds: a row a fold, with the slice networks' own figures on it.
        products: manifests, in the order of the stages.
        quarantined: STUDY, SOP, quarantine of every slice that no network saw.
        is_phantom: trained on drawn exams.
        settings: identity of the resolved settings.
        commit: of the checkout now.
    """

    name: str
    board: pd.DataFrame
    scores: dict[str, Score]
    reliability: Reliability
    operated: dict[str, Operation]
    folds: list[dict[str, Any]]
    products: list[dict[str, Any]]
    quarantined: pd.DataFrame
    is_phantom: bool
    settings: str
    commit: str


def describe_model(settings: Settings, candidates: Candidates, run: str = "") -> Model:
    """Gather the facts of the promoted candidate from the products on disk.

    Args:
        settings: of the run.
        candidates: the finished ensemble.
        run: identity of the submissions that are being written; empty: those that lie there, if they are of this
            ensemble.

    Raises:
        UserError: the submission does not match its manifest.
    """
    exams = load_exams()
    truth = prepared_truth(exams, load_slices())
    folds = exams.loc[exams["split"] == "train", "fold"].to_numpy()
    predicted = decode(*candidates.predictions(candidates.promoted, "oof"))
    seed = settings.submissions.seed
    scores = {OUT_OF_FOLD: score(truth, *predicted, seed=seed)}
    products = _products(settings, candidates)
    if not run and products and products[-1]["name"] == PRODUCT:
        run = products[-1]["identity"]
        verify(paths.submissions(), [SUBMISSION])
    known = known_test_truth(settings)
    if run and known:
        scores[TEST] = score(known, *read_predictions(paths.submissions() / SUBMISSION, known), seed=seed)
    board = read_leaderboard(leaderboard_path())
    return Model(
        name=candidates.promoted,
        board=board[board["run"] == run].sort_values("cv", kind="stable"),
        scores=scores,
        reliability=reliability(truth.exams, predicted[0], seed=seed),
        operated=operating_points(scores[OUT_OF_FOLD], scores.get(TEST), folds),
        folds=_folds(settings, scores[OUT_OF_FOLD], folds, products),
        products=products,
        quarantined=quarantined_slices(),
        is_phantom=trained_on_phantoms(),
        settings=identity_of(settings.as_dict()),
        commit=commit(),
    )


def _folds(settings: Settings, oof: Score, folds: np.ndarray, products: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fold, exams, exams with PE, metric, PE AUC, and the slice AUC of every slice network on its held-out fold.

    Exam networks have none: their manifests hold the loss alone.
    """
    of_network = {each["name"]: each.get("metrics", {}) for each in products}
    rows = []
    for fold in np.unique(folds):
        held = folds == fold
        positive = oof.positive[held]
        rows.append(
            {
                "fold": int(fold),
                "exams": int(held.sum()),
                "with_pe": int(positive.sum()),
                "metric": float(oof.loss[held].sum() / oof.weight[held].sum()),
                "exam_auc": RankedScores(oof.suspicion[held], positive, np.arange(held.sum())).auc(),
                "networks": {
                    name: of_network.get(f"models/{name}/fold{fold}", {}).get("oof_slice_auc")
                    for name in settings.models.backbones
                },
            }
        )
    return rows


def _products(settings: Settings, candidates: Candidates) -> list[dict[str, Any]]:
    """The manifests that there are; submissions of another ensemble are not this model's."""
    runs = [paths.model_run(name, fold) for name in settings.models.networks for fold in range(settings.input.folds)]
    folders = [paths.prepared(), paths.store(), *runs, paths.ensemble_run(), paths.submissions()]
    manifests = [{"name": "", **read_json(folder / MANIFEST)} for folder in folders if (folder / MANIFEST).is_file()]
    return [
        each for each in manifests if each["name"] != PRODUCT or each["inputs"].get("ensemble") == candidates.identity
    ]


def training_numbers(columns: list[str]) -> pd.DataFrame:
    """Measured numbers of the run's training exams, to tell what is unlike them; empty without a store."""
    table = store_table(paths.store(), "exams")
    if table is None:
        return pd.DataFrame(columns=[STUDY, *columns])
    return table.loc[table["split"] == "train", [each for each in columns if each in table]]
