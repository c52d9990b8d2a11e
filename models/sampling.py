"""Which slices an epoch shows, and in which order: a pure function of (seed, epoch) and of the slices.

Few slices show PE and most exams have none, so with "shares" slices are sampled in fixed shares of three groups:
slices with PE, slices without PE of exams with PE, and slices of exams without PE. Within a group an exam is weighted
by the square root of its number of slices in that group, between equal weight per exam and equal weight per slice:
the metric favours exams with many positive slices, but small clots must be seen as well. With "uniform" every slice
of every exam has the same probability.

Whether a slice is drawn depends on a random number of its own, so trainings on overlapping sets of exams, such as those
of two folds, mostly draw the same slices of the exams that they share, and can share what they compute of them.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from input.contest import SLICE_LABEL, STUDY
from pipeline.errors import UserError

#: Values of models.sampling.
SAMPLING_MODES = ("shares", "uniform")


def sampling_weights(
    slices: pd.DataFrame, positive_share: float, negative_exam_share: float, mode: str = "shares"
) -> np.ndarray:
    """Return the probability with which each slice is sampled.

    Args:
        slices: One row per training slice with study and slice label.
        positive_share: Share of slices with PE, from 0 to 1.
        negative_exam_share: Share of slices of exams without PE. The remainder are slices without PE of exams with
            PE. The share of an empty group is distributed over the others.
        mode: "shares", or "uniform": the same probability for every slice, ignoring both shares.

    Returns:
        float64 (slices,) with sum 1.

    Raises:
        UserError: No slices, invalid shares, or an unknown mode.
    """
    if mode not in SAMPLING_MODES:
        raise UserError(f"unknown models.sampling. Expected one of {', '.join(SAMPLING_MODES)}, got {mode!r}.")
    remainder = 1 - (positive_share + negative_exam_share)
    if min(positive_share, negative_exam_share, remainder) < 0:
        raise UserError(
            "invalid sampling shares. Expected shares of 0 or more with a sum of at most 1, "
            f"got models.positive_share {positive_share} and models.negative_exam_share {negative_exam_share}."
        )
    if slices.empty:
        raise UserError("no training slices: every training exam of this fold was quarantined. See input/prepared.")
    if mode == "uniform":
        return np.full(len(slices), 1 / len(slices))
    positive_slice = slices[SLICE_LABEL].to_numpy() > 0
    positive_exam = slices.groupby(STUDY)[SLICE_LABEL].transform("max").to_numpy() > 0
    groups = (
        (positive_slice, positive_share),
        (positive_exam & ~positive_slice, remainder),
        (~positive_exam, negative_exam_share),
    )
    weights = np.zeros(len(slices))
    for members, share in groups:
        if not members.any():
            continue
        exam_size = slices.loc[members, STUDY].map(slices.loc[members, STUDY].value_counts()).to_numpy()
        member_weights = 1 / np.sqrt(exam_size)
        weights[members] = share * member_weights / member_weights.sum()
    return weights / weights.sum()


def q_weights(slices: pd.DataFrame, probabilities: np.ndarray) -> np.ndarray:
    """Return the loss weight of each slice label: q, the share of positive slices of its exam, as in the metric.

    The weights are scaled so that their mean over sampled slices is 1, which keeps the relative weight of the
    auxiliary targets. Slices of exams without PE have weight 0.

    Args:
        slices: One row per training slice with study and slice label, with all slices of every exam.
        probabilities: Sampling probability of each slice, shape (slices,), from `sampling_weights`.

    Returns:
        float64 (slices,).

    Raises:
        UserError: No sampled slice belongs to an exam with PE.
    """
    q = (slices[SLICE_LABEL] > 0).groupby(slices[STUDY]).transform("mean").to_numpy(float)
    mean = float(probabilities @ q)
    if not mean > 0:
        raise UserError("models.q_weighting: no sampled training slice belongs to an exam with PE. Set it to false.")
    return q / mean


def slice_keys(slices: pd.DataFrame) -> np.ndarray:
    """Return a number for every slice that does not depend on the other slices: uint64 (slices,).

    Args:
        slices: One row per slice with study and `plane`.
    """
    studies = pd.util.hash_array(slices[STUDY].to_numpy(object))
    return pd.util.hash_array(studies + slices["plane"].to_numpy(np.uint64))


class Draws(NamedTuple):
    """The slices of one epoch in the order of training.

    Attributes:
        rows: Row numbers, int64 (count,).
        repeats: How often the same slice was drawn before, int64 (count,).
    """

    rows: np.ndarray
    repeats: np.ndarray


def draw_epoch(weights: np.ndarray, keys: np.ndarray, count: int, *, seed: int, epoch: int) -> Draws:
    """Draw the slices of one epoch.

    Sequential Poisson sampling (Ohlsson 1998, Journal of Official Statistics 14, 149) with replacement: a slice with
    the random number u and the expected count n enters the sample for the (k + 1)th time at (k + u) / n, and the
    earliest entries are taken. So no slice repeats before its expected count is about one, and the shares are met
    closely in every epoch.

    Args:
        weights: Sampling weight of each slice, shape (slices,).
        keys: Numbers of the slices from `slice_keys`.
        count: Number of slices to draw.
        seed: Seed of the training run.
        epoch: Number of the epoch, from 0.
    """
    random = np.random.default_rng([seed, epoch])
    own = pd.util.hash_array(keys ^ random.integers(2**64, dtype=np.uint64)) / 2.0**64
    expected = count * weights / weights.sum()
    entries = np.ceil(expected).astype(int) + 1
    rows = np.repeat(np.arange(len(weights)), entries)
    repeats = np.arange(len(rows)) - np.repeat(np.cumsum(entries) - entries, entries)
    with np.errstate(divide="ignore"):
        entered = (repeats + own[rows]) / expected[rows]  # infinite for a weight of 0
    chosen = random.permutation(np.argsort(entered, kind="stable")[:count])
    return Draws(rows[chosen], repeats[chosen])
