"""Calibrated probabilities that PE is left-sided, right-sided or central at a range of slices.

A network that hardly separates the sides may output 0.78 for left and 0.77 for right. The networks' logits are
therefore calibrated on the training exams with PE: for each side, a logistic regression on the out-of-fold logits of
all three sides, averaged over the exam's slices with PE. The target is the exam's label, the only one in the contest;
at prediction time the calibration is applied to a range of slices.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ensemble.logistic import Logistic, expit, logit
from ensemble.predictions import read_networks
from input.contest import CENTRAL, LEFT, RIGHT, SLICE_LABEL, SOP, STUDY
from input.tables import load_exams, load_slices
from models.network_names import network_names
from pipeline.settings import Settings

SIDES = (LEFT, RIGHT, CENTRAL)
#: Exams with, and without, a side's label that its calibration needs.
MIN_EXAMS = 5


def side_logits(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Average the networks' logits of each side at every slice.

    Args:
        tables: one table per network and fold: SOP and one probability column per side that the network predicts.

    Returns:
        One row per slice (index SOP) and one column of logits per side; NaN where no network predicts the side.
    """
    parts = [
        pd.DataFrame({side: logit(table[side].to_numpy(float)) for side in SIDES if side in table}, index=table[SOP])
        for table in tables
    ]
    if not parts:
        return pd.DataFrame(columns=list(SIDES), dtype=float)
    return pd.concat(parts).groupby(level=0).mean().reindex(columns=list(SIDES))


def fit_side_calibration(settings: Settings) -> dict[str, Logistic]:
    """Fit the calibration on the out-of-fold predictions of a finished run.

    Returns:
        side -> logistic regression; a side with fewer than MIN_EXAMS exams with or without its label is missing.

    Raises:
        UserError: a network's table is missing or damaged.
    """
    tables = read_networks(network_names(settings.models), range(settings.input.folds), "oof")
    logits = side_logits(table for folds in tables.values() for table in folds.values())
    slices, exams = load_slices(), load_exams().set_index(STUDY)
    positive = slices[(slices[SLICE_LABEL] > 0) & slices[SOP].isin(logits.index)]
    exam_logits = logits.loc[positive[SOP]].groupby(positive[STUDY].to_numpy()).mean()
    calibration = {}
    for side in SIDES:
        truth = exams.loc[exam_logits.index, side].to_numpy(float)
        if min(truth.sum(), (1 - truth).sum()) >= MIN_EXAMS:
            calibration[side] = Logistic.fit(exam_logits.to_numpy(float), truth)
    return calibration


def side_probabilities(
    logits: pd.DataFrame, weight: np.ndarray, calibration: Mapping[str, Logistic]
) -> dict[str, float]:
    """Compute the probability of each side for a range of slices.

    Args:
        logits: one row per slice of the range, one column of logits per side.
        weight: (n,) weight of each slice.
        calibration: from `fit_side_calibration`; a side without calibration keeps the networks' mean probability.

    Returns:
        side -> probability; NaN for every side where no network predicts one.
    """
    values = logits[list(SIDES)].to_numpy(float)
    known = np.isfinite(values)
    total = (known * weight[:, None]).sum(axis=0)
    mean = np.where(
        total > 0, (np.where(known, values, 0) * weight[:, None]).sum(axis=0) / np.maximum(total, 1e-12), np.nan
    )
    if not np.isfinite(mean).any():
        return dict.fromkeys(SIDES, np.nan)
    raw = dict(zip(SIDES, mean, strict=True))
    return {
        side: float(expit(calibration[side].decision(mean[None])[0]))
        if side in calibration
        else float(expit(raw[side]))
        for side in SIDES
    }
