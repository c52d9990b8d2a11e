"""A non-negative mixture of logits, calibrated: four forms, each richer than the last, the simplest that is as good.

    mean         equal weights
    weights      weights that sum to 1
    temperature  these, times one factor (Guo et al. 2017, arXiv:1706.04599)
    beta         these, through beta calibration (Kull et al. 2017, AISTATS): c + a ln p - b ln(1 - p)

A richer form is kept only when cross-validation over exams says so by more than one standard error.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from ensemble.logistic import LIMIT

FORMS = ("mean", "weights", "temperature", "beta")
#: Pull, in rows, of the parameters towards equal weights and no calibration.
PULL = 1.0


@dataclass(frozen=True)
class Mixture:
    """Logit = c - a softplus(-m) + b softplus(m), m the weighted sum of logits; a = b = 1 and c = 0 leave m."""

    form: str
    weights: tuple[float, ...]
    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def decision(self, logits: np.ndarray) -> np.ndarray:
        """(n,) logits of the mixture of (members, n) logits."""
        return _calibrated(np.array(self.weights) @ logits, self.a, self.b, self.c)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Mixture":
        """The mixture that `as_json` wrote."""
        return cls(**{**value, "weights": tuple(value["weights"])})


def plain_mean(members: int) -> Mixture:
    """Equal weights, no calibration."""
    return Mixture("mean", (1 / members,) * members)


def fit_form(form: str, logits: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Mixture:
    """Fit one form to (members, n) logits, 0/1 answers (n,) and weights (n,) of mean 1."""
    members = len(logits)
    if form == "mean":
        return plain_mean(members)
    shares = _fit_shares(logits, y, weight)
    mixed = shares @ logits
    if form == "weights":
        return Mixture(form, tuple(map(float, shares)))
    if form == "temperature":
        factor = float(_minimum(lambda v: _loss(v[0] * mixed, y, weight), np.ones(1))[0])
        return Mixture(form, tuple(map(float, shares)), factor, factor)
    found = _minimum(lambda v: _loss(_calibrated(mixed, *v), y, weight), np.array([1.0, 1.0, 0.0]))
    return Mixture(form, tuple(map(float, shares)), *map(float, found))


def fit_mixture(
    logits: np.ndarray, y: np.ndarray, fold: np.ndarray, *, exams: np.ndarray, weight: np.ndarray | None = None
) -> Mixture:
    """Choose a form by cross-validation and fit it on everything.

    Args:
        logits: (members, n), of rows that the members did not learn from.
        y: (n,) 0/1.
        fold: (n,) inner fold of each row.
        exams: (n,) number of each row's exam; standard errors count exams, not rows.
        weight: (n,) weights, brought to mean 1.
    """
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()
    owner = np.unique(exams, return_inverse=True)[1]
    best, best_loss = FORMS[0], _crossed_loss(FORMS[0], logits, y, fold, weight, owner)
    for form in FORMS[1:]:
        loss = _crossed_loss(form, logits, y, fold, weight, owner)
        gain = best_loss - loss
        if gain.mean() > gain.std() / np.sqrt(len(gain)):
            best, best_loss = form, loss
    return fit_form(best, logits, y, weight)


def _crossed_loss(
    form: str, logits: np.ndarray, y: np.ndarray, fold: np.ndarray, weight: np.ndarray, owner: np.ndarray
) -> np.ndarray:
    """(exams,) loss of each exam's rows under a form that was fitted without their fold."""
    decision = np.empty(len(y))
    for number in np.unique(fold):
        held = fold == number
        decision[held] = fit_form(form, logits[:, ~held], y[~held], weight[~held]).decision(logits[:, held])
    return np.bincount(owner, weight * (np.logaddexp(0, decision) - y * decision))


def _calibrated(mixed: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return np.clip(c - a * np.logaddexp(0, -mixed) + b * np.logaddexp(0, mixed), -LIMIT, LIMIT)


def _loss(decision: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (np.logaddexp(0, decision) - y * decision)).sum())


def _minimum(loss: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
    """The parameters of least loss, the slopes not negative, pulled towards `start`."""
    bounds = [(0.0, None), (0.0, None), (None, None)][: len(start)]
    return minimize(lambda v: loss(v) + PULL * ((v - start) ** 2).sum(), start, bounds=bounds, method="L-BFGS-B").x


def _fit_shares(logits: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(members,) weights that are not negative and sum to 1: a softmax of free numbers."""

    def shares_of(free: np.ndarray) -> np.ndarray:
        power = np.exp(free - free.max())
        return power / power.sum()

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss with its pull, and its slope."""
        shares = shares_of(free)
        mixed = shares @ logits
        residual = weight * (1 / (1 + np.exp(-np.clip(mixed, -30, 30))) - y)
        slope = shares * (logits @ residual - mixed @ residual)
        return _loss(mixed, y, weight) + PULL * (free**2).sum(), slope + 2 * PULL * free

    return shares_of(minimize(loss, np.zeros(len(logits)), jac=True, method="L-BFGS-B").x)
