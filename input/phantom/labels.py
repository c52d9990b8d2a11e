"""Exam labels of a drawn contest: joint states with the contest's frequencies, and the clot burden.

A state is the set of exam labels that are on. The states and their counts among the contest's 7,279
training exams lie in label_states.json; only the share of exams with PE can be set.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    EXAM_LABELS,
    GTE_1,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    POSITIVE_LABELS,
    QA_CONTRAST,
    QA_LABELS,
    QA_MOTION,
    RIGHT,
)
from input.phantom.difficulty import Difficulty

STATES_FILE = Path(__file__).with_name("label_states.json")

#: P(label | quartile of q) among the contest's positive exams.
BURDEN_COUPLING = {
    GTE_1: (0.23, 0.31, 0.43, 0.72),
    CENTRAL: (0.016, 0.05, 0.21, 0.45),
    CHRONIC: (0.18, 0.18, 0.11, 0.07),
}


@dataclass(frozen=True)
class ExamState:
    """What an exam shall show: the labels that are on and, where it has PE, the quartile of q."""

    on: frozenset[str]
    quartile: int  # 0-3; -1 without PE

    @property
    def positive(self) -> bool:
        """Whether the exam has PE."""
        return is_positive(self.on)


def is_positive(on: frozenset[str]) -> bool:
    """Whether a set of labels is that of an exam with PE."""
    return NEGATIVE not in on and INDETERMINATE not in on


@cache
def contest_states() -> tuple[tuple[frozenset[str], int], ...]:
    """Every joint state of the exam and QA labels with its count among the contest's training exams."""
    states = json.loads(STATES_FILE.read_text())["states"]
    return tuple((frozenset(state["on"]), state["n"]) for state in states)


def state_shares(positive_share: float) -> dict[frozenset[str], float]:
    """Probability of every joint state; within positive and other exams the contest's frequencies stay.

    Args:
        positive_share: share of exams with PE, 0-1.
    """
    totals = {kind: sum(n for on, n in contest_states() if is_positive(on) == kind) for kind in (True, False)}
    share = {True: positive_share, False: 1.0 - positive_share}
    return {on: n / totals[is_positive(on)] * share[is_positive(on)] for on, n in contest_states()}


@cache
def burden_table() -> dict[frozenset[str], np.ndarray]:
    """P(quartile of q | state) of every positive state, shape (4,).

    Iterative proportional fitting of a state-by-quartile table to the states' frequencies, to equal
    quartiles and to BURDEN_COUPLING.
    """
    states = [(on, n) for on, n in contest_states() if is_positive(on)]
    counts = np.array([n for _, n in states], float)
    shares = counts / counts.sum()
    table = np.repeat(shares[:, None] / 4, 4, axis=1)
    for _ in range(200):
        for label, wanted in BURDEN_COUPLING.items():
            has = np.array([label in on for on, _ in states])
            table[has] *= np.array(wanted) / 4 / table[has].sum(axis=0)
            table[~has] *= (1 - np.array(wanted)) / 4 / table[~has].sum(axis=0)
        table *= (shares / table.sum(axis=1))[:, None]
    return {on: row / row.sum() for (on, _), row in zip(states, table, strict=True)}


def draw_states(count: int, positive_share: float, rng: np.random.Generator) -> list[ExamState]:
    """Draw the states of a contest's exams, in random order.

    Systematic sampling (one random offset, equal steps through the cumulated shares): every state
    occurs as often as its share says, give or take one, so small contests keep the rare labels.
    """
    shares = state_shares(positive_share)
    states = sorted(shares, key=lambda on: (is_positive(on), sorted(on)))
    edges = np.cumsum([shares[on] for on in states])
    points = (np.arange(count) + rng.random()) / count * edges[-1]
    chosen = [states[i] for i in np.minimum(np.searchsorted(edges, points, side="right"), len(states) - 1)]
    drawn = [ExamState(on, _draw_quartile(on, rng)) for on in chosen]
    return [drawn[i] for i in rng.permutation(count)]


def _draw_quartile(on: frozenset[str], rng: np.random.Generator) -> int:
    return int(rng.choice(4, p=burden_table()[on])) if is_positive(on) else -1


def draw_q(quartile: int, difficulty: Difficulty, rng: np.random.Generator) -> float:
    """Draw the share of positive slices of a positive exam, at most 0.85.

    Args:
        quartile: 0-3, of q among exams with PE.
        difficulty: its `burden`, `burden_bounds` and `burden_skew`.
        rng: the exam's stream for clots.
    """
    low, high = difficulty.burden_bounds[quartile : quartile + 2]
    # Log-uniform: within a quartile small burdens are the commoner ones.
    place = rng.random() ** (difficulty.burden_skew if quartile == 3 else 1.0)
    return min(0.85, difficulty.burden * low * (high / low) ** place)


def label_row(on: frozenset[str]) -> dict[str, int]:
    """The thirteen exam and QA labels as 0/1 by name."""
    return {name: int(name in on) for name in (*EXAM_LABELS, *QA_LABELS)}


def broken_rules(on: frozenset[str]) -> list[str]:
    """The contest's label rules that a set of labels breaks; empty when it is consistent."""
    faults = []
    if is_positive(on):
        if (GTE_1 in on) == (LT_1 in on):
            faults.append("exactly one RV/LV label belongs to an exam with PE")
        if not on & {CENTRAL, LEFT, RIGHT}:
            faults.append("an exam with PE has a central, left or right clot")
        if {CHRONIC, ACUTE_AND_CHRONIC} <= on:
            faults.append("chronic and acute_and_chronic exclude each other")
    else:
        if {NEGATIVE, INDETERMINATE} <= on:
            faults.append("negative and indeterminate exclude each other")
        if on & set(POSITIVE_LABELS):
            faults.append("an exam without PE carries no PE label")
    if (INDETERMINATE in on) != bool(on & {QA_MOTION, QA_CONTRAST}):
        faults.append("motion or contrast make an exam indeterminate, nothing else does")
    return faults
