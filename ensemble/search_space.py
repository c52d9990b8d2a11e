"""The settings that `search` tries, with bounds around the values of the recipe that it starts from."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.settings import RANGES, Settings

#: Setting -> factor: it is tried from the recipe's value divided by it to the value times it, on a logarithmic scale.
#: A value of 0 switches something off and is kept.
ENSEMBLE_FACTORS = {
    "ensemble.ridge": 20.0,
    "ensemble.wide_ridge": 20.0,
    "ensemble.wide_columns": 3.0,
    "ensemble.features": 3.0,
    "ensemble.exam_leaves": 3.0,
    "ensemble.exam_min_data": 3.0,
    "ensemble.exam_rate": 3.0,
    "ensemble.exam_rounds": 3.0,
    "ensemble.slice_leaves": 3.0,
    "ensemble.slice_min_data": 5.0,
    "ensemble.slice_rate": 3.0,
    "ensemble.slice_rounds": 3.0,
}
NETWORK_FACTORS = {
    "models.learning_rate": 3.0,
    "models.weight_decay": 5.0,
    "models.epochs": 1.5,
    "models.augmentation": 2.0,
    "models.auxiliary_weight": 4.0,
    "models.map_weight": 3.0,
}
EXAM_NETWORK_FACTORS = {"models.exam.learning_rate": 3.0, "models.exam.epochs": 1.5, "models.exam.noise": 2.0}
#: Shares, tried between fixed bounds on a linear scale.
NETWORK_SHARES = {"models.dropout": (0.0, 0.5)}
EXAM_NETWORK_SHARES = {"models.exam.dropout": (0.0, 0.6)}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of one setting that a search tries.

    Attributes:
        key: the setting, e.g. `ensemble.ridge`.
        low, high: bounds, both included.
        is_integer: only whole numbers.
        is_log: the scale is logarithmic.
    """

    key: str
    low: float
    high: float
    is_integer: bool
    is_log: bool


def ensemble_ranges(settings: Settings) -> list[Range]:
    """The ranges of [ensemble]: all that the stack is fitted with, except seeds and numbers of folds and fits."""
    return _ranges(settings, ENSEMBLE_FACTORS, {})


def network_ranges(settings: Settings) -> list[Range]:
    """The ranges of [models], and of [models.exam] if there are exam networks.

    A setting that differs per backbone is tried for the other backbones only.
    """
    if not settings.models.exam.kinds:
        return _ranges(settings, NETWORK_FACTORS, NETWORK_SHARES)
    return _ranges(settings, NETWORK_FACTORS | EXAM_NETWORK_FACTORS, NETWORK_SHARES | EXAM_NETWORK_SHARES)


def with_values(settings: Settings, values: Mapping[str, float]) -> Settings:
    """The settings with other values.

    Args:
        settings: the recipe.
        values: setting, e.g. `ensemble.ridge` -> value.
    """
    changed: Any = settings
    for key, value in values.items():
        changed = _replaced(changed, key.split("."), value)
    return changed


def rounded(ranges: Iterable[Range], values: Mapping[str, float]) -> dict[str, float]:
    """Suggested values as they are used: whole numbers, or three significant digits for a readable settings file."""
    return {
        tried.key: int(values[tried.key]) if tried.is_integer else _three_digits(values[tried.key]) for tried in ranges
    }


def value_of(settings: Settings, key: str) -> Any:
    """The value of a setting such as `ensemble.ridge`."""
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _ranges(settings: Settings, factors: Mapping[str, float], shares: Mapping[str, tuple[float, float]]) -> list[Range]:
    found = []
    for key, factor in factors.items():
        value = value_of(settings, key)
        low, high = value / factor, value * factor
        if isinstance(value, int):
            low, high = max(1, round(low)), int(high)
        else:
            low, high = _three_digits(low), _three_digits(high)
        least, most = RANGES.get(key, (0, float("inf")))
        found.append(Range(key, max(low, least), min(high, most), isinstance(value, int), True))
    found += [Range(key, low, high, False, False) for key, (low, high) in shares.items()]
    return [tried for tried in found if 0 <= tried.low < tried.high and (tried.low > 0 or not tried.is_log)]


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _replaced(section: Any, names: list[str], value: float) -> Any:
    name, *rest = names
    inner = _replaced(getattr(section, name), rest, value) if rest else value
    return dataclasses.replace(section, **{name: inner})
