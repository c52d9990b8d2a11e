"""The posterior over the joint states of an exam's labels: every state that may occur, none that may not.

The answers of `ensemble.binary_targets` are six marginals of an exam with PE. Of all distributions over the 42 states
that the rules allow (RV/LV below or at least 1; left, right, central in the 7 combinations that are not empty; acute,
chronic or both) the one with these marginals is taken that is nearest, in Kullback-Leibler divergence, to how often
the states occur among the contest's training exams (Csiszar 1975, Annals of Probability 3:146). So what the networks
say of each label stays, and what goes along with what is the contest's. Marginals of one distribution cohere.
"""

import itertools

import numpy as np

from ensemble.logistic import expit, logit
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, LEFT, LT_1, POSITIVE_LABELS, RIGHT
from input.phantom.labels import contest_states, is_positive

#: The labels that an exam with PE is asked about, in the order of the columns of STATES.
GIVEN_PE = (GTE_1, LEFT, RIGHT, CENTRAL, CHRONIC, ACUTE_AND_CHRONIC)
SIDES = (LEFT, RIGHT, CENTRAL)
#: (42, 6) booleans: the joint states of an exam with PE, one a row.
STATES = np.array(
    [
        (gte_1, *sides, *age)
        for gte_1 in (False, True)
        for sides in itertools.product((False, True), repeat=3)
        if any(sides)
        for age in ((False, False), (True, False), (False, True))
    ]
)
#: An exam's marginals keep this distance from contradiction, so that every state keeps some probability.
SLACK = 0.01
_STEPS = 60
_TOLERANCE = 1e-10


def state_names() -> list[frozenset[str]]:
    """The labels that are on in each row of STATES, RV/LV below 1 among them."""
    names = [{label for label, on in zip(GIVEN_PE, state, strict=True) if on} for state in STATES]
    return [frozenset(each if GTE_1 in each else each | {LT_1}) for each in names]


def prior_shares() -> np.ndarray:
    """(42,) how often each state occurs among exams with PE; half an exam is added, so that none is impossible."""
    counts = dict.fromkeys(state_names(), 0.5)
    for on, count in contest_states():
        if is_positive(on):
            counts[on & frozenset(POSITIVE_LABELS)] += count
    shares = np.array(list(counts.values()))
    return shares / shares.sum()


def feasible(answers: dict[str, np.ndarray]) -> np.ndarray:
    """(e, 6) marginals that some distribution over STATES has, nearest to the answers in a simple sense.

    Sides that together fall short of 1 are raised by one shift of their logits, chronicities that together exceed 1
    are scaled down; everything else stays.
    """
    values = expit(logit(np.stack([answers[label] for label in GIVEN_PE], axis=1)))
    sides = [GIVEN_PE.index(label) for label in SIDES]
    values[:, sides] = _at_least(values[:, sides], 1 + SLACK)
    ages = [GIVEN_PE.index(label) for label in (CHRONIC, ACUTE_AND_CHRONIC)]
    values[:, ages] /= np.maximum(values[:, ages].sum(axis=1, keepdims=True) / (1 - SLACK), 1.0)
    return values


def posterior(answers: dict[str, np.ndarray]) -> np.ndarray:
    """P(state | PE) of every exam, (e, 42), rows sum to 1.

    Args:
        answers: label -> (e,) its probability given PE, for the labels of GIVEN_PE.
    """
    wanted = feasible(answers)
    start = np.log(prior_shares())
    prior = prior_shares() @ STATES
    tilt = logit(wanted) - logit(prior)
    active = np.arange(len(wanted))
    for _ in range(_STEPS):
        share, gap = _tilted(start, tilt[active], wanted[active])
        far = np.abs(gap).max(axis=1, initial=0) > _TOLERANCE
        active, share, gap = active[far], share[far], gap[far]
        if not len(active):
            break
        tilt[active] += _newton_step(share, gap)
    return _tilted(start, tilt, wanted)[0]


def _tilted(start: np.ndarray, tilt: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tilted shares (e, 42), and what their marginals lack (e, 6)."""
    logits = start + tilt @ STATES.T
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return share, wanted - share @ STATES


def _newton_step(share: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """(e, 6) a Newton step towards the wanted marginals, shortened while they are far."""
    mean = share @ STATES
    products = (STATES[:, :, None] & STATES[:, None, :]).reshape(len(STATES), -1)
    size = STATES.shape[1]
    covariance = (share @ products).reshape(-1, size, size) - mean[:, :, None] * mean[:, None, :]
    step = np.linalg.solve(covariance + 1e-12 * np.eye(size), gap[:, :, None])[:, :, 0]
    return step * np.minimum(1, 1 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))


def _at_least(values: np.ndarray, total: float) -> np.ndarray:
    """Shift the logits of each row by one number until it sums to `total`; larger sums stay as they are."""
    logits = logit(values)
    short = values.sum(axis=1) < total
    low, high = np.zeros(len(values)), np.full(len(values), 10.0)
    for _ in range(50):
        middle = (low + high) / 2
        enough = expit(logits + middle[:, None]).sum(axis=1) >= total
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(short[:, None], expit(logits + high[:, None]), values)
