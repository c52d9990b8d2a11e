"""Which slices an epoch shows, in which order: a pure function of (seed, epoch).

Few slices show PE and most exams have none, so slices are drawn by stated shares: slices with PE,
slices without PE of exams with PE, slices of exams without PE. Within the first two kinds an exam
counts with the square root of its slices, between "every exam alike" and "every slice alike":
the metric favours exams with many positive slices, small clots need to be seen as well.
"""

import numpy as np
import pandas as pd

from input.contest import SLICE_LABEL, STUDY
from pipeline.errors import UserError


def sampling_weights(slices: pd.DataFrame, positive_share: float, negative_exam_share: float) -> np.ndarray:
    """Probability of every slice to be drawn.

    Args:
        slices: a row a training slice with study and slice label.
        positive_share: of draws, slices with PE.
        negative_exam_share: of draws, slices of exams without PE; the rest are slices without PE
            of exams with PE. A kind that does not occur leaves its share to the others.

    Returns:
        float64 (slices,), sums to 1.

    Raises:
        UserError: no slices, or shares that are no shares.
    """
    other = 1 - positive_share - negative_exam_share
    if min(positive_share, negative_exam_share, other) < 0:
        raise UserError(
            f"models.positive_share {positive_share} and models.negative_exam_share {negative_exam_share}: "
            "expected shares from 0 whose sum is at most 1"
        )
    if slices.empty:
        raise UserError("no training slices: every training exam of this fold was quarantined; see input/prepared")
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
