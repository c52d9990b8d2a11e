"""Identities of artifacts, and what differs between two of them."""

import hashlib
import json
from typing import Any


def identity_of(value: Any) -> str:
    """Hash any JSON value to 16 hex digits of sha256, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def first_difference(manifest: dict[str, Any], parts: dict[str, Any]) -> str:
    """Describe the first setting, input or version that differs from a manifest.

    Args:
        manifest: of the artifact as it was built.
        parts: `version`, `settings` and `inputs` as they are now.
    """
    if manifest.get("version") != parts["version"]:
        return f"format version {manifest.get('version')} -> {parts['version']}"
    for part in ("settings", "inputs"):
        for key, (old, new) in differences(manifest.get(part, {}), parts[part]).items():
            return f"its input {key} changed" if part == "inputs" else f"setting {key}: {old} -> {new}"
    return "its identity changed"


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> the two values, for every leaf that differs between two nested dictionaries."""
    flat_old, flat_new = flat(old), flat(new)
    keys = sorted(flat_old.keys() | flat_new.keys())
    return {key: (flat_old.get(key), flat_new.get(key)) for key in keys if flat_old.get(key) != flat_new.get(key)}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of a nested dictionary."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        leaves |= flat(value, name) if isinstance(value, dict) else {name: value}
    return leaves
