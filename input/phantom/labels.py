"""Exam labels of the synthetic contest: joint states with the contest's frequencies, and the clot burden.

A state is the set of positive exam and QA labels of an exam. label_states.json lists the states with their counts
among the contest's 7,279 training exams; only the share of exams with PE can be set.
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
    """Target of one exam: its positive labels and, with PE, the quartile of q."""

    labels: frozenset[str]  # positive exam and QA labels
    quartile: int  # 0-3; -1 without PE

    @property
    def positive(self) -> bool:
        """Whether the exam has PE."""
        return is_positive(self.labels)


def is_positive(labels: frozenset[str]) -> bool:
    """Whether a set of positive labels is that of an exam with PE."""
    return NEGATIVE not in labels and INDETERMINATE not in labels


@cache
def contest_states() -> tuple[tuple[frozenset[str], int], ...]:
    """Return every joint state of the exam and QA labels with its count among the contest's training exams."""
    states = json.loads(STATES_FILE.read_text())["states"]
    return tuple((frozenset(state["on"]), state["n"]) for state in states)


def state_shares(positive_share: float) -> dict[frozenset[str], float]:
    """Return the probability of every joint state.

    The contest's relative frequencies are kept among exams with PE, and among exams without.

    Args:
        positive_share: share of exams with PE, 0-1.
    """
    states = contest_states()
    totals = {pe: sum(n for labels, n in states if is_positive(labels) == pe) for pe in (True, False)}
    share = {True: positive_share, False: 1.0 - positive_share}
    return {labels: n / totals[is_positive(labels)] * share[is_positive(labels)] for labels, n in states}


@cache
def burden_table() -> dict[frozenset[str], np.ndarray]:
    """Return P(quartile of q | state), shape (4,), of every state with PE.

    Iterative proportional fitting of a state-by-quartile table to the frequencies of the states, to equal quartiles
    and to BURDEN_COUPLING.
    """
    states = [(labels, n) for labels, n in contest_states() if is_positive(labels)]
    counts = np.array([n for _, n in states], float)
    shares = counts / counts.sum()
    table = np.repeat(shares[:, None] / 4, 4, axis=1)
    for _ in range(200):
        for label, target in BURDEN_COUPLING.items():
            has = np.array([label in labels for labels, _ in states])
            table[has] *= np.array(target) / 4 / table[has].sum(axis=0)
            table[~has] *= (1 - np.array(target)) / 4 / table[~has].sum(axis=0)
        table *= (shares / table.sum(axis=1))[:, None]
    return {labels: row / row.sum() for (labels, _), row in zip(states, table, strict=True)}


def sample_states(count: int, positive_share: float, rng: np.random.Generator) -> list[ExamState]:
    """Sample the states of a contest's exams, in random order.

    Systematic sampling (one random offset, equal steps through the cumulative shares): the count of every state
    differs from its expectation by less than one, so small contests keep the rare labels.

    Args:
        count: number of exams.
        positive_share: share of exams with PE, 0-1.
        rng: random generator.
    """
    shares = state_shares(positive_share)
    states = sorted(shares, key=lambda labels: (is_positive(labels), sorted(labels)))
    edges = np.cumsum([shares[labels] for labels in states])
    points = (np.arange(count) + rng.random()) / count * edges[-1]
    chosen = [states[i] for i in np.minimum(np.searchsorted(edges, points, side="right"), len(states) - 1)]
    sampled = [ExamState(labels, _sample_quartile(labels, rng)) for labels in chosen]
    return [sampled[i] for i in rng.permutation(count)]


def _sample_quartile(labels: frozenset[str], rng: np.random.Generator) -> int:
    return int(rng.choice(4, p=burden_table()[labels])) if is_positive(labels) else -1


def sample_q(quartile: int, difficulty: Difficulty, rng: np.random.Generator) -> float:
    """Sample q, the share of positive slices of an exam with PE; at most 0.85.

    Args:
        quartile: quartile of q among exams with PE, 0-3.
        difficulty: gives `burden`, `burden_bounds` and `burden_skew`.
        rng: the exam's stream for clots.
    """
    low, high = difficulty.burden_bounds[quartile : quartile + 2]
    # Log-uniform: within a quartile small burdens are more common.
    position = rng.random() ** (difficulty.burden_skew if quartile == 3 else 1.0)
    return min(0.85, difficulty.burden * low * (high / low) ** position)


def label_row(labels: frozenset[str]) -> dict[str, int]:
    """Encode positive labels as the thirteen exam and QA labels, 0 or 1 by column name."""
    return {name: int(name in labels) for name in (*EXAM_LABELS, *QA_LABELS)}


def broken_rules(labels: frozenset[str]) -> list[str]:
    """Return the contest's label rules that a set of positive labels breaks; empty when it is consistent."""
    faults = []
    if is_positive(labels):
        if (GTE_1 in labels) == (LT_1 in labels):
            faults.append("an exam with PE has exactly one RV/LV label")
        if not labels & {CENTRAL, LEFT, RIGHT}:
            faults.append("an exam with PE has a central, left or right clot")
        if {CHRONIC, ACUTE_AND_CHRONIC} <= labels:
            faults.append("chronic and acute_and_chronic exclude each other")
    else:
        if {NEGATIVE, INDETERMINATE} <= labels:
            faults.append("negative and indeterminate exclude each other")
        if labels & set(POSITIVE_LABELS):
            faults.append("an exam without PE has no PE label")
    if (INDETERMINATE in labels) != bool(labels & {QA_MOTION, QA_CONTRAST}):
        faults.append("an exam is indeterminate if and only if motion or contrast is flagged")
    return faults
