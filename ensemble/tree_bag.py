"""Trees that are fitted several times: with few exams, another division into inner folds gives other trees.

Every member chooses its number of rounds on inner folds of its own, and draws rows and columns of its own. The mean of
their corrections varies less than one of them.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ensemble.gradient_boosting import MANY_VALUES, Trees
from pipeline.settings import EnsembleSettings

Member = TypeVar("Member")
#: Distance of the members' seeds.
SEED_STEP = 101


def fit_members(fit: Callable[[int], Member], values: int, settings: EnsembleSettings) -> list[Member]:
    """Fit every member; several at a time where one thread fits a member (see `ensemble.gradient_boosting`).

    Args:
        fit: seed -> the member; the seed of the first one is that of the settings.
        values: the number of values in the table.
        settings: number of members, threads.
    """
    seeds = [settings.seed + SEED_STEP * number for number in range(settings.bags)]
    with ThreadPoolExecutor(1 if values > MANY_VALUES else settings.threads) as pool:
        return list(pool.map(fit, seeds))


@dataclasses.dataclass(frozen=True)
class TreeBag:
    """The mean of the corrections of several `Trees`; without members it is 0."""

    members: tuple[Trees, ...] = ()

    def correction(self, table: pd.DataFrame) -> np.ndarray:
        """(rows,) the value to add to the base model's logit."""
        total = np.zeros(len(table))
        for trees in self.members:
            total += trees.correction(table)
        return total / max(len(self.members), 1)

    def save(self, path: Path) -> list[dict[str, Any]]:
        """Write the members to files named after `path`; return the JSON value that `load` needs."""
        return [
            trees.save(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            for number, trees in enumerate(self.members)
        ]

    @classmethod
    def load(cls, folder: Path, values: list[dict[str, Any]]) -> "TreeBag":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        return cls(tuple(Trees.load(folder, value) for value in values))
