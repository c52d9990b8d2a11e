"""Calibration of probabilities: reliability curve, expected calibration error beside its null, Brier score."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibration of one label.

    Attributes:
        ece: expected calibration error over bins of equal size.
        null: the mean ECE of a perfectly calibrated model with the same probabilities and sample size.
        null_high: the null's 95th percentile; an `ece` above it indicates miscalibration.
        brier: mean squared error of the probabilities.
        predicted: (bins,) mean probability.
        observed: (bins,) share of positives.
        counts: (bins,) cases.
    """

    ece: float
    null: float
    null_high: float
    brier: float
    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray


def calibration(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 10, draws: int = 200, seed: int = 0
) -> Calibration:
    """Measure the calibration of independent cases (exams).

    Args:
        probabilities: (n,) in [0, 1].
        labels: (n,) 0 or 1.
        bins: number of bins with equally many cases each.
        draws: simulated label sets for the null.
        seed: of the simulation.
    """
    order = np.argsort(probabilities, kind="stable")
    p, y = np.asarray(probabilities, float)[order], np.asarray(labels, float)[order]
    bins = max(1, min(bins, len(p)))
    # sklearn.calibration.calibration_curve bins by quantiles and puts tied probabilities, such as those of the prior,
    # into one bin; here bins have equal counts.
    bin_of = np.arange(len(p)) * bins // max(1, len(p))
    counts = np.bincount(bin_of, minlength=bins)
    predicted = np.bincount(bin_of, p, minlength=bins) / np.maximum(counts, 1)
    observed = np.bincount(bin_of, y, minlength=bins) / np.maximum(counts, 1)
    generator = np.random.default_rng(seed)
    # With few cases the ECE of perfect probabilities is well above 0; the null shows how far.
    null = [_ece(bin_of, bins, p - (generator.random(len(p)) < p)) for _ in range(draws)]
    return Calibration(
        ece=_ece(bin_of, bins, p - y),
        null=float(np.mean(null)),
        null_high=float(np.quantile(null, 0.95)),
        brier=float(np.mean((p - y) ** 2)),
        predicted=predicted,
        observed=observed,
        counts=counts,
    )


def _ece(bin_of: np.ndarray, bins: int, excess: np.ndarray) -> float:
    return float(np.abs(np.bincount(bin_of, excess, minlength=bins)).sum() / len(excess))
