"""The training exams of a search: those that choose the settings, and those that measure the gain."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ensemble.baselines import Prior
from ensemble.cross_fitting import complete
from ensemble.decode import decode
from ensemble.ensemble_inputs import Inputs
from ensemble.exam_table import exam_table
from ensemble.stack import Stack
from ensemble.view import View
from input.contest import STUDY
from input.metric import contributions
from models.network_names import network_names
from pipeline.errors import UserError
from pipeline.settings import Settings

#: One of so many training exams measures the gain.
SHARE = 3


@dataclasses.dataclass(frozen=True)
class SearchExams:
    """Training exams with all networks' out-of-fold predictions.

    Attributes:
        view: the exams that some network predicted; its exam table is computed once for all trials.
        exams: their labels, one row per exam, including exams that no network predicted.
        slices: their slices.
    """

    view: View
    exams: pd.DataFrame
    slices: pd.DataFrame


def is_held_out(exams: pd.DataFrame, groups: Mapping[str, str]) -> np.ndarray:
    """Which training exams choose nothing and measure the gain, a boolean mask (e,).

    They are every third exam of each fold, with and without PE, in the order of a hash: the same exams in every search.
    Exams of one group, such as those of one patient, are on the same side.

    Args:
        exams: the training exams: StudyInstanceUID, fold, q.
        groups: StudyInstanceUID -> group; the group of any other exam is its own UID.
    """
    group = exams[STUDY].map(lambda study: groups.get(study, study))
    table = pd.DataFrame({"group": group, "fold": exams["fold"], "pe": exams["q"] > 0}).reset_index(drop=True)
    grouped = table.groupby("group").agg({"fold": "first", "pe": "max"}).reset_index()
    grouped["order"] = [hashlib.sha256(name.encode()).hexdigest() for name in grouped["group"]]
    grouped = grouped.sort_values("order")
    rank = grouped.groupby(["fold", "pe"]).cumcount()
    held_out = set(grouped.loc[rank % SHARE == SHARE - 1, "group"])
    return table["group"].isin(held_out).to_numpy()


def search_exams(inputs: Inputs, settings: Settings, studies: set[str]) -> SearchExams:
    """Select training exams.

    Args:
        inputs: of the ensemble.
        settings: whose networks are read.
        studies: StudyInstanceUIDs of the exams.
    """
    exams, slices = inputs.rows("train")
    view = inputs.out_of_fold.of_networks(network_names(settings.models))
    view = view.take(np.isin(view.studies, list(studies)))
    exam_table(view)
    return SearchExams(view, exams[exams[STUDY].isin(studies)], slices[slices[STUDY].isin(studies)])


def require_enough(chosen: SearchExams, held_out: int) -> None:
    """Check that settings can be chosen and the gain be measured.

    Raises:
        UserError: too few exams with PE, or too few held-out exams.
    """
    truth, _ = chosen.view.require_truth()
    folds = truth.loc[truth["q"] > 0, "fold"].nunique()
    if folds < 2 or held_out < 2:
        raise UserError(
            f"Too few training exams for a search: those that choose have PE in {folds} folds, and {held_out} are "
            "held out. Expected PE in at least 2 folds, and 2 held-out exams. Use a contest with more exams."
        )


def stack_contributions(part: SearchExams, settings: Settings) -> pd.DataFrame:
    """Contribution of every exam to the metric of the stack's decoded out-of-fold predictions.

    Each fold is predicted by a stack that was fitted on the other folds' exams of this part.

    Args:
        part: the exams.
        settings: those of [ensemble] are used.

    Returns:
        The table of `input.metric.contributions`.
    """
    truth, _ = part.view.require_truth()
    fold_of = truth["fold"].to_numpy()
    tables = []
    for fold, exams in part.exams.groupby("fold"):
        training, held_out = part.view.take(fold_of != fold), part.view.take(fold_of == fold)
        stack, prior = Stack.fit(training, settings.ensemble), Prior.fit(training, settings.ensemble)
        slices = part.slices[part.slices[STUDY].isin(exams[STUDY])]
        prediction = stack.predict(held_out) if len(held_out.studies) else prior.constant(0, 0)
        tables.append(complete(prediction, held_out.studies, held_out.sops, exams, slices, prior))
    exam_tables, slice_tables = zip(*tables, strict=True)
    decoded = decode(pd.concat(exam_tables, ignore_index=True), pd.concat(slice_tables, ignore_index=True))
    return contributions(part.exams, part.slices, *decoded)
