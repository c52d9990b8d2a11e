"""The input of a second-level model: slices of exams with exactly one prediction of every network."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ensemble.segments import Segments


@dataclasses.dataclass(frozen=True)
class View:
    """Slices of exams, sorted by StudyInstanceUID and z, with one prediction of every network.

    Attributes:
        studies: (e,) StudyInstanceUIDs, ascending.
        sops: (n,) SOPInstanceUIDs.
        segments: the layout of the n slices in the e exams.
        logits: network -> (n,) logit of its slice probability.
        heads: exam label -> network -> (n,) logit of its auxiliary output on that label.
        clot: number of the clot map (`models.clot_columns`) -> network -> (n,).
        slice_numbers: (n rows) measured numbers, column -> float.
        exam_numbers: (e rows) measured numbers, column -> float.
        truth: (e rows) nine labels, QA labels, q, fold; None where the labels are unknown.
        slice_truth: (n,) 0/1; None where unknown.
        cache: exam-level tables computed from this view, kept because every candidate and fold uses them.
    """

    studies: np.ndarray
    sops: np.ndarray
    segments: Segments
    logits: dict[str, np.ndarray]
    heads: dict[str, dict[str, np.ndarray]]
    clot: dict[str, dict[str, np.ndarray]]
    slice_numbers: pd.DataFrame
    exam_numbers: pd.DataFrame
    truth: pd.DataFrame | None = None
    slice_truth: np.ndarray | None = None
    cache: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def owner(self) -> np.ndarray:
        """(n,) row of each slice's exam."""
        return self.segments.owner

    def require_truth(self) -> tuple[pd.DataFrame, np.ndarray]:
        """`truth` and `slice_truth`.

        Raises:
            ValueError: the view has no truth.
        """
        if self.truth is None or self.slice_truth is None:
            raise ValueError("This view has no truth. Expected a view of training exams.")
        return self.truth, self.slice_truth

    def mean_logit(self) -> np.ndarray:
        """(n,) mean over networks of the slice logits."""
        return np.mean(list(self.logits.values()), axis=0)

    def mean_head(self, label: str) -> np.ndarray | None:
        """(n,) mean over networks of the auxiliary logits of one exam label; None where no network has it."""
        logits = self.heads.get(label)
        return np.mean(list(logits.values()), axis=0) if logits else None

    def of_networks(self, names: Iterable[str]) -> "View":
        """The same slices with the predictions of the named networks only."""
        names = list(names)
        if names == list(self.logits):
            return self
        logits = {name: self.logits[name] for name in names}
        heads, clot = _of_networks(self.heads, names), _of_networks(self.clot, names)
        return dataclasses.replace(self, logits=logits, heads=heads, clot=clot, cache={})

    def with_pe(self) -> "View":
        """The view of the exams with PE (q above 0); needs the truth."""
        truth, _ = self.require_truth()
        return self.take(truth["q"].to_numpy() > 0)

    def take(self, exams: np.ndarray) -> "View":
        """The view of a subset of exams, given as a boolean mask or as ascending rows."""
        exams = np.flatnonzero(exams) if np.asarray(exams).dtype == bool else np.asarray(exams)
        chosen = np.zeros(len(self.studies), bool)
        chosen[exams] = True
        rows = chosen[self.owner]
        starts = np.concatenate([[0], np.cumsum(self.segments.sizes[chosen])])
        return View(
            self.studies[chosen],
            self.sops[rows],
            Segments(starts, self.segments.z[rows]),
            {name: values[rows] for name, values in self.logits.items()},
            _of_rows(self.heads, rows),
            _of_rows(self.clot, rows),
            self.slice_numbers[rows].reset_index(drop=True),
            self.exam_numbers[chosen].reset_index(drop=True),
            None if self.truth is None else self.truth[chosen].reset_index(drop=True),
            None if self.slice_truth is None else self.slice_truth[rows],
            {name: table[chosen].reset_index(drop=True) for name, table in self.cache.items()},
        )


def _of_networks(columns: dict[str, dict[str, np.ndarray]], names: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """column -> network -> values, of the named networks; columns that none of them has are left out."""
    chosen = {column: {name: values[name] for name in names if name in values} for column, values in columns.items()}
    return {column: values for column, values in chosen.items() if values}


def _of_rows(columns: dict[str, dict[str, np.ndarray]], rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """column -> network -> values of some slices."""
    return {
        column: {name: of_network[rows] for name, of_network in values.items()} for column, values in columns.items()
    }
