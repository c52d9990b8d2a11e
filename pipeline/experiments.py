"""Experiments: names, recorded settings, and which one a command line means; standard library only.

An experiment is a folder with its resolved settings, its results, and links to its artifacts. Its name is given by
`--name`, or made of the settings file's stem and the overrides, e.g. `phantom,models.epochs=6`. The same settings
always lead to the same experiment: if a name is taken by other settings (the file was edited), `.2` is appended to it.
"""

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import paths
from pipeline.earlier_layout import earlier_artifacts, take_over
from pipeline.errors import UserError
from pipeline.identity import differences, identity_of
from pipeline.load_settings import load_settings
from pipeline.settings import Settings
from pipeline.settings_text import settings_text, with_absolute_data

SETTINGS = "settings.toml"
_TITLE = "The resolved settings of this experiment"
#: Longest name that is made of overrides; a longer one is cut, and stays unique.
LONGEST = 80


class DamagedSettingsError(UserError):
    """The recorded settings of an experiment were changed."""


def default_name(settings_file: str, overrides: Sequence[str]) -> str:
    """The name of an experiment without --name.

    Args:
        settings_file: as given on the command line.
        overrides: texts `section.key=value`.
    """
    words = [Path(settings_file).stem]
    for override in filter(is_recipe, overrides):
        key, _, value = override.partition("=")
        words.append("=".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in (key, value)))
    return ",".join(words)[:LONGEST]


def is_recipe(override: str) -> bool:
    """Whether an override `section.key=value` is a part of the recipe; [tracking] is not."""
    return not override.strip().startswith("tracking.")


def experiment_of(settings: Settings, name: str, *, is_chosen: bool) -> str:
    """The name of the experiment with these settings: an existing one, or a free name.

    Args:
        settings: resolved.
        name: wanted.
        is_chosen: the user gave the name.

    Raises:
        UserError: the chosen name is no folder name, or it is taken by other settings.
    """
    if not re.fullmatch(r"\w[\w.,=+@-]*", name):
        raise UserError(f"Invalid name of an experiment: {name!r}. Expected letters, digits, and any of . , = + @ - _")
    number = 1
    while True:
        candidate = name if number == 1 else f"{name}.{number}"
        if not is_experiment(candidate) or _has_settings(candidate, settings):
            return candidate
        if is_chosen:
            raise UserError(
                f"Experiment {name} has other settings: {_first_difference(name, settings)}. Choose another --name."
            )
        number += 1


def recorded_settings(name: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of an experiment.

    Args:
        name: of the experiment.
        overrides: texts `section.key=value`.

    Raises:
        UserError: there is no such experiment, or its settings are damaged or not those of this version of the code.
    """
    if not is_experiment(name):
        require_experiment(name)
    file = paths.experiments() / name / SETTINGS
    _require_unchanged(file)
    return load_settings(file, overrides=overrides)


def _require_unchanged(file: Path) -> None:
    """Compare recorded settings with the checksum in their first line; those of earlier versions have none.

    Missing lines would be read as the default settings, which are another experiment.
    """
    first, _, text = file.read_bytes().partition(b"\n")
    if first not in (_first_line(text), f"# {_TITLE}.".encode()):
        raise DamagedSettingsError(
            f"Damaged settings: {paths.shown(file)}: changed since they were recorded. Edit another file, e.g. a copy "
            f"in settings/. Record them again: rm -f {shlex.quote(paths.shown(file))} && ./run.sh with the options of "
            "this experiment."
        )


def _first_line(text: bytes) -> bytes:
    return f"# {_TITLE}; checksum of the following lines: {identity_of(text.hex())}".encode()


def is_experiment(name: str) -> bool:
    """Whether there is an experiment of this name."""
    return (paths.experiments() / name / SETTINGS).is_file()


def names() -> list[str]:
    """The names of all experiments, oldest first."""
    files = list(paths.experiments().glob(f"*/{SETTINGS}"))
    return [file.parent.name for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file))]


def require_experiment(name: str = "") -> None:
    """Check that an experiment exists.

    Args:
        name: of the experiment; empty: the current one.

    Raises:
        UserError: it does not exist; lists those that do.
    """
    folder = paths.experiments() / name if name else paths.experiment()
    if (folder / paths.LINKS).is_dir():
        return
    known = ", ".join(names()) or "none"
    earlier = "There are artifacts of an earlier version, which ./run.sh takes over. " if earlier_artifacts() else ""
    raise UserError(
        f"No experiment: {paths.shown(folder)}. Experiments here: {known}. {earlier}Choose one with --name, or run "
        "this one: ./run.sh with the same --settings, --set and --data."
    )


def start(settings: Settings) -> None:
    """Record the current experiment, unless that is done; take over artifacts of the earlier layout.

    Raises:
        UserError: `tracking.mlflow` is set and mlflow is not installed.
    """
    if settings.tracking.mlflow and importlib.util.find_spec("mlflow") is None:
        raise UserError(
            f"tracking.mlflow is {settings.tracking.mlflow}, but mlflow is not installed. Install it: {sys.executable} "
            "-m pip install mlflow-skinny"
        )
    take_over()
    file = paths.experiment() / SETTINGS
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text = settings_text(with_absolute_data(settings).as_dict()).encode()
    temporary = file.with_name(f".{SETTINGS}.{os.getpid()}")
    temporary.write_bytes(_first_line(text) + b"\n" + text)
    os.replace(temporary, file)


def _has_settings(name: str, settings: Settings) -> bool:
    try:
        return recorded_settings(name).as_dict() == with_absolute_data(settings).as_dict()
    except DamagedSettingsError:
        raise
    except UserError:  # of another version of the code
        return False


def _first_difference(name: str, settings: Settings) -> str:
    try:
        recorded = recorded_settings(name).as_dict()
    except UserError:
        return f"{SETTINGS} is not of this version of the code"
    for key, (old, new) in differences(recorded, with_absolute_data(settings).as_dict()).items():
        return f"{key} is {old!r}, not {new!r}"
    return "none"
