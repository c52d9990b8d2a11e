"""Which slices an epoch shows, in which order: a pure function of (seed, epoch).

Few slices show PE and most exams have none, so slices are drawn by stated shares: slices with PE,
slices without PE of exams with PE, slices of exams without PE. Within a kind an exam counts with
the square root of its slices of that kind, between "every exam alike" and "every slice alike":
the metric favours exams with many positive slices, small clots need to be seen as well.
The other mode shows every slice of every exam alike.
"""

import numpy as np
import pandas as pd

from input.contest import SLICE_LABEL, STUDY
from pipeline.errors import UserError

MODES = ("shares", "uniform")


def sampling_weights(
    slices: pd.DataFrame, positive_share: float, negative_exam_share: float, mode: str = "shares"
) -> np.ndarray:
    """Probability of every slice to be drawn.

    Args:
        slices: a row a training slice with study and slice label.
        positive_share: of draws, slices with PE.
        negative_exam_share: of draws, slices of exams without PE; the rest are slices without PE
            of exams with PE. A kind that does not occur leaves its share to the others.
        mode: "shares", or "uniform": every slice alike, whatever the shares say.

    Returns:
        float64 (slices,), sums to 1.

    Raises:
        UserError: no slices, shares that are no shares, or another mode.
    """
    if mode not in MODES:
        raise UserError(f"models.sampling: expected one of {', '.join(MODES)}, found {mode!r}")
    other = 1 - (positive_share + negative_exam_share)
    if min(positive_share, negative_exam_share, other) < 0:
        raise UserError(
            f"models.positive_share {positive_share} and models.negative_exam_share {negative_exam_share}: "
            "expected shares from 0 whose sum is at most 1"
        )
    if slices.empty:
        raise UserError("no training slices: every training exam of this fold was quarantined; see input/prepared")
    if mode == "uniform":
        return np.full(len(slices), 1 / len(slices))
    on_slice = slices[SLICE_LABEL].to_numpy() > 0
    in_exam = slices.groupby(STUDY)[SLICE_LABEL].transform("max").to_numpy() > 0
    kinds = ((on_slice, positive_share), (in_exam & ~on_slice, other), (~in_exam, negative_exam_share))
    weights = np.zeros(len(slices))
    for members, share in kinds:
        if not members.any():
            continue
        exam_size = slices.loc[members, STUDY].map(slices.loc[members, STUDY].value_counts()).to_numpy()
        each = 1 / np.sqrt(exam_size)
        weights[members] = share * each / each.sum()
    return weights / weights.sum()


def q_weights(slices: pd.DataFrame, drawn: np.ndarray) -> np.ndarray:
    """Weight of every slice's label in the loss: q, its exam's share of positive slices, as the metric weighs it.

    Scaled so that a drawn slice weighs 1 on average; so the auxiliary targets keep their part. Slices of exams
    without PE weigh nothing.

    Args:
        slices: a row a training slice with study and slice label; all slices of an exam.
        drawn: (slices,) probability of each to be drawn, from `sampling_weights`.

    Returns:
        float64 (slices,).

    Raises:
        UserError: no slice shows PE.
    """
    q = (slices[SLICE_LABEL] > 0).groupby(slices[STUDY]).transform("mean").to_numpy(float)
    mean = float(drawn @ q)
    if not mean > 0:
        raise UserError("models.q_weighting: no drawn training slice belongs to an exam with PE; set it to false")
    return q / mean


def draw_epoch(weights: np.ndarray, count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Row numbers of the slices that an epoch shows, in order.

    Draws without replacement while slices last (systematic sampling of the cumulated weights,
    then shuffled), so the shares are met closely in every epoch.

    Returns:
        int64 (count,).
    """
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(len(weights))
    points = (np.arange(count) + random.random()) / count
    cumulated = np.cumsum(weights[shuffled])
    rows = shuffled[np.searchsorted(cumulated, points * cumulated[-1], side="right").clip(max=len(weights) - 1)]
    return random.permutation(rows)
