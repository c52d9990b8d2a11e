"""Decoding: probabilities to a submission that obeys the rules of `input.label_rules`, at minimal expected cost.

The metric's expected value under the model is a sum over labels of w * H(p, u), where u is the submitted value, and
over slices of E[q] * w_image * H(s, u), where s = E[q*y]/E[q] is the slice probability that the stack predicts.
H(p, .) is convex with its minimum at p, so a label that has to be on (off) costs least at the nearer of p and the edge
of its half of [0, 1]. Labels interact only through the rules, so the cheapest positive and the cheapest negative
version of an exam are computed group by group, and the cheaper of the two is the exact optimum.
"""

import numpy as np
import pandas as pd

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    EXAM_LABELS,
    EXAM_WEIGHTS,
    GTE_1,
    IMAGE_WEIGHT,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    RIGHT,
    STUDY,
)
from pipeline.errors import UserError

#: Minimal distance of every submitted value from 0.5, so that rounding in a CSV cannot break a rule.
MARGIN = 1e-4
#: Optional column of the exam table: E[q], the expected share of positive slices (0 when negative).
EXPECTED_Q = "expected_q"
_WEIGHTS = np.array([EXAM_WEIGHTS[label] for label in EXAM_LABELS])
_COLUMN = {label: number for number, label in enumerate(EXAM_LABELS)}
_TINY = 1e-12


def decode(exams: pd.DataFrame, slices: pd.DataFrame, *, margin: float = MARGIN) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make predictions obey the label rules at the lowest expected metric.

    Args:
        exams: StudyInstanceUID and the nine labels (probabilities in [0, 1]), one row per exam; an optional column
            `expected_q` weights the slices. Without it, E[q] is P(PE) times the mean slice probability.
        slices: StudyInstanceUID and `label` (probability), in any order; further columns are kept.
        margin: minimal distance of every value from 0.5.

    Returns:
        Copies of both tables, same rows and order, with the labels decoded. An exam without slices can only
        be negative or indeterminate.

    Raises:
        UserError: a probability is NaN or outside [0, 1], an exam is repeated, or a slice belongs to an unknown exam.
    """
    probabilities, slice_probabilities, owner = _checked(exams, slices)
    expected_q = _expected_q(exams, probabilities, slice_probabilities, owner)
    on = _choose(probabilities, np.ones_like(probabilities, bool), margin)
    off = _choose(probabilities, np.zeros_like(probabilities, bool), margin)
    extra_on, extra_off = _extra(probabilities, on), _extra(probabilities, off)

    positive_states = _positive_states(extra_on, extra_off)
    negative_states = _negative_states(extra_on, extra_off)
    slices_positive, slices_negative = _slice_versions(slice_probabilities, owner, margin)
    slice_weight = IMAGE_WEIGHT * expected_q
    cost_positive = _state_cost(positive_states, extra_on, extra_off)
    cost_negative = _state_cost(negative_states, extra_on, extra_off)
    cost_positive += slice_weight * _slice_cost(slice_probabilities, slices_positive, owner, len(exams))
    cost_negative += slice_weight * _slice_cost(slice_probabilities, slices_negative, owner, len(exams))
    cost_positive[np.bincount(owner, minlength=len(exams)) == 0] = np.inf

    positive = cost_positive < cost_negative
    states = np.where(positive[:, None], positive_states, negative_states)
    decoded_exams, decoded_slices = exams.copy(), slices.copy()
    decoded_exams[list(EXAM_LABELS)] = np.where(states, on, off)
    decoded_slices["label"] = np.where(positive[owner], slices_positive, slices_negative)
    return decoded_exams, decoded_slices


def expected_cost(
    exams: pd.DataFrame, slices: pd.DataFrame, submitted_exams: pd.DataFrame, submitted_slices: pd.DataFrame
) -> float:
    """Expected weighted log loss per unit of weight of a submission, if the model's probabilities are the truth.

    Args:
        exams, slices: the arguments of `decode`.
        submitted_exams, submitted_slices: its result, rows in the same order.

    Raises:
        UserError: unusable predictions, as in `decode`.
    """
    probabilities, slice_probabilities, owner = _checked(exams, slices)
    weight = IMAGE_WEIGHT * _expected_q(exams, probabilities, slice_probabilities, owner)
    submitted = submitted_exams[list(EXAM_LABELS)].to_numpy(float)
    cost = (_WEIGHTS * _cross_entropy(probabilities, submitted)).sum()
    cost += (weight[owner] * _cross_entropy(slice_probabilities, submitted_slices["label"].to_numpy(float))).sum()
    return float(cost / (_WEIGHTS.sum() * len(exams) + weight[owner].sum()))


def _checked(exams: pd.DataFrame, slices: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exam probabilities (e, 9), slice probabilities (n,), and the row of each slice's exam (n,)."""
    probabilities = exams[list(EXAM_LABELS)].to_numpy(float)
    slice_probabilities = slices["label"].to_numpy(float)
    faults = []
    for name, values in (("exam", probabilities), ("slice", slice_probabilities)):
        invalid = ~((values >= 0) & (values <= 1))
        if invalid.any():
            faults.append(f"{int(invalid.sum())} {name} probabilities are NaN or outside [0, 1]")
    if EXPECTED_Q in exams:
        invalid_q = int((~exams[EXPECTED_Q].between(0, 1)).sum())
        if invalid_q:
            faults.append(f"{invalid_q} values of {EXPECTED_Q} are NaN or outside [0, 1]")
    index = pd.Index(exams[STUDY])
    if not index.is_unique:
        raise UserError.listing("Unusable predictions:", [*faults, "an exam has more than one row"])
    owner = index.get_indexer(slices[STUDY])
    if (owner < 0).any():
        faults.append(f"{int((owner < 0).sum())} slices belong to exams that are not in the exam table")
    if faults:
        raise UserError.listing("Unusable predictions:", faults)
    return probabilities, slice_probabilities, owner


def _expected_q(
    exams: pd.DataFrame, probabilities: np.ndarray, slice_probabilities: np.ndarray, owner: np.ndarray
) -> np.ndarray:
    if EXPECTED_Q in exams:
        return exams[EXPECTED_Q].to_numpy(float)
    count = np.maximum(np.bincount(owner, minlength=len(exams)), 1)
    mean = np.bincount(owner, slice_probabilities, minlength=len(exams)) / count
    negative = probabilities[:, _COLUMN[NEGATIVE]] + probabilities[:, _COLUMN[INDETERMINATE]]
    return np.clip(1 - negative, 0, 1) * mean


def _choose(probability: np.ndarray, on: np.ndarray, margin: float) -> np.ndarray:
    """The cheapest value on the required side of 0.5."""
    return np.where(on, np.maximum(probability, 0.5 + margin), np.minimum(probability, 0.5 - margin))


def _cross_entropy(truth: np.ndarray, submitted: np.ndarray) -> np.ndarray:
    submitted = np.clip(submitted, _TINY, 1 - _TINY)
    return -truth * np.log(submitted) - (1 - truth) * np.log1p(-submitted)


def _extra(probabilities: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Weighted cost above the unconstrained optimum, (e, 9)."""
    return _WEIGHTS * (_cross_entropy(probabilities, chosen) - _cross_entropy(probabilities, probabilities))


def _state_cost(states: np.ndarray, extra_on: np.ndarray, extra_off: np.ndarray) -> np.ndarray:
    return np.where(states, extra_on, extra_off).sum(axis=1)


def _exactly_one(states: np.ndarray, first: str, second: str, cost: np.ndarray) -> None:
    """Switch on the cheaper of two labels, in place.

    Args:
        states: (e, 9) booleans.
        first, second: the labels.
        cost: (e, 9) cost of on minus cost of off.
    """
    a, b = _COLUMN[first], _COLUMN[second]
    states[:, a] = cost[:, a] <= cost[:, b]
    states[:, b] = ~states[:, a]


def _positive_states(extra_on: np.ndarray, extra_off: np.ndarray) -> np.ndarray:
    """The cheapest on/off pattern (e, 9) of an exam with PE."""
    cost = extra_on - extra_off
    states = cost < 0
    states[:, [_COLUMN[NEGATIVE], _COLUMN[INDETERMINATE]]] = False
    _exactly_one(states, GTE_1, LT_1, cost)
    sides = [_COLUMN[label] for label in (CENTRAL, LEFT, RIGHT)]
    without_side = ~states[:, sides].any(axis=1)
    cheapest = np.array(sides)[cost[:, sides].argmin(axis=1)]
    states[without_side, cheapest[without_side]] = True
    chronic, both = _COLUMN[CHRONIC], _COLUMN[ACUTE_AND_CHRONIC]
    clash = states[:, chronic] & states[:, both]
    states[clash, chronic] = cost[clash, chronic] <= cost[clash, both]
    states[clash, both] = ~states[clash, chronic]
    return states


def _negative_states(extra_on: np.ndarray, extra_off: np.ndarray) -> np.ndarray:
    """The cheapest on/off pattern (e, 9) of an exam without PE."""
    states = np.zeros(extra_on.shape, bool)
    _exactly_one(states, NEGATIVE, INDETERMINATE, extra_on - extra_off)
    return states


def _slice_versions(probability: np.ndarray, owner: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Slices of the positive version (at least one on) and of the negative one (none on), each (n,)."""
    negative = np.minimum(probability, 0.5 - margin)
    # Raising the most probable slice costs least: H(s, 0.5 + margin) - H(s, s) decreases with s below 0.5.
    order = np.lexsort((-probability, owner))
    first = order[np.r_[True, np.diff(owner[order]) > 0]] if len(order) else order
    positive = _choose(probability, probability > 0.5, margin)
    most_probable = np.zeros(len(probability), bool)
    most_probable[first] = True
    positive = np.where(most_probable, np.maximum(positive, 0.5 + margin), positive)
    return positive, negative


def _slice_cost(probability: np.ndarray, chosen: np.ndarray, owner: np.ndarray, exams: int) -> np.ndarray:
    """Sum over each exam's slices of the cost above the unconstrained optimum, (e,)."""
    extra = _cross_entropy(probability, chosen) - _cross_entropy(probability, probability)
    return np.bincount(owner, extra, minlength=exams)
