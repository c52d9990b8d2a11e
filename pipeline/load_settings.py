"""Read a settings file, apply overrides from the command line and validate the result.

An unknown key is an error that lists the nearest names. `section.key=value` overrides are parsed as TOML values. All
faults of a file are reported at once.
"""

import codecs
import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import FOR_ALL_BACKBONES, RANGES, ModelsSettings, Settings


def load_settings(file: str | Path, *, overrides: Sequence[str] = (), data: str | None = None) -> Settings:
    """Read a settings file and apply overrides.

    Args:
        file: a TOML file; a relative path is searched in the working directory, then in the checkout.
        overrides: texts `section.key=value`; the value is TOML, or a bare word that is read as a string.
        data: shorthand for `input.data`.

    Returns:
        The resolved settings.

    Raises:
        UserError: missing file, invalid TOML, unknown keys, wrong types or values out of range; all at once.
    """
    values = _read_toml(file)
    faults: list[str] = []
    for override in overrides:
        _apply_override(values, override, faults)
    if data:
        values.setdefault("input", {})["data"] = data
    settings = _build(Settings, values, "", faults)
    for backbone, table in _tables(values, "models", "per_backbone").items():
        prefix = f"models.per_backbone.{backbone}."
        faults += [f"{prefix}{key}: cannot differ per backbone" for key in table if key in FOR_ALL_BACKBONES]
        checked = _build(ModelsSettings, table, prefix, faults)
        if checked:
            settings.models.per_backbone[backbone] = {key: getattr(checked, key) for key in table}
    if not faults:
        faults += _range_faults(settings)
    if faults:
        raise UserError.listing(f"Invalid settings: {file}.", faults, "Correct these settings and run again.")
    return settings


def _read_toml(file: str | Path) -> dict[str, Any]:
    """The values of a TOML file in the working directory or the checkout."""
    path = Path(file)
    if not path.is_file():
        path = paths.CHECKOUT / file
    if not path.is_file():
        known = ", ".join(sorted(path.name for path in (paths.CHECKOUT / "settings").glob("*.toml")))
        raise UserError(f"Settings file not found: {file}. The checkout has in settings/: {known}.")
    try:
        return tomllib.loads(_decoded(path.read_bytes()))
    except UnicodeDecodeError as fault:
        raise UserError(f"Not a text file: {file}: {fault}. Expected UTF-8 or UTF-16. Save it as UTF-8.") from fault
    except tomllib.TOMLDecodeError as fault:
        raise UserError(f"Invalid TOML: {file}: {fault}. Correct the file and run again.") from fault


def _decoded(data: bytes) -> str:
    """The text of a settings file: UTF-8, with the mark that some editors write, or UTF-16."""
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf_16 else "utf-8-sig").replace("\r\n", "\n")


def _range_faults(settings: Settings) -> list[str]:
    """One line per number outside RANGES; combinations of values are checked by the stage that reads them."""
    faults = []
    for key, (low, high) in RANGES.items():
        value: Any = settings
        for name in key.split("."):
            value = getattr(value, name)
        if not low <= value <= high:
            faults.append(f"{key}: expected {low:g} to {high:g}, got {value!r}")
    return faults


def _tables(values: dict[str, Any], *names: str) -> dict[str, dict[str, Any]]:
    """The sub-tables of a table of settings; empty if there are none."""
    table: Any = values
    for name in names:
        table = table.get(name, {}) if isinstance(table, dict) else {}
    return {key: value for key, value in table.items() if isinstance(value, dict)} if isinstance(table, dict) else {}


def _apply_override(values: dict[str, Any], override: str, faults: list[str]) -> None:
    """Put one `section.key=value` into the values of a file; append to `faults` if that is not possible."""
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot:
        faults.append(f"--set {override}: expected section.key=value")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target: Any = values.setdefault(section, {})
    *parents, leaf = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        faults.append(f"--set {override}: {key.strip().rpartition('.')[0]} is not a table of settings")
        return
    target[leaf] = value


def _build(section: type, values: dict[str, Any], prefix: str, faults: list[str]) -> Any:
    """An instance of a settings dataclass; None once there are faults, which are appended to `faults`."""
    hints = typing.get_type_hints(section)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=3) or sorted(hints)
            faults.append(f"{prefix}{key}: unknown; nearest: {', '.join(nearest)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                arguments[key] = _build(hints[key], value, f"{prefix}{key}.", faults)
            else:
                faults.append(f"{prefix}{key}: expected a table, got {value!r}")
        else:
            arguments[key] = _convert(value, hints[key], f"{prefix}{key}", faults)
    return section(**arguments) if not faults else None


def _convert(value: Any, hint: Any, key: str, faults: list[str]) -> Any:
    """Check a TOML value against the type of a field; lists become tuples, integers are accepted as floats."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list):
            return tuple(_convert(item, inner, key, faults) for item in value)
    elif origin is dict:
        inner = typing.get_args(hint)[1]
        if isinstance(value, dict):
            return {name: _convert(item, inner, f"{key}.{name}", faults) for name, item in value.items()}
    elif isinstance(hint, types.UnionType):
        if isinstance(value, typing.get_args(hint)) and not isinstance(value, bool):
            return value
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    faults.append(f"{key}: expected {expected}, got {value!r}")
    return None
