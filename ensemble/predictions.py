"""The networks' predictions joined to the slices and measured numbers they speak of, checked.

A `View` is what a second-level model sees: the slices of some exams with exactly one prediction of every
network. The out-of-fold view holds every training exam as its held-out fold's networks see it; the test
view of fold k holds every test exam as fold k's networks see it.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.logistic import logit
from ensemble.segments import Segments
from features.store import store_table
from input.contest import EXAM_LABELS, QA_CONTRAST, QA_LABELS, QA_MOTION, SERIES, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.artifact import MANIFEST, damage
from pipeline.errors import UserError

#: Exam labels on which every network has an opinion at every slice, where it has the column.
HEADS = (*EXAM_LABELS, QA_MOTION, QA_CONTRAST)
#: Columns of the tables under features/store that are not measured numbers.
_NOT_MEASURED = {
    STUDY, SERIES, SOP, "position", "z_mm", "quarantine", "split", "fold", "path", "row",
    SLICE_LABEL, *EXAM_LABELS, *QA_LABELS, "q",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class View:
    """Slices of exams, sorted by StudyInstanceUID and z, with one prediction of every network.

    Attributes:
        studies: (e,) StudyInstanceUIDs, ascending.
        sops: (n,) SOPInstanceUIDs.
        segments: the layout of the n slices in the e exams.
        logits: network -> (n,) logit of its slice probability.
        heads: exam label -> network -> (n,) logit of its opinion on that label.
        slice_numbers: (n rows) measured numbers, column -> float.
        exam_numbers: (e rows) measured numbers, column -> float.
        truth: (e rows) nine labels, QA labels, q, fold; None where the labels are unknown.
        slice_truth: (n,) 0/1; None where unknown.
        cache: exam-level tables computed from this view, kept because every candidate and fold asks for them.
    """

    studies: np.ndarray
    sops: np.ndarray
    segments: Segments
    logits: dict[str, np.ndarray]
    heads: dict[str, dict[str, np.ndarray]]
    slice_numbers: pd.DataFrame
    exam_numbers: pd.DataFrame
    truth: pd.DataFrame | None = None
    slice_truth: np.ndarray | None = None
    cache: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def owner(self) -> np.ndarray:
        """(n,) row of each slice's exam."""
        return self.segments.owner

    def mean_logit(self) -> np.ndarray:
        """(n,) mean over networks of the slice logits."""
        return np.mean(list(self.logits.values()), axis=0)

    def mean_head(self, label: str) -> np.ndarray | None:
        """(n,) mean over networks of the logits of one exam label; None where no network has it."""
        opinions = self.heads.get(label)
        return np.mean(list(opinions.values()), axis=0) if opinions else None

    def of_networks(self, names: Iterable[str]) -> "View":
        """The same slices seen by some of the networks."""
        names = list(names)
        if names == list(self.logits):
            return self
        heads = {label: {b: o[b] for b in names if b in o} for label, o in self.heads.items()}
        heads = {label: opinions for label, opinions in heads.items() if opinions}
        return dataclasses.replace(self, logits={b: self.logits[b] for b in names}, heads=heads, cache={})

    def take(self, exams: np.ndarray) -> "View":
        """The view of some exams: boolean mask or ascending rows."""
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
            {label: {name: values[rows] for name, values in o.items()} for label, o in self.heads.items()},
            self.slice_numbers[rows].reset_index(drop=True),
            self.exam_numbers[chosen].reset_index(drop=True),
            None if self.truth is None else self.truth[chosen].reset_index(drop=True),
            None if self.slice_truth is None else self.slice_truth[rows],
            {name: table[chosen].reset_index(drop=True) for name, table in self.cache.items()},
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measured numbers of features/store: a row a slice (keys Study, SOP), a row an exam (key Study)."""

    slices: pd.DataFrame
    exams: pd.DataFrame


def read_measured(store: Path) -> Measured:
    """Measured numbers of the pixel store; empty tables where the store holds none.

    Raises:
        UserError: a table does not match the store's manifest.
    """
    slices, exams = store_table(store, "slices"), store_table(store, "exams")
    return Measured(
        pd.DataFrame(columns=[STUDY, SOP]) if slices is None else _numeric(slices, [STUDY, SOP]),
        pd.DataFrame(columns=[STUDY]) if exams is None else _numeric(exams, [STUDY]),
    )


def read_networks(networks: Iterable[str], folds: Iterable[int], role: str) -> dict[str, dict[int, pd.DataFrame]]:
    """network -> fold -> the rows of one role ("oof" or "test") of its slices.parquet, checked before it is parsed.

    Raises:
        UserError: every fault of every file.
    """
    folds = list(folds)
    tables: dict[str, dict[int, pd.DataFrame]] = {}
    faults: list[str] = []
    for network in networks:
        for fold in folds:
            directory = paths.model_run(network, fold)
            path = directory / "slices.parquet"
            finished = (directory / MANIFEST).is_file()
            damaged = damage(directory, [path.name]) if finished else [f"{paths.shown(directory)}: not trained yet"]
            if damaged:
                faults += damaged
                continue
            table = pd.read_parquet(path, filters=[("role", "==", role)])
            faults += [f"{paths.shown(path)}: {fault}" for fault in table_faults(table)]
            tables.setdefault(network, {})[fold] = table
    if faults:
        mend = "Remove the folders of damaged ones; what is missing is trained by ./run.sh --from models"
        raise UserError.listing("Unusable network predictions:", faults, mend)
    return tables


def table_faults(table: pd.DataFrame) -> list[str]:
    """What is wrong with one network's table: columns, keys, NaN, range."""
    missing = [column for column in (STUDY, SOP, "pe") if column not in table]
    if missing:
        return [f"no column {', '.join(missing)}"]
    faults = []
    keys = [STUDY, SOP, *(["role"] if "role" in table else [])]
    repeated = int(table.duplicated(keys).sum())
    if repeated:
        faults.append(f"{repeated} slices have more than one row")
    for column in ["pe", *(label for label in HEADS if label in table)]:
        values = table[column].to_numpy(float)
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            faults.append(f"{column}: {int(bad.sum())} values are NaN or outside [0, 1]")
    return faults


def oof_view(
    networks: dict[str, dict[int, pd.DataFrame]], exams: pd.DataFrame, slices: pd.DataFrame, measured: Measured
) -> View:
    """Every training exam as the networks that did not see it predict it.

    Raises:
        UserError: an out-of-fold row of an exam that is not in the network's held-out fold.
    """
    fold_of = exams.loc[exams["split"] == "train"].set_index(STUDY)["fold"]
    faults, predictions = [], {}
    for network, folds in networks.items():
        parts = []
        for fold, table in folds.items():
            held_out = table[table["role"] == "oof"]
            strangers = held_out[held_out[STUDY].map(fold_of) != fold][STUDY].nunique()
            if strangers:
                faults.append(f"{network} fold {fold}: {strangers} out-of-fold exams are not in fold {fold}")
            parts.append(held_out)
        predictions[network] = pd.concat(parts, ignore_index=True)
    if faults:
        raise UserError.listing("The networks' folds disagree with input/prepared:", faults, "./run.sh --from models")
    return make_view(predictions, slices[slices["split"] == "train"], measured, exams[exams["split"] == "train"])


def test_view(
    networks: dict[str, dict[int, pd.DataFrame]], fold: int, slices: pd.DataFrame, measured: Measured
) -> View:
    """Every test exam as fold `fold`'s networks predict it."""
    predictions = {name: folds[fold][folds[fold]["role"] == "test"] for name, folds in networks.items()}
    return make_view(predictions, slices[slices["split"] == "test"], measured)


def make_view(
    predictions: dict[str, pd.DataFrame], slices: pd.DataFrame, measured: Measured, truth: pd.DataFrame | None = None
) -> View:
    """Join predictions, geometry, measured numbers and truth by UID.

    Args:
        predictions: network -> StudyInstanceUID, SOPInstanceUID, `pe` and heads, a row a slice.
        slices: StudyInstanceUID, SOPInstanceUID, z_mm, and the slice label where `truth` is given.
        measured: numbers of the pixel store.
        truth: exam labels, QA labels, q and fold, a row an exam.

    Raises:
        UserError: networks that speak of different slices, or slices that `slices` does not know.
    """
    first = next(iter(predictions))
    keys = pd.Index(predictions[first][SOP])
    indexes = {name: pd.Index(table[SOP]) for name, table in predictions.items()}
    faults = [f"{name} predicts a slice twice" for name, index in indexes.items() if not index.is_unique]
    if faults:
        raise UserError.listing("Predictions do not match:", faults, "Rebuild them: ./run.sh --from models")
    rows = {name: index.get_indexer(keys) for name, index in indexes.items()}
    faults = [
        f"{name} and {first} predict different slices ({len(indexes[name])} and {len(keys)})"
        for name, found in rows.items()
        if len(indexes[name]) != len(keys) or (found < 0).any()
    ]
    base = slices.set_index(SOP).reindex(keys)
    unknown = int(base[STUDY].isna().sum())
    if unknown:
        faults.append(f"{unknown} predicted slices are not in the slice table")
    if faults:
        raise UserError.listing("Predictions do not match:", faults, "Rebuild them: ./run.sh --from models")
    study, z = base[STUDY].to_numpy(str), base["z_mm"].to_numpy(float)
    order = np.lexsort((keys.to_numpy(str), z, study))
    keys = keys[order]
    studies, sizes = np.unique(study[order], return_counts=True)
    logits, heads = {}, {}
    for name, table in predictions.items():
        found = rows[name][order]
        logits[name] = logit(table["pe"].to_numpy(float)[found]).astype(np.float32)
        for label in HEADS:
            if label in table:
                heads.setdefault(label, {})[name] = logit(table[label].to_numpy(float)[found]).astype(np.float32)
    return View(
        studies,
        keys.to_numpy(str),
        Segments(np.concatenate([[0], np.cumsum(sizes)]), z[order]),
        logits,
        heads,
        _aligned(measured.slices, SOP, keys),
        _aligned(measured.exams, STUDY, pd.Index(studies)),
        None if truth is None else _truth(truth, studies),
        None if truth is None else base[SLICE_LABEL].to_numpy(float)[order],
    )


def _truth(exams: pd.DataFrame, studies: np.ndarray) -> pd.DataFrame:
    columns = [STUDY, *EXAM_LABELS, *(label for label in QA_LABELS if label in exams), "q", "fold"]
    return exams[columns].set_index(STUDY).reindex(studies).reset_index()


def _numeric(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    numbers = [
        column
        for column in table.columns
        if column not in _NOT_MEASURED and pd.api.types.is_numeric_dtype(table[column])
    ]
    return table[keys + numbers]


def _aligned(table: pd.DataFrame, key: str, wanted: pd.Index) -> pd.DataFrame:
    numbers = [column for column in table.columns if column not in (STUDY, SOP)]
    if not numbers:
        return pd.DataFrame(index=range(len(wanted)))
    return table.drop_duplicates(key).set_index(key)[numbers].reindex(wanted).reset_index(drop=True).astype(float)
