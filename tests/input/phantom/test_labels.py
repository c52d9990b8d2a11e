"""Sampled labels: the contest's rules, its joint states and its coupling of burden and labels."""

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
    is_positive,
    sample_q,
    sample_states,
    state_shares,
)


def test_the_state_table_counts_the_exams_of_the_contest() -> None:
    counts = dict(contest_states())
    assert sum(counts.values()) == 7279
    assert sum(n for labels, n in counts.items() if NEGATIVE in labels) == 4911
    assert sum(n for labels, n in counts.items() if INDETERMINATE in labels) == 157
    assert sum(n for labels, n in counts.items() if GTE_1 in labels) == 940


def test_sampled_labels_break_no_rule() -> None:
    sampled = sample_states(10_000, 0.5, np.random.default_rng(0))
    assert [faults for state in sampled if (faults := broken_rules(state.labels))] == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({GTE_1, "rv_lv_ratio_lt_1", "leftsided_pe"}, "RV/LV"),
        ({GTE_1}, "central, left or right"),
        ({NEGATIVE, "central_pe"}, "without PE"),
        ({INDETERMINATE}, "indeterminate"),
        ({GTE_1, "leftsided_pe", "chronic_pe", "acute_and_chronic_pe"}, "exclude"),
    ],
)
def test_a_broken_rule_is_reported(labels: set[str], expected: str) -> None:
    assert any(expected in fault for fault in broken_rules(frozenset(labels)))


@pytest.mark.parametrize("positive_share", [0.304, 0.5])
def test_joint_states_have_the_target_frequencies(positive_share: float) -> None:
    sampled = sample_states(20_000, positive_share, np.random.default_rng(1))
    shares = state_shares(positive_share)
    assert abs(sum(state.positive for state in sampled) / 20_000 - positive_share) < 1e-3
    common = [labels for labels, share in shares.items() if share * 20_000 >= 5]
    observed = np.array([sum(state.labels == labels for state in sampled) for labels in common])
    expected = np.array([shares[labels] for labels in common])
    assert chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 0.01


def test_a_small_contest_keeps_the_states_in_proportion() -> None:
    sampled = sample_states(240, 0.5, np.random.default_rng(2))
    assert sum(state.positive for state in sampled) == 120
    assert abs(sum(GTE_1 in state.labels for state in sampled) - 120 * 940 / 2211) < 4


def test_burden_is_coupled_to_the_labels() -> None:
    counts = {labels: n for labels, n in contest_states() if is_positive(labels)}
    total = sum(counts.values())
    for label, expected in BURDEN_COUPLING.items():
        for quartile in range(4):
            weights = {labels: burden_table()[labels][quartile] * n / total for labels, n in counts.items()}
            share = sum(weight for labels, weight in weights.items() if label in labels) / sum(weights.values())
            assert share == pytest.approx(expected[quartile], abs=0.015), (label, quartile)


def test_quartiles_of_sampled_states_follow_the_coupling() -> None:
    sampled = [state for state in sample_states(8_000, 1.0, np.random.default_rng(3)) if state.positive]
    for label in (GTE_1, CENTRAL, CHRONIC):
        low = np.mean([label in state.labels for state in sampled if state.quartile == 0])
        high = np.mean([label in state.labels for state in sampled if state.quartile == 3])
        assert low == pytest.approx(BURDEN_COUPLING[label][0], abs=0.04)
        assert high == pytest.approx(BURDEN_COUPLING[label][3], abs=0.05)


def test_sampled_share_of_positive_slices_is_within_its_quartile() -> None:
    rng, plain = np.random.default_rng(4), replace(DIFFICULTIES["easy"], burden=1.0)
    sampled = np.array([sample_q(i % 4, plain, rng) for i in range(4_000)])
    assert 0.1 < np.median(sampled) < 0.2
    assert sampled.min() >= 0.025
    assert sampled.max() <= 0.7
