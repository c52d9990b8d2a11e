"""The posterior over the joint label states of an exam with PE: only states that the label rules allow.

The targets of `ensemble.binary_targets` give six marginals of an exam with PE. Among all distributions over the 42
allowed states (RV/LV below or at least 1; the 7 non-empty combinations of left, right and central; acute, chronic or
both) with these marginals, the posterior is the one nearest, in Kullback-Leibler divergence, to the state frequencies
of the contest's training exams (Csiszar 1975, Annals of Probability 3:146). The marginals come from the networks, the
correlations between labels from the contest. Marginals of one distribution are coherent.
"""

import itertools

import numpy as np

from ensemble.logistic import expit, logit
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, LEFT, LT_1, POSITIVE_LABELS, RIGHT
from input.phantom.labels import contest_states, is_positive

#: The binary targets of an exam with PE, in the order of the columns of STATES.
GIVEN_PE = (GTE_1, LEFT, RIGHT, CENTRAL, CHRONIC, ACUTE_AND_CHRONIC)
SIDES = (LEFT, RIGHT, CENTRAL)
#: (42, 6) booleans: the joint states of an exam with PE, one per row.
STATES = np.array(
    [
        (gte_1, *sides, *age)
        for gte_1 in (False, True)
        for sides in itertools.product((False, True), repeat=3)
        if any(sides)
        for age in ((False, False), (True, False), (False, True))
    ]
)
#: Distance of an exam's marginals from infeasibility, so that every state keeps some probability.
SLACK = 0.01
_STEPS = 60
_TOLERANCE = 1e-10


def state_names() -> list[frozenset[str]]:
    """The positive labels of each row of STATES, including RV/LV ratio < 1."""
    names = [{label for label, on in zip(GIVEN_PE, state, strict=True) if on} for state in STATES]
    return [frozenset(labels if GTE_1 in labels else labels | {LT_1}) for labels in names]


def prior_shares() -> np.ndarray:
    """(42,) frequency of each state among exams with PE; half an exam per state is added, so that none is zero."""
    counts = dict.fromkeys(state_names(), 0.5)
    for on, count in contest_states():
        if is_positive(on):
            counts[on & frozenset(POSITIVE_LABELS)] += count
    shares = np.array(list(counts.values()))
    return shares / shares.sum()


def feasible(probabilities: dict[str, np.ndarray]) -> np.ndarray:
    """Adjust marginals so that some distribution over STATES has them.

    Left, right and central are raised by a common shift of their logits where they sum to less than 1; chronic and
    acute-and-chronic are scaled down where they sum to more than 1. All other marginals stay.

    Args:
        probabilities: label -> (e,) its probability given PE, for the labels of GIVEN_PE.

    Returns:
        (e, 6) marginals in the order of GIVEN_PE.
    """
    values = expit(logit(np.stack([probabilities[label] for label in GIVEN_PE], axis=1)))
    sides = [GIVEN_PE.index(label) for label in SIDES]
    values[:, sides] = _at_least(values[:, sides], 1 + SLACK)
    ages = [GIVEN_PE.index(label) for label in (CHRONIC, ACUTE_AND_CHRONIC)]
    values[:, ages] /= np.maximum(values[:, ages].sum(axis=1, keepdims=True) / (1 - SLACK), 1.0)
    return values


def posterior(probabilities: dict[str, np.ndarray]) -> np.ndarray:
    """P(state | PE) of every exam, (e, 42), rows sum to 1.

    Args:
        probabilities: label -> (e,) its probability given PE, for the labels of GIVEN_PE.
    """
    marginals = feasible(probabilities)
    start = np.log(prior_shares())
    prior = prior_shares() @ STATES
    tilt = logit(marginals) - logit(prior)
    active = np.arange(len(marginals))
    for _ in range(_STEPS):
        share, gap = _tilted(start, tilt[active], marginals[active])
        far = np.abs(gap).max(axis=1, initial=0) > _TOLERANCE
        active, share, gap = active[far], share[far], gap[far]
        if not len(active):
            break
        tilt[active] += _newton_step(share, gap)
    return _tilted(start, tilt, marginals)[0]


def _tilted(start: np.ndarray, tilt: np.ndarray, marginals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exponentially tilted shares (e, 42), and target marginals minus their marginals (e, 6)."""
    logits = start + tilt @ STATES.T
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return share, marginals - share @ STATES


def _newton_step(share: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """(e, 6) a Newton step towards the target marginals, at most 1 in every component."""
    mean = share @ STATES
    products = (STATES[:, :, None] & STATES[:, None, :]).reshape(len(STATES), -1)
    size = STATES.shape[1]
    covariance = (share @ products).reshape(-1, size, size) - mean[:, :, None] * mean[:, None, :]
    step = np.linalg.solve(covariance + 1e-12 * np.eye(size), gap[:, :, None])[:, :, 0]
    return step * np.minimum(1, 1 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))


def _at_least(values: np.ndarray, total: float) -> np.ndarray:
    """Shift the logits of each row by a constant so that it sums to `total`; rows with a larger sum are unchanged."""
    logits = logit(values)
    short = values.sum(axis=1) < total
    low, high = np.zeros(len(values)), np.full(len(values), 10.0)
    for _ in range(50):
        middle = (low + high) / 2
        reached = expit(logits + middle[:, None]).sum(axis=1) >= total
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.where(short[:, None], expit(logits + high[:, None]), values)
