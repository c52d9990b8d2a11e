"""Ridge logistic regression for few rows and few columns: deterministic, stored as JSON; logits with bounds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

#: Logits are clipped to +-LIMIT, so probabilities stay in [3e-4, 1 - 3e-4].
LIMIT = 8.0


def logit(probability: np.ndarray | float) -> np.ndarray:
    """Log odds, clipped to +-LIMIT."""
    edge = 1 / (1 + np.exp(LIMIT))
    return special.logit(np.clip(np.asarray(probability, float), edge, 1 - edge))


def expit(value: np.ndarray | float) -> np.ndarray:
    """The inverse of `logit`, with the same bounds."""
    return special.expit(np.clip(value, -LIMIT, LIMIT))


@dataclass(frozen=True)
class Logistic:
    """p = expit(intercept + coefficients . (x - centre) / scale); missing values count as the centre."""

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    # sklearn.linear_model.LogisticRegression agrees to six digits but not in the bytes of a submission, and it does
    # not accept probabilities as labels.
    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, *, weight: np.ndarray | None = None, penalty: float = 1.0) -> "Logistic":
        """Fit by Newton steps on standardised columns.

        Args:
            x: (n, d) features; NaN counts as the column's mean.
            y: (n,) 0/1 or a probability; both classes must be present.
            weight: (n,) weights, scaled to mean 1.
            penalty: the ridge on every standardised coefficient (prior variance 1 / penalty); the intercept is free.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        weight = np.ones(len(y)) if weight is None else np.asarray(weight, float) / np.mean(weight)
        known = np.isfinite(x)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, x, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, x - centre, 0) ** 2).sum(axis=0) / count)
        scale = np.where(spread > 1e-9, spread, 1.0)
        design = np.column_stack([np.ones(len(y)), np.where(known, (x - centre) / scale, 0)])
        base = np.clip(np.average(y, weights=weight), 1e-4, 1 - 1e-4)
        beta = np.zeros(design.shape[1])
        beta[0] = np.log(base / (1 - base))
        ridge = np.r_[1e-6, np.full(design.shape[1] - 1, penalty)]
        for _ in range(50):
            step = _newton_step(design, y, weight, beta, ridge)
            beta = beta + step
            if np.abs(step).max() < 1e-8:
                break
        return cls(tuple(centre), tuple(scale), tuple(beta[1:]), float(beta[0]))

    def decision(self, x: np.ndarray) -> np.ndarray:
        """Logits (n,) of the features `x` (n, d)."""
        z = (np.asarray(x, float) - np.array(self.centre)) / np.array(self.scale)
        return np.clip(self.intercept + np.where(np.isfinite(z), z, 0) @ np.array(self.coefficients), -LIMIT, LIMIT)

    def as_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        return {
            "centre": list(map(float, self.centre)),
            "scale": list(map(float, self.scale)),
            "coefficients": list(map(float, self.coefficients)),
            "intercept": self.intercept,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Logistic":
        """The model that `as_json` wrote."""
        return cls(tuple(value["centre"]), tuple(value["scale"]), tuple(value["coefficients"]), value["intercept"])


def _newton_step(
    design: np.ndarray, y: np.ndarray, weight: np.ndarray, beta: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """A Newton step (d + 1,), shortened where a component exceeds 4."""
    p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
    gradient = design.T @ (weight * (y - p)) - ridge * beta
    curvature = (design * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ design + np.diag(ridge)
    step = np.linalg.solve(curvature, gradient)
    return step * min(1.0, 4.0 / max(np.abs(step).max(), 1e-12))
