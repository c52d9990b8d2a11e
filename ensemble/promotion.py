"""Promotion of the candidate to submit: the simplest, unless a more complex one is significantly better.

Out-of-fold predictions are decoded as they would be submitted. The difference of two metrics is bootstrapped over
exams, with the same resamples for both candidates.
"""

import dataclasses

import numpy as np
import pandas as pd

from ensemble.decode import decode
from input.metric import bootstrap_totals, contributions, score_of


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate compared with the best one so far.

    Attributes:
        candidate: its name.
        metric: its out-of-fold metric, lower is better.
        against: the candidate that it is compared with.
        difference: metric minus the other candidate's metric.
        low, high: limits of the difference's 95 % interval.
        promoted: whether the whole interval is below 0.
    """

    candidate: str
    metric: float
    against: str
    difference: float
    low: float
    high: float
    promoted: bool


def out_of_fold_parts(
    predictions: dict[str, tuple[pd.DataFrame, pd.DataFrame]], truth_exams: pd.DataFrame, truth_slices: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Each exam's share of the metric of decoded predictions (see input.metric.contributions).

    Args:
        predictions: candidate -> exam and slice predictions.
        truth_exams: the training exams with their labels.
        truth_slices: the training slices with their label.

    Returns:
        candidate -> contributions.
    """
    return {
        name: contributions(truth_exams, truth_slices, *decode(exams, slices))
        for name, (exams, slices) in predictions.items()
    }


def promote(parts: dict[str, pd.DataFrame], resamples: int, seed: int) -> tuple[str, list[Comparison]]:
    """Compare candidates from the simplest to the most complex; each winner becomes the one to beat.

    Args:
        parts: candidate -> contributions, in order of complexity, exams in the same order everywhere.
        resamples: bootstrap resamples of exams.
        seed: of the resamples.

    Returns:
        The promoted candidate's name, and every comparison.
    """
    totals = {name: score_of(part).total for name, part in parts.items()}
    draws = {name: bootstrap_totals(part, resamples, seed) for name, part in parts.items()}
    best, comparisons = next(iter(parts)), []
    for name in list(parts)[1:]:
        low, high = np.quantile(draws[name] - draws[best], [0.025, 0.975])
        is_better = bool(high < 0)
        difference = totals[name] - totals[best]
        comparisons.append(Comparison(name, totals[name], best, difference, float(low), float(high), is_better))
        best = name if is_better else best
    return best, comparisons


def compare_slices(parts: dict[str, pd.DataFrame], first: str, second: str, resamples: int, seed: int) -> Comparison:
    """The image part of the metric of `first` against that of `second`, by the same paired bootstrap.

    Args:
        parts: candidate -> contributions, exams in the same order everywhere.
        first, second: names of candidates.
        resamples: bootstrap resamples of exams.
        seed: of the resamples.
    """
    image = {name: parts[name].assign(exam_loss=0.0, exam_weight=0.0) for name in (first, second)}
    totals = {name: float(part["image_loss"].sum() / part["image_weight"].sum()) for name, part in image.items()}
    with np.errstate(invalid="ignore"):  # resamples of a small contest without any exam with PE are left out
        draws = [bootstrap_totals(image[name], resamples, seed) for name in (first, second)]
    low, high = np.nanquantile(draws[0] - draws[1], [0.025, 0.975])
    difference = totals[first] - totals[second]
    return Comparison(first, totals[first], second, difference, float(low), float(high), bool(high < 0))
