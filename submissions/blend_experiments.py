"""The `blend` command: an experiment over the networks of several finished ones; no network is trained.

The new experiment is an ordinary one. Each of its slice networks has its settings of its experiment of origin in
`[models.per_backbone]`, so its identity is that of the trained network, which is found and linked.
"""

import dataclasses
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from models.network_names import exam_network_kinds
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import experiment_of, recorded_settings, start
from pipeline.identity import differences
from pipeline.settings import FOR_ALL_BACKBONES, ExamNetworkSettings, ModelsSettings, Settings
from submissions.finished_run import require_finished

#: Longest suffix of a network's name.
LONGEST = 24


def blend(names: Sequence[str], name: str = "") -> int:
    """Make the experiment and run it.

    Args:
        names: finished experiments, at least two.
        name: of the new experiment; empty: all names, joined by "+".

    Returns:
        The exit status of the run.

    Raises:
        UserError: fewer than two experiments, one that is not finished, or experiments that do not fit together.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UserError(f"Expected at least two different experiments, got {', '.join(names)}.")
    origins = {origin: _finished(origin) for origin in names}
    settings = blended_settings(origins)
    wanted = name or "+".join(names)
    paths.select_experiment(experiment_of(settings, wanted, is_chosen=bool(name)))
    start(settings)
    experiment = paths.experiment().name
    say(f"{experiment}: {', '.join(settings.models.backbones)}")
    return subprocess.run([str(paths.CHECKOUT / "run.sh"), "--name", experiment]).returncode


def _finished(name: str) -> Settings:
    settings = recorded_settings(name)
    paths.select_experiment(name)
    require_finished(settings)
    return settings


def blended_settings(origins: dict[str, Settings]) -> Settings:
    """The settings of a blend; all but [models] are those of the first experiment.

    Args:
        origins: name -> settings of finished experiments.

    Raises:
        UserError: other exams, folds, store, masks or exam networks; all faults at once.
    """
    faults = _input_faults(origins)
    first, *_ = origins.values()
    with_exam_networks = [settings.models.exam for settings in origins.values() if settings.models.exam.kinds]
    exam = with_exam_networks[0] if with_exam_networks else first.models.exam
    for name, settings in origins.items():
        if settings.models.exam.kinds:
            changed = differences(_comparable(exam), _comparable(settings.models.exam))
            faults += [f"{name}: models.exam.{key}: {new} instead of {old}" for key, (old, new) in changed.items()]
    if faults:
        raise UserError.listing("These experiments do not fit together:", faults)
    recipes = _recipes(origins)
    reading = tuple(name for name, (origin, backbone) in recipes.items() if _has_exam_networks(origin, backbone))
    models = dataclasses.replace(
        first.models,
        backbones=tuple(recipes),
        per_backbone={name: _recipe(origin, backbone) for name, (origin, backbone) in recipes.items()},
        exam=dataclasses.replace(exam, backbones=reading),
    )
    return dataclasses.replace(first, models=models)


def _comparable(exam: ExamNetworkSettings) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(exam, backbones=()))


def _input_faults(origins: dict[str, Settings]) -> list[str]:
    """Experiments whose tables, store or masks differ from those of the first one."""
    identities = {}
    for name in origins:
        paths.select_experiment(name)
        folders = {"exams, labels or folds": paths.prepared(), "[features]": paths.store(), "clot masks": paths.masks()}
        identities[name] = {title: read_manifest(folder)["identity"] for title, folder in folders.items()}
    first = next(iter(origins))
    return [
        f"{name}: other {title} than {first}"
        for name, own in identities.items()
        for title, identity in own.items()
        if identity != identities[first][title]
    ]


def _recipes(origins: dict[str, Settings]) -> dict[str, tuple[ModelsSettings, str]]:
    """Name of a network in the blend -> the [models] and the backbone of its origin; equal networks occur once."""
    found: list[tuple[str, ModelsSettings, str]] = []
    for name, settings in origins.items():
        for backbone in settings.models.backbones:
            recipe = _recipe(settings.models, backbone)
            if all(recipe != _recipe(other, known) or known != backbone for _, other, known in found):
                found.append((name, settings.models, backbone))
    backbones = [backbone for _, _, backbone in found]
    recipes: dict[str, tuple[ModelsSettings, str]] = {}
    for origin, models, backbone in found:
        network = backbone
        if backbones.count(backbone) > 1:
            network = f"{backbone}@{re.sub('[^A-Za-z0-9.]+', '-', origin)[:LONGEST]}"
            while network in recipes:
                network += "-"
        recipes[network] = models, backbone
    return recipes


def _recipe(models: ModelsSettings, backbone: str) -> dict[str, Any]:
    """The settings of one slice network."""
    resolved = dataclasses.asdict(models.of(backbone))
    return {key: value for key, value in resolved.items() if key not in FOR_ALL_BACKBONES}


def _has_exam_networks(models: ModelsSettings, backbone: str) -> bool:
    return bool(exam_network_kinds(models, backbone))
