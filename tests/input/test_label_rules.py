"""The label consistency rules, compared with a direct implementation over all joint states."""

import itertools

import numpy as np
import pandas as pd
import pytest

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
    RIGHT,
)
from input.label_rules import RULES, count_violations, violations


def is_consistent(on: dict[str, bool], positive: bool) -> bool:
    if positive:
        return (
            on[GTE_1] + on[LT_1] == 1
            and on[LEFT] + on[RIGHT] + on[CENTRAL] >= 1
            and on[CHRONIC] + on[ACUTE_AND_CHRONIC] <= 1
            and not on[NEGATIVE]
            and not on[INDETERMINATE]
        )
    return on[NEGATIVE] + on[INDETERMINATE] == 1 and not any(on[label] for label in POSITIVE_LABELS)


@pytest.mark.parametrize("positive", [True, False])
def test_every_joint_state_agrees_with_a_direct_implementation(positive):
    states = pd.DataFrame(list(itertools.product([0.0, 1.0], repeat=9)), columns=list(EXAM_LABELS))
    broken = violations(states, np.full(len(states), 0.9 if positive else 0.1)).any(axis=1)
    rows = [{label: bool(row[label]) for label in EXAM_LABELS} for _, row in states.iterrows()]
    expected = [not is_consistent(row, positive) for row in rows]
    assert broken.tolist() == expected
    assert (~broken).sum() == (42 if positive else 2)


def exam(**on: float) -> pd.DataFrame:
    return pd.DataFrame([dict.fromkeys(EXAM_LABELS, 0.2) | on], index=["e"])


@pytest.mark.parametrize(
    ("labels", "highest", "expected"),
    [
        ({GTE_1: 0.7, LEFT: 0.7}, 0.7, set()),
        ({LEFT: 0.7}, 0.7, {"exactly_one_rv_lv"}),
        ({GTE_1: 0.7, LT_1: 0.7, LEFT: 0.7}, 0.7, {"exactly_one_rv_lv"}),
        ({GTE_1: 0.7}, 0.7, {"at_least_one_location"}),
        ({GTE_1: 0.7, CENTRAL: 0.7, CHRONIC: 0.7, ACUTE_AND_CHRONIC: 0.7}, 0.7, {"not_both_chronic"}),
        ({GTE_1: 0.7, LEFT: 0.7, NEGATIVE: 0.7}, 0.7, {"pe_excludes_negative"}),
        ({NEGATIVE: 0.7}, 0.3, set()),
        ({NEGATIVE: 0.7}, np.nan, set()),
        ({}, 0.3, {"negative_or_indeterminate"}),
        ({NEGATIVE: 0.7, INDETERMINATE: 0.7}, 0.3, {"negative_or_indeterminate"}),
        ({INDETERMINATE: 0.7, RIGHT: 0.7}, 0.3, {"no_pe_excludes_pe_labels"}),
    ],
)
def test_the_broken_rule_is_identified(labels, highest, expected):
    broken = violations(exam(**labels), np.array([highest])).loc["e"]
    assert set(broken.index[broken]) == expected and set(broken.index) == set(RULES)


def test_a_probability_of_one_half_is_off():
    assert count_violations(exam(**{NEGATIVE: 0.7, RIGHT: 0.5}), np.array([0.5])) == 0


def test_slice_probabilities_are_joined_by_index():
    exams = pd.concat([exam(**{NEGATIVE: 0.9}), exam(**{GTE_1: 0.9, RIGHT: 0.9})])
    exams.index = ["n", "p"]
    assert count_violations(exams, pd.Series({"p": 0.9, "n": 0.1})) == 0
    assert count_violations(exams, pd.Series({"p": 0.1, "n": 0.9})) == 2
