"""The candidates of a run, and how fitted candidates are stored."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ensemble.baselines import PositionOnly, Prior
from ensemble.blend import Blend
from ensemble.stack import Stack
from ensemble.view import View
from models.network_names import exam_network_names, network_names
from pipeline.settings import EnsembleSettings, Settings

PRIOR, Z_ONLY, MEAN, STACK = "prior", "z_only", "mean", "stack"
Candidate = Prior | PositionOnly | Blend | Stack
_CLASSES: dict[str, type[Candidate]] = {cls.__name__: cls for cls in (Prior, PositionOnly, Blend, Stack)}


def by_simplicity(names: Iterable[str]) -> list[str]:
    """Sort candidate names, simplest first: baselines, the mean, one network or one kind alone, the stack.

    The mean involves no choice; submitting one backbone alone is a choice that has to be justified by its score.
    """
    rank = {PRIOR: 0, Z_ONLY: 1, MEAN: 2, STACK: 4}
    return sorted(names, key=lambda name: rank.get(name, 3))


def networks_read(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Candidate -> the networks that it reads.

    Each slice network alone, the mean of all slice networks, the mean of all exam networks of a kind, and the stack of
    everything.
    """
    models = settings.models
    kinds = {kind: exam_network_names(models, kind) for kind in models.exam.kinds}
    single = {name: (name,) for name in models.backbones}
    return {**single, MEAN: models.backbones, **kinds, STACK: network_names(models)}


def fitters(settings: Settings) -> dict[str, Callable[[View, EnsembleSettings], Candidate]]:
    """Candidate name -> the function that fits it on a view with truth and with the networks that it reads."""

    def blend(name: str) -> Callable[[View, EnsembleSettings], Candidate]:
        return lambda view, settings: Blend.fit(view, settings, name=name)

    baselines: dict[str, Callable[[View, EnsembleSettings], Candidate]] = {
        PRIOR: Prior.fit,
        Z_ONLY: PositionOnly.fit,
    }
    return baselines | {name: Stack.fit if name == STACK else blend(name) for name in networks_read(settings)}


def prior_of(candidates: dict[str, Candidate]) -> Prior:
    """The fitted prior among candidates.

    Raises:
        TypeError: the candidate of that name is not a `Prior`.
    """
    prior = candidates[PRIOR]
    if not isinstance(prior, Prior):
        raise TypeError(f"Candidate {PRIOR!r}: expected a Prior, got {type(prior).__name__}.")
    return prior


def save_candidates(candidates: dict[str, Candidate], folder: Path) -> dict[str, Any]:
    """Write the trees of fitted candidates into `folder`; return the JSON value that `load_candidate` reads."""
    return {
        name: {"kind": type(candidate).__name__, "value": candidate.save(folder)}
        for name, candidate in candidates.items()
    }


def load_candidate(saved: dict[str, Any], name: str, folder: Path) -> Candidate:
    """Read one candidate that `save_candidates` wrote.

    Args:
        saved: what `save_candidates` returned.
        name: the candidate's name.
        folder: where its trees were written.
    """
    return _CLASSES[saved[name]["kind"]].load(folder, saved[name]["value"])
