"""The drawn label sets: the contest's rules, its joint states and its coupling of burden and labels."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from input.contest import CENTRAL, CHRONIC, GTE_1, INDETERMINATE, NEGATIVE
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.labels import (
    BURDEN_COUPLING,
    broken_rules,
    burden_table,
    contest_states,
    draw_q,
    draw_states,
    is_positive,
    state_shares,
)


def test_the_state_table_holds_the_contests_exams() -> None:
    counts = dict(contest_states())
    assert sum(counts.values()) == 7279
    assert sum(n for on, n in counts.items() if NEGATIVE in on) == 4911
    assert sum(n for on, n in counts.items() if INDETERMINATE in on) == 157
    assert sum(n for on, n in counts.items() if GTE_1 in on) == 940


def test_no_rule_is_broken_in_ten_thousand_label_sets() -> None:
    drawn = draw_states(10_000, 0.5, np.random.default_rng(0))
    assert [faults for state in drawn if (faults := broken_rules(state.on))] == []


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ({GTE_1, "rv_lv_ratio_lt_1", "leftsided_pe"}, "RV/LV"),
        ({GTE_1}, "central, left or right"),
        ({NEGATIVE, "central_pe"}, "without PE"),
        ({INDETERMINATE}, "indeterminate"),
        ({GTE_1, "leftsided_pe", "chronic_pe", "acute_and_chronic_pe"}, "exclude"),
    ],
)
def test_a_broken_rule_is_named(on: set[str], expected: str) -> None:
    assert any(expected in fault for fault in broken_rules(frozenset(on)))


@pytest.mark.parametrize("positive_share", [0.304, 0.5])
def test_joint_states_have_the_target_frequencies(positive_share: float) -> None:
    drawn = draw_states(20_000, positive_share, np.random.default_rng(1))
    shares = state_shares(positive_share)
    assert abs(sum(state.positive for state in drawn) / 20_000 - positive_share) < 1e-3
    common = [on for on, share in shares.items() if share * 20_000 >= 5]
    found = np.array([sum(state.on == on for state in drawn) for on in common])
    wanted = np.array([shares[on] for on in common])
    assert chisquare(found, wanted / wanted.sum() * found.sum()).pvalue > 0.01


def test_a_small_contest_keeps_the_states_in_proportion() -> None:
    drawn = draw_states(240, 0.5, np.random.default_rng(2))
    assert sum(state.positive for state in drawn) == 120
    assert abs(sum(GTE_1 in state.on for state in drawn) - 120 * 940 / 2211) < 4


def test_burden_is_coupled_to_the_heavy_labels() -> None:
    counts = {on: n for on, n in contest_states() if is_positive(on)}
    total = sum(counts.values())
    for label, wanted in BURDEN_COUPLING.items():
        for quartile in range(4):
            weights = {on: burden_table()[on][quartile] * n / total for on, n in counts.items()}
            share = sum(weight for on, weight in weights.items() if label in on) / sum(weights.values())
            assert share == pytest.approx(wanted[quartile], abs=0.015), (label, quartile)


def test_quartiles_of_drawn_states_follow_the_coupling() -> None:
    drawn = [state for state in draw_states(8_000, 1.0, np.random.default_rng(3)) if state.positive]
    for label in (GTE_1, CENTRAL, CHRONIC):
        low = np.mean([label in state.on for state in drawn if state.quartile == 0])
        high = np.mean([label in state.on for state in drawn if state.quartile == 3])
        assert low == pytest.approx(BURDEN_COUPLING[label][0], abs=0.04)
        assert high == pytest.approx(BURDEN_COUPLING[label][3], abs=0.05)


def test_the_drawn_share_of_positive_slices_lies_in_its_quartile() -> None:
    rng, plain = np.random.default_rng(4), replace(DIFFICULTIES["easy"], burden=1.0)
    drawn = np.array([draw_q(i % 4, plain, rng) for i in range(4_000)])
    assert 0.1 < np.median(drawn) < 0.2
    assert drawn.min() >= 0.025
    assert drawn.max() <= 0.7
