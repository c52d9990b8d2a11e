"""Nested cross-fitting of every candidate, and its predictions of held-out and test exams.

Fold k is predicted by second-level models that learned from the other folds' out-of-fold rows, so their number of
trees, columns and calibration are independent of it. The networks are not retrained inside that loop: the rows of the
other folds come from networks that did see fold k's labels. For the test exams the final models read each fold's
networks separately and their outputs are averaged.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.baselines import Prior
from ensemble.binary_targets import Prediction, average
from ensemble.candidates import Candidate, fitters, networks_read, prior_of, save_candidates
from ensemble.ensemble_inputs import Inputs
from ensemble.exam_table import exam_table
from ensemble.view import View
from input.contest import SOP, STUDY
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.settings import Settings

#: Predicted exams (StudyInstanceUID, nine labels, expected_q) and slices (StudyInstanceUID, SOPInstanceUID, label).
Tables = tuple[pd.DataFrame, pd.DataFrame]


def cross_fit(
    inputs: Inputs, settings: Settings, trees: Path
) -> tuple[dict[tuple[str, str], Tables], dict[str, dict[str, Any]]]:
    """Fit and predict every candidate.

    Args:
        inputs: see `read_inputs`.
        settings: those of the run.
        trees: the folder for LightGBM models.

    Returns:
        (candidate, role) -> exams and slices, role `oof` or `test`; and the contents of models.json.
    """
    truth, _ = inputs.out_of_fold.require_truth()
    fold_of = truth["fold"].to_numpy()
    parts = {f"fold{fold}": fold_of != fold for fold in np.unique(fold_of)} | {"final": np.ones(len(fold_of), bool)}
    views = views_by_candidate(inputs.out_of_fold, settings)
    saved: dict[str, dict[str, Any]] = {}
    held_out: dict[str, list[Tables]] = {name: [] for name in views}
    final: dict[str, Candidate] = {}
    for part, rows in progress(parts.items(), desc="second level", unit="part"):
        slices = int(inputs.out_of_fold.segments.sizes[rows].sum())
        say(f"ensemble/fit: {part}: fitting on {int(rows.sum())} exams, {slices} slices")
        final = {name: fit(views[name].take(rows), settings.ensemble) for name, fit in fitters(settings).items()}
        saved[part] = save_candidates(final, trees / part)
        if part != "final":
            fold = int(part.removeprefix("fold"))
            for name, tables in _predict_fold(fold, final, views, ~rows, inputs).items():
                held_out[name].append(tables)
    predictions: dict[tuple[str, str], Tables] = {}
    for name, fold_tables in held_out.items():
        exam_tables, slice_tables = zip(*fold_tables, strict=True)
        predictions[name, "oof"] = (pd.concat(exam_tables), pd.concat(slice_tables))
    tested = predict_test(final, map(inputs.test_view, range(settings.input.folds)), *inputs.rows("test"))
    return predictions | {(name, "test"): tables for name, tables in tested.items()}, saved


def views_by_candidate(view: View, settings: Settings) -> dict[str, View]:
    """Candidate -> the view of the networks that it reads, with the exam table computed once for all folds."""
    reads = networks_read(settings)
    views = {name: view.of_networks(reads[name]) if name in reads else view for name in fitters(settings)}
    for name in reads:
        exam_table(views[name])
    return views


def _predict_fold(
    fold: int, fitted: dict[str, Candidate], views: dict[str, View], rows: np.ndarray, inputs: Inputs
) -> dict[str, Tables]:
    """Every candidate's predictions of the held-out fold, whose exams in the views are `rows`, a mask (e,)."""
    exams, slices = inputs.rows("train")
    exams = exams[exams["fold"] == fold]
    slices = slices[slices[STUDY].isin(exams[STUDY])]
    prior, predictions = prior_of(fitted), {}
    for name, candidate in fitted.items():
        view = views[name].take(rows)
        predictions[name] = complete(candidate.predict(view), view.studies, view.sops, exams, slices, prior)
    return predictions


def predict_test(
    candidates: dict[str, Candidate], views: Iterable[View], exams: pd.DataFrame, slices: pd.DataFrame
) -> dict[str, Tables]:
    """Apply candidates to each fold's networks and average their outputs; one view is in memory at a time.

    Args:
        candidates: name -> fitted candidate, including the prior, which is used where no network predicted a row.
        views: the same slices as predicted by each fold's networks.
        exams: StudyInstanceUID of every exam.
        slices: StudyInstanceUID and SOPInstanceUID of every slice.

    Returns:
        candidate -> exams and slices.

    Raises:
        UserError: the folds' networks predict different slices, or a prediction is NaN.
    """
    prior = prior_of(candidates)
    predictions: dict[str, list[Prediction]] = {name: [] for name in candidates}
    keys: list[tuple[np.ndarray, np.ndarray]] = []
    for view in views:
        keys.append((view.studies, view.sops))
        if not np.array_equal(keys[0][1], view.sops):
            raise UserError(
                "The folds' networks predict different test slices. Rebuild their predictions: ./run.sh --from models"
            )
        for name, candidate in candidates.items():
            predictions[name].append(candidate.predict(view) if len(view.sops) else prior.constant(0, 0))
    return {
        name: complete(average(fold_predictions), *keys[0], exams, slices, prior)
        for name, fold_predictions in predictions.items()
    }


def complete(
    prediction: Prediction,
    studies: np.ndarray,
    sops: np.ndarray,
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    prior: Prior,
) -> Tables:
    """One row for every requested exam and slice; the prior where no network made a prediction.

    Args:
        prediction: of `studies` and `sops`.
        studies: (e,) exams predicted.
        sops: (n,) slices predicted.
        exams: StudyInstanceUID of every requested exam.
        slices: StudyInstanceUID and SOPInstanceUID of every requested slice.
        prior: gives the values of the other rows.

    Raises:
        UserError: a prediction is NaN.
    """
    constant = prior.constant(1, 1)
    table = prediction.exams(studies).set_index(STUDY)
    broken = table.index[~np.isfinite(table.to_numpy(float)).all(axis=1)]
    if len(broken):  # checked here: after reindexing, NaN means that no network predicted the exam
        raise UserError(
            f"Predictions of {len(broken)} exams are NaN, e.g. {broken[0]}. Fit the ensemble again: "
            "./run.sh --from ensemble --force"
        )
    table = table.reindex(exams[STUDY])
    prior_labels = constant.exams(np.array([""])).drop(columns=STUDY).iloc[0]
    rows = pd.Index(sops).get_indexer(slices[SOP])  # -1 where not predicted: the last entry, the prior
    label = np.append(prediction.slices, constant.slices)[rows]
    return table.fillna(prior_labels).reset_index(), slices[[STUDY, SOP]].reset_index(drop=True).assign(label=label)
