"""The networks' predictions, read, checked, and joined with slices, measured numbers and truth into a `View`.

The out-of-fold view has every training exam as predicted by the networks of its held-out fold; the test view of fold k
has every test exam as predicted by the networks of fold k.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.logistic import logit
from ensemble.segments import Segments
from ensemble.view import View
from features.store import store_table
from input.contest import EXAM_LABELS, QA_CONTRAST, QA_LABELS, QA_MOTION, SERIES, SLICE_LABEL, SOP, STUDY
from models.clot_columns import CLOT_COLUMNS
from pipeline import paths
from pipeline.artifact import MANIFEST, integrity_faults, repair_command
from pipeline.errors import UserError

#: Exam labels that networks may predict at every slice (auxiliary heads).
HEADS = (*EXAM_LABELS, QA_MOTION, QA_CONTRAST)
#: Columns of the tables under features/store that are not measured numbers.
_NOT_MEASURED = {
    STUDY, SERIES, SOP, "position", "z_mm", "quarantine", "split", "fold", "path", "row",
    SLICE_LABEL, *EXAM_LABELS, *QA_LABELS, "q",
}  # fmt: skip
_REBUILD = "Rebuild the networks' predictions: ./run.sh --from models"


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measured numbers of features/store: one row per slice (StudyInstanceUID, SOPInstanceUID) and one per exam."""

    slices: pd.DataFrame
    exams: pd.DataFrame


def no_measured() -> Measured:
    """Empty tables: every measured number is missing."""
    return Measured(pd.DataFrame(columns=[STUDY, SOP]), pd.DataFrame(columns=[STUDY]))


def read_measured(store: Path) -> Measured:
    """Measured numbers of the pixel store; empty tables where the store has none.

    Raises:
        UserError: a table does not match the store's manifest.
    """
    return measured_of(store_table(store, "slices"), store_table(store, "exams"))


def measured_of(slices: pd.DataFrame | None, exams: pd.DataFrame | None) -> Measured:
    """Measured numbers of the tables of `features.build_store.assemble`; None: every number is missing."""
    return Measured(
        no_measured().slices if slices is None else _numeric(slices, [STUDY, SOP]),
        no_measured().exams if exams is None else _numeric(exams, [STUDY]),
    )


def read_networks(networks: Iterable[str], folds: Iterable[int], role: str) -> dict[str, dict[int, pd.DataFrame]]:
    """Read the networks' slice predictions; files are checked before they are parsed.

    Args:
        networks: names of networks.
        folds: the folds to read.
        role: "oof" or "test".

    Returns:
        network -> fold -> the rows of that role of its slices.parquet.

    Raises:
        UserError: every fault of every file.
    """
    folds = list(folds)
    tables: dict[str, dict[int, pd.DataFrame]] = {}
    faults: list[str] = []
    missing: list[str] = []
    for network in networks:
        for fold in folds:
            directory = paths.model_run(network, fold)
            path = directory / "slices.parquet"
            if not (directory / MANIFEST).is_file():
                missing.append(f"{paths.shown(directory)}: not trained yet")
                continue
            damaged = integrity_faults(directory, [path.name])
            if damaged:
                faults += damaged
                continue
            table = pd.read_parquet(path, filters=[("role", "==", role)])
            faults += [f"{paths.shown(path)}: {fault}" for fault in table_faults(table)]
            tables.setdefault(network, {})[fold] = table
    if missing or faults:
        next_step = repair_command(faults)
        raise UserError.listing("Unusable network predictions:", missing + faults, next_step)
    return tables


def table_faults(table: pd.DataFrame) -> list[str]:
    """The faults of one network's table: missing columns, repeated keys, NaN, values out of range."""
    missing = [column for column in (STUDY, SOP, "pe") if column not in table]
    if missing:
        return [f"missing columns: {', '.join(missing)}"]
    faults = []
    keys = [STUDY, SOP, *(["role"] if "role" in table else [])]
    repeated = int(table.duplicated(keys).sum())
    if repeated:
        faults.append(f"{repeated} slices have more than one row")
    for column in ["pe", *(label for label in HEADS if label in table)]:
        values = table[column].to_numpy(float)
        invalid = ~((values >= 0) & (values <= 1))
        if invalid.any():
            faults.append(f"{column}: {int(invalid.sum())} values are NaN or outside [0, 1]")
    return faults


def oof_view(
    networks: dict[str, dict[int, pd.DataFrame]], exams: pd.DataFrame, slices: pd.DataFrame, measured: Measured
) -> View:
    """Every training exam as predicted by the networks that did not see it.

    Args:
        networks: network -> fold -> its table (see `read_networks`).
        exams: the prepared exam table.
        slices: the prepared slice table.
        measured: measured numbers of the pixel store.

    Raises:
        UserError: an out-of-fold row of an exam that is not in the network's held-out fold.
    """
    fold_of = exams.loc[exams["split"] == "train"].set_index(STUDY)["fold"]
    faults, predictions = [], {}
    for network, folds in networks.items():
        parts = []
        for fold, table in folds.items():
            held_out = table[table["role"] == "oof"]
            misplaced = held_out[held_out[STUDY].map(fold_of) != fold][STUDY].nunique()
            if misplaced:
                faults.append(f"{network} fold {fold}: {misplaced} out-of-fold exams are not in fold {fold}")
            parts.append(held_out)
        predictions[network] = pd.concat(parts, ignore_index=True)
    if faults:
        raise UserError.listing("The networks' folds disagree with input/prepared:", faults, _REBUILD)
    return make_view(predictions, slices[slices["split"] == "train"], measured, exams[exams["split"] == "train"])


def test_view(
    networks: dict[str, dict[int, pd.DataFrame]], fold: int, slices: pd.DataFrame, measured: Measured
) -> View:
    """Every test exam as predicted by the networks of one fold.

    Args:
        networks: network -> fold -> its table (see `read_networks`).
        fold: the fold.
        slices: the prepared slice table.
        measured: measured numbers of the pixel store.
    """
    predictions = {name: folds[fold][folds[fold]["role"] == "test"] for name, folds in networks.items()}
    return make_view(predictions, slices[slices["split"] == "test"], measured)


def make_view(
    predictions: dict[str, pd.DataFrame], slices: pd.DataFrame, measured: Measured, truth: pd.DataFrame | None = None
) -> View:
    """Join predictions, geometry, measured numbers and truth by UID.

    Args:
        predictions: network -> StudyInstanceUID, SOPInstanceUID, `pe` and heads, one row per slice.
        slices: StudyInstanceUID, SOPInstanceUID, z_mm, and the slice label where `truth` is given.
        measured: numbers of the pixel store.
        truth: exam labels, QA labels, q and fold, one row per exam.

    Raises:
        UserError: networks that predict different slices, or slices that are not in `slices`.
    """
    keys, rows_of_network, faults = _match_slices(predictions)
    base = slices.set_index(SOP).reindex(keys)
    unknown = int(base[STUDY].isna().sum())
    if unknown:
        faults.append(f"{unknown} predicted slices are not in the slice table")
    if faults:
        raise UserError.listing("Predictions do not match:", faults, _REBUILD)
    study, z = base[STUDY].to_numpy(str), base["z_mm"].to_numpy(float)
    order = np.lexsort((keys.to_numpy(str), z, study))
    keys = keys[order]
    studies, sizes = np.unique(study[order], return_counts=True)
    logits: dict[str, np.ndarray] = {}
    heads: dict[str, dict[str, np.ndarray]] = {}
    clot: dict[str, dict[str, np.ndarray]] = {}
    for name, table in predictions.items():
        rows = rows_of_network[name][order]
        logits[name] = logit(table["pe"].to_numpy(float)[rows]).astype(np.float32)
        for label in HEADS:
            if label in table:
                heads.setdefault(label, {})[name] = logit(table[label].to_numpy(float)[rows]).astype(np.float32)
        for column in CLOT_COLUMNS:
            if column in table:
                clot.setdefault(column, {})[name] = table[column].to_numpy(np.float32)[rows]
    return View(
        studies,
        keys.to_numpy(str),
        Segments(np.concatenate([[0], np.cumsum(sizes)]), z[order]),
        logits,
        heads,
        clot,
        _reindexed(measured.slices, SOP, keys),
        _reindexed(measured.exams, STUDY, pd.Index(studies)),
        None if truth is None else _truth(truth, studies),
        None if truth is None else base[SLICE_LABEL].to_numpy(float)[order],
    )


def _match_slices(predictions: dict[str, pd.DataFrame]) -> tuple[pd.Index, dict[str, np.ndarray], list[str]]:
    """SOPInstanceUIDs of the first network, network -> its rows in that order, and the networks that do not match.

    Raises:
        UserError: a network predicts a slice twice.
    """
    first = next(iter(predictions))
    keys = pd.Index(predictions[first][SOP])
    indexes = {name: pd.Index(table[SOP]) for name, table in predictions.items()}
    faults = [f"{name} predicts a slice twice" for name, index in indexes.items() if not index.is_unique]
    if faults:
        raise UserError.listing("Predictions do not match:", faults, _REBUILD)
    rows_of_network = {name: index.get_indexer(keys) for name, index in indexes.items()}
    faults = [
        f"{name} and {first} predict different slices ({len(indexes[name])} and {len(keys)})"
        for name, rows in rows_of_network.items()
        if len(indexes[name]) != len(keys) or (rows < 0).any()
    ]
    return keys, rows_of_network, faults


def _truth(exams: pd.DataFrame, studies: np.ndarray) -> pd.DataFrame:
    columns = [STUDY, *EXAM_LABELS, *(label for label in QA_LABELS if label in exams), "q", "fold"]
    return exams[columns].set_index(STUDY).reindex(studies).reset_index()


def _numeric(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The keys and the measured numbers of a table."""
    numbers = [
        column
        for column in table.columns
        if column not in _NOT_MEASURED and pd.api.types.is_numeric_dtype(table[column])
    ]
    return table[keys + numbers]


def _reindexed(table: pd.DataFrame, key: str, index: pd.Index) -> pd.DataFrame:
    """The numbers of a table, one row per entry of `index`; NaN where the table has no row."""
    numbers = [column for column in table.columns if column not in (STUDY, SOP)]
    if not numbers:
        return pd.DataFrame(index=range(len(index)))
    return table.drop_duplicates(key).set_index(key)[numbers].reindex(index).reset_index(drop=True).astype(float)
