"""Which candidate becomes the submission: the simplest, unless a richer one is better beyond chance.

Out-of-fold predictions are decoded as they would be submitted; the difference of two metrics is resampled over
exams, both candidates on the same draws.
"""

import dataclasses

import numpy as np
import pandas as pd

from ensemble.decode import decode
from input.metric import bootstrap_totals, contributions, score_of


@dataclasses.dataclass(frozen=True)
class Step:
    """One candidate's challenge: its metric, the difference from the candidate that held the place, 95 % limits."""

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
    """Candidate -> each exam's share of the metric, of its decoded predictions (see input.metric.contributions)."""
    return {
        name: contributions(truth_exams, truth_slices, *decode(exams, slices))
        for name, (exams, slices) in predictions.items()
    }


def promote(parts: dict[str, pd.DataFrame], resamples: int, seed: int) -> tuple[str, list[Step]]:
    """Walk from the simplest candidate to the richest.

    Args:
        parts: candidate -> contributions, in order of complexity, exams in the same order everywhere.
        resamples: draws of exams.
        seed: of the draws.

    Returns:
        The promoted candidate's name, and every challenge on the way.
    """
    totals = {name: score_of(part).total for name, part in parts.items()}
    draws = {name: bootstrap_totals(part, resamples, seed) for name, part in parts.items()}
    holder, steps = next(iter(parts)), []
    for name in list(parts)[1:]:
        low, high = np.quantile(draws[name] - draws[holder], [0.025, 0.975])
        wins = bool(high < 0)
        difference = totals[name] - totals[holder]
        steps.append(Step(name, totals[name], holder, difference, float(low), float(high), wins))
        holder = name if wins else holder
    return holder, steps


def slices_alone(parts: dict[str, pd.DataFrame], first: str, second: str, resamples: int, seed: int) -> Step:
    """The image part of the metric of `first` against that of `second`, by the same paired bootstrap."""
    image = {name: parts[name].assign(exam_loss=0.0, exam_weight=0.0) for name in (first, second)}
    totals = {name: float(each["image_loss"].sum() / each["image_weight"].sum()) for name, each in image.items()}
    with np.errstate(invalid="ignore"):  # a draw of a small contest may hold no exam with PE: it counts for nothing
        draws = [bootstrap_totals(image[name], resamples, seed) for name in (first, second)]
    low, high = np.nanquantile(draws[0] - draws[1], [0.025, 0.975])
    return Step(first, totals[first], second, totals[first] - totals[second], float(low), float(high), bool(high < 0))
