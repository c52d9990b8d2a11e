"""The candidates of a run, and how a set of fitted ones is kept on disk."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ensemble.baselines import PositionOnly, Prior
from ensemble.blend import Blend
from ensemble.predictions import View
from ensemble.stack import Stack
from ensemble.weighted_blend import Weighted
from pipeline.settings import EnsembleSettings, Settings

PRIOR, Z_ONLY, MEAN, WEIGHTED, STACK = "prior", "z_only", "mean", "weighted", "stack"
Candidate = Prior | PositionOnly | Blend | Weighted | Stack
_KINDS: dict[str, type] = {each.__name__: each for each in (Prior, PositionOnly, Blend, Weighted, Stack)}


def by_simplicity(names: Iterable[str]) -> list[str]:
    """Candidate names, the simplest first: baselines, the mean, one network or one kind alone, weights, the stack.

    The mean chooses nothing; to submit one backbone alone is a choice that has to be earned.
    """
    place = {PRIOR: 0, Z_ONLY: 1, MEAN: 2, WEIGHTED: 4, STACK: 5}
    return sorted(names, key=lambda name: place.get(name, 3))


def networks_read(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Candidate -> the networks that it reads: each slice network alone, the mean of all slice networks, the mean of
    all exam networks of a kind, and the stack (and, where asked for, the weighted mixture) of everything."""
    models = settings.models
    kinds = {kind: models.exam_networks(kind) for kind in models.exam.kinds}
    weighted = {WEIGHTED: models.networks} if settings.ensemble.weighted else {}
    single = {name: (name,) for name in models.backbones}
    return {**single, MEAN: models.backbones, **kinds, **weighted, STACK: models.networks}


def fitters(settings: Settings) -> dict[str, Callable[[View, EnsembleSettings], Candidate]]:
    """Candidate name -> how it is fitted on a view with truth, which holds the networks that it reads."""

    def blend(name: str) -> Callable[[View, EnsembleSettings], Candidate]:
        return lambda view, settings: Blend.fit(view, settings, who=name)

    learned = {WEIGHTED: Weighted.fit, STACK: Stack.fit}
    found = {name: learned.get(name) or blend(name) for name in networks_read(settings)}
    return {PRIOR: Prior.fit, Z_ONLY: PositionOnly.fit, **found}


def save_all(candidates: dict[str, Candidate], folder: Path) -> dict[str, Any]:
    """Write the trees of fitted candidates into `folder`; returns the JSON value that `load_one` reads."""
    return {name: {"kind": type(each).__name__, "value": each.save(folder)} for name, each in candidates.items()}


def load_one(saved: dict[str, Any], name: str, folder: Path) -> Candidate:
    """One candidate that `save_all` wrote."""
    return _KINDS[saved[name]["kind"]].load(folder, saved[name]["value"])
