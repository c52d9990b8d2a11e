"""The posterior over joint states: its support, its marginals, its prior."""

import numpy as np
import pytest

from ensemble.binary_targets import PE, TARGETS, label_probabilities
from ensemble.label_states import GIVEN_PE, SLACK, STATES, feasible, posterior, prior_shares, state_names
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, EXAM_LABELS, GTE_1, LEFT, RIGHT
from input.phantom.labels import broken_rules, contest_states, is_positive


def random_marginals(exams: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {label: generator.beta(0.3, 0.5, exams) for label in GIVEN_PE}


def test_the_states_are_exactly_the_allowed_ones_with_pe() -> None:
    assert len(set(state_names())) == len(STATES) == 42
    assert [broken_rules(on) for on in state_names()] == [[]] * 42
    occurring = {on & frozenset(EXAM_LABELS) for on, _ in contest_states() if is_positive(on)}
    assert occurring <= set(state_names())


def test_the_prior_is_the_frequency_of_the_states() -> None:
    shares = dict(zip(state_names(), prior_shares(), strict=True))
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    gte_1 = sum(share for on, share in shares.items() if GTE_1 in on)
    assert gte_1 == pytest.approx(940 / 2211, abs=0.005)  # as published; half an exam per state is added


def test_the_posterior_has_the_given_marginals_where_they_are_coherent() -> None:
    marginals = random_marginals(2_000, seed=0)
    share = posterior(marginals)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(share @ STATES, feasible(marginals), atol=1e-8)
    stacked = np.stack([marginals[label] for label in GIVEN_PE], axis=1)
    is_coherent = sum(marginals[label] for label in (LEFT, RIGHT, CENTRAL)) > 1 + SLACK
    is_coherent &= marginals[CHRONIC] + marginals[ACUTE_AND_CHRONIC] < 1 - SLACK
    inside = np.clip(stacked, 1e-3, 1 - 1e-3)
    assert 300 < is_coherent.sum() < 2_000
    np.testing.assert_allclose((share @ STATES)[is_coherent], inside[is_coherent], atol=1e-3)


def test_the_contests_own_marginals_give_the_prior() -> None:
    shares = prior_shares()
    marginals = {label: np.array([share]) for label, share in zip(GIVEN_PE, shares @ STATES, strict=True)}
    np.testing.assert_allclose(posterior(marginals)[0], shares, atol=1e-9)


def test_labels_that_correlate_in_the_contest_correlate_in_the_posterior() -> None:
    """Central clots strain the heart: P(gte_1 and central) exceeds the product of the marginals."""
    marginals = {label: np.array([0.5]) for label in GIVEN_PE} | {CHRONIC: np.array([0.1])}
    share = posterior(marginals | {ACUTE_AND_CHRONIC: np.array([0.1])})[0]
    both = STATES[:, GIVEN_PE.index(GTE_1)] & STATES[:, GIVEN_PE.index(CENTRAL)]
    assert share[both].sum() > 0.3


def test_the_posterior_of_an_exam_does_not_depend_on_other_exams() -> None:
    marginals = random_marginals(300, seed=2)
    alone = {label: values[[7]] for label, values in marginals.items()}
    np.testing.assert_allclose(posterior(marginals)[7], posterior(alone)[0], atol=1e-12)


def test_labels_are_marginals_of_pe_times_the_posterior() -> None:
    marginals = random_marginals(50, seed=3)
    chain = marginals | {target: np.full(50, 0.3) for target in TARGETS if target not in marginals}
    labels = label_probabilities(chain)
    given_pe = posterior(marginals) @ STATES
    np.testing.assert_allclose(labels[CENTRAL], chain[PE] * given_pe[:, GIVEN_PE.index(CENTRAL)])
