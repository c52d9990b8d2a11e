"""Settings as TOML text that `load_settings` reads; standard library only."""

import dataclasses
import json
import re
from typing import Any

from pipeline.settings import Settings


def settings_text(values: dict[str, Any], comment: str = "") -> str:
    """Write resolved settings as TOML.

    Args:
        values: from `Settings.as_dict` or `Settings.without_paths`.
        comment: the first line; empty: none.
    """
    return (f"# {comment}\n" if comment else "") + "\n".join(_lines(values)) + "\n"


def with_absolute_data(settings: Settings) -> Settings:
    """The same settings, independent of the working directory."""
    if settings.is_phantom:
        return settings
    return dataclasses.replace(settings, input=dataclasses.replace(settings.input, data=str(settings.data_root)))


def _lines(table: dict[str, Any], name: str = "") -> list[str]:
    """Lines of a table: its values, then its sub-tables. Numbers, strings and lists look the same in JSON and TOML."""
    values = [f"{_key(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    lines = [f"\n[{name}]", *values] if name else values
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{name}.{_key(key)}" if name else _key(key))
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
