"""The posterior over joint states: its support, its marginals, its prior."""

import numpy as np
import pytest

from ensemble.binary_targets import PE, QUESTIONS, labels_of
from ensemble.label_states import GIVEN_PE, SLACK, STATES, feasible, posterior, prior_shares, state_names
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, EXAM_LABELS, GTE_1, LEFT, RIGHT
from input.phantom.labels import broken_rules, contest_states, is_positive


def drawn_answers(exams: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {label: generator.beta(0.3, 0.5, exams) for label in GIVEN_PE}


def test_the_states_are_exactly_the_legal_ones_with_pe():
    assert len(set(state_names())) == len(STATES) == 42
    assert [broken_rules(on) for on in state_names()] == [[]] * 42
    seen = {on & frozenset(EXAM_LABELS) for on, _ in contest_states() if is_positive(on)}
    assert seen <= set(state_names())


def test_the_prior_is_how_often_the_states_occur():
    shares = dict(zip(state_names(), prior_shares(), strict=True))
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    gte_1 = sum(share for on, share in shares.items() if GTE_1 in on)
    assert gte_1 == pytest.approx(940 / 2211, abs=0.005)  # as published; half an exam a state is added


def test_marginals_of_the_posterior_are_the_answers_where_they_cohere():
    answers = drawn_answers(2_000, seed=0)
    share = posterior(answers)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(share @ STATES, feasible(answers), atol=1e-8)
    wanted = np.stack([answers[label] for label in GIVEN_PE], axis=1)
    cohere = sum(answers[label] for label in (LEFT, RIGHT, CENTRAL)) > 1 + SLACK
    cohere &= answers[CHRONIC] + answers[ACUTE_AND_CHRONIC] < 1 - SLACK
    inside = np.clip(wanted, 1e-3, 1 - 1e-3)
    assert 300 < cohere.sum() < 2_000
    np.testing.assert_allclose((share @ STATES)[cohere], inside[cohere], atol=1e-3)


def test_answers_equal_to_the_contests_shares_give_the_prior_back():
    shares = prior_shares()
    answers = {label: np.array([share]) for label, share in zip(GIVEN_PE, shares @ STATES, strict=True)}
    np.testing.assert_allclose(posterior(answers)[0], shares, atol=1e-9)


def test_what_goes_along_in_the_contest_goes_along_in_the_posterior():
    """Central clots strain the heart: P(gte_1 and central) exceeds the product of its parts."""
    answers = {label: np.array([0.5]) for label in GIVEN_PE} | {CHRONIC: np.array([0.1])}
    share = posterior(answers | {ACUTE_AND_CHRONIC: np.array([0.1])})[0]
    both = STATES[:, GIVEN_PE.index(GTE_1)] & STATES[:, GIVEN_PE.index(CENTRAL)]
    assert share[both].sum() > 0.3


def test_a_posterior_does_not_depend_on_its_company():
    answers = drawn_answers(300, seed=2)
    alone = {label: values[[7]] for label, values in answers.items()}
    np.testing.assert_allclose(posterior(answers)[7], posterior(alone)[0], atol=1e-12)


def test_labels_are_marginals_of_pe_times_the_posterior():
    answers = drawn_answers(50, seed=3)
    chain = answers | {question: np.full(50, 0.3) for question in QUESTIONS if question not in answers}
    labels = labels_of(chain)
    marginals = posterior(answers) @ STATES
    np.testing.assert_allclose(labels[CENTRAL], chain[PE] * marginals[:, GIVEN_PE.index(CENTRAL)])
