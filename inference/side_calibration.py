"""The networks' opinions on left, right and central at every slice, and what they are worth.

A network that hardly tells the sides apart still says 0.78 left and 0.77 right: what is common. So its logits are
calibrated on the training exams with PE, each as the networks that did not see it judge its slices with PE: one
logistic regression a side over the three opinions. What is learned is the exam's label, since the contest has no
other, and it is read at a range of slices.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ensemble.logistic import Logistic, expit, logit
from ensemble.predictions import read_networks
from input.contest import CENTRAL, LEFT, RIGHT, SLICE_LABEL, SOP, STUDY
from input.tables import load_exams, load_slices
from pipeline.settings import Settings

SIDES = (LEFT, RIGHT, CENTRAL)
FEWEST = 5  # exams with, and without, a label from which its calibration is learned


def opinions(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """What networks say of the sides at every slice: the mean of their logits.

    Args:
        tables: one a network and fold: SOP and a probability a side, where the network has it.

    Returns:
        index SOP, a logit a side; NaN where no network tells.
    """
    parts = [
        pd.DataFrame({side: logit(table[side].to_numpy(float)) for side in SIDES if side in table}, index=table[SOP])
        for table in tables
    ]
    if not parts:
        return pd.DataFrame(columns=list(SIDES), dtype=float)
    return pd.concat(parts).groupby(level=0).mean().reindex(columns=list(SIDES))


def fit_sides(settings: Settings) -> dict[str, Logistic]:
    """The calibration of a finished run; a side that too few (or all) exams have is missing.

    Raises:
        UserError: a network's table is missing or damaged.
    """
    tables = read_networks(settings.models.networks, range(settings.input.folds), "oof")
    said = opinions(table for network in tables.values() for table in network.values())
    slices, exams = load_slices(), load_exams().set_index(STUDY)
    seen = slices[(slices[SLICE_LABEL] > 0) & slices[SOP].isin(said.index)]
    mean = said.loc[seen[SOP]].groupby(seen[STUDY].to_numpy()).mean()
    fitted = {}
    for side in SIDES:
        truth = exams.loc[mean.index, side].to_numpy(float)
        if min(truth.sum(), (1 - truth).sum()) >= FEWEST:
            fitted[side] = Logistic.fit(mean.to_numpy(float), truth)
    return fitted


def side_probabilities(said: pd.DataFrame, weight: np.ndarray, fitted: Mapping[str, Logistic]) -> dict[str, float]:
    """What a range of slices says of each side: probability, NaN where no network tells.

    Args:
        said: logits a side, a row a slice of the range.
        weight: (n,) how much each slice counts.
        fitted: from `fit_sides`; a side without calibration is told as the networks say it.
    """
    values = said[list(SIDES)].to_numpy(float)
    known = np.isfinite(values)
    total = (known * weight[:, None]).sum(axis=0)
    mean = np.where(
        total > 0, (np.where(known, values, 0) * weight[:, None]).sum(axis=0) / np.maximum(total, 1e-12), np.nan
    )
    if not np.isfinite(mean).any():
        return dict.fromkeys(SIDES, np.nan)
    raw = dict(zip(SIDES, mean, strict=True))
    return {
        side: float(expit(fitted[side].decision(mean[None])[0])) if side in fitted else float(expit(raw[side]))
        for side in SIDES
    }
