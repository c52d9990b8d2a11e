"""Novelty: how unlike the training exams an exam's embeddings are, as a Mahalanobis distance.

An exam is summarised by mean and standard deviation over its slices of a slice network's embedding. The reference of
each fold's network is the fold that it did not see: in-sample embeddings would look more typical than those of any new
exam. Distances are divided by the 95th percentile of those of held-out exams, so 1 is the limit.
"""

import dataclasses

import numpy as np

#: Share of held-out training exams below the limit.
TYPICAL = 0.95
#: Parts into which a fold's exams are split to measure the distances of exams that the reference does not contain.
PARTS = 5
#: Smallest scale of a column, relative to the mean: without it, a unit that is nearly silent in training decides.
LEAST_SCALE = 0.25


@dataclasses.dataclass(frozen=True)
class Reference:
    """The exams of one fold, as a normal distribution of summaries.

    Attributes:
        mean: (p,).
        precision: (p, p) inverse of the shrunk covariance.
        limit: TYPICAL percentile of the distances of held-out exams.
    """

    mean: np.ndarray
    precision: np.ndarray
    limit: float

    def distance(self, summaries: np.ndarray) -> np.ndarray:
        """Mahalanobis distances of summaries (e, p), divided by the limit; (e,)."""
        return _distance(summaries, self.mean, self.precision) / self.limit


def summarise(embeddings: np.ndarray, owner: np.ndarray, exams: int) -> np.ndarray:
    """Mean and standard deviation of the slices' embeddings per exam, float64 (exams, 2 d).

    Args:
        embeddings: (n, d).
        owner: (n,) row of each slice's exam.
        exams: number of exams, each with a slice.
    """
    values = embeddings.astype(np.float64)
    counts = np.bincount(owner, minlength=exams)[:, None]
    mean, square = (np.zeros((exams, values.shape[1])) for _ in range(2))
    np.add.at(mean, owner, values)
    np.add.at(square, owner, values**2)
    mean /= counts
    return np.concatenate([mean, np.sqrt(np.maximum(square / counts - mean**2, 0))], axis=1)


def fit_reference(summaries: np.ndarray) -> tuple[Reference, np.ndarray]:
    """Fit the reference of one fold.

    Args:
        summaries: (e, p) of the exams that the fold's network did not see.

    Returns:
        The reference, and (e,) distance of each exam to the other parts' exams, divided by the limit.
    """
    parts = np.arange(len(summaries)) % min(PARTS, len(summaries))
    held_out = np.empty(len(summaries))
    for part in np.unique(parts):
        inside = parts != part
        held_out[~inside] = _distance(summaries[~inside], *_normal(summaries[inside]))
    limit = float(np.quantile(held_out, TYPICAL))
    return Reference(*_normal(summaries), limit), held_out / limit


def _normal(summaries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and precision; the covariance is shrunk (Ledoit and Wolf 2004), for there are few exams."""
    from sklearn.covariance import LedoitWolf

    scale = summaries.std(axis=0)
    scale = np.maximum(scale, LEAST_SCALE * scale.mean() + 1e-9)  # many units are silent in all training exams
    fitted = LedoitWolf().fit(summaries / scale)
    return fitted.location_ * scale, fitted.precision_ / np.outer(scale, scale)


def _distance(summaries: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    centred = summaries - mean
    return np.sqrt(np.maximum(np.einsum("ep,pq,eq->e", centred, precision, centred), 0))
