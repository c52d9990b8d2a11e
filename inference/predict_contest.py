"""The `predict-contest` command: a complete submission for a contest tree without labels, one group of exams at a time.

    experiments/<name>/predicted/
        exams<first>.parquet     the nine labels of a group of exams, decoded
        slices<first>.parquet    their slices, with the reason where the prior replaces a prediction; written last
        .store/                  pixels of the current group, removed after the group

Memory and disk use are bounded by one group, whatever the number of exams. A killed run resumes after the last
complete group if the ensemble and test.csv are unchanged.
"""

import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pandas as pd

from ensemble.apply_ensemble import apply
from ensemble.decode import decode
from ensemble.predictions import read_measured
from features.acceptance_rules import Acceptance
from features.build_acceptance import judged, measure_store, training_step_mm
from features.build_store import store_exams
from features.store import stored_studies
from inference.predicted_studies import SYNTHETIC_WARNING
from input.contest import SERIES, SOP, STUDY
from input.contest_tree import is_jpeg_tree, read_test_table
from input.unlabelled_exams import slice_rows
from models.apply_networks import FinishedNetworks
from models.network_names import network_names
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.file_lock import locked
from pipeline.files import read_table, require_writable, sha256, write_table
from pipeline.settings import Settings
from submissions.check_submission import require_valid
from submissions.finished_run import require_finished, trained_on_phantoms
from submissions.kaggle_csv import Layout, read_layout, write_submission

VERSION = 2  # 2: exams that are not assessable have the prior
#: Exams that are read and predicted together; a killed run repeats one group.
GROUP_SIZE = 32
#: Reason listed for slices that were not read because of --hours.
TIME_LIMIT_REACHED = "not read: time limit reached"
_STORE = ".store"
#: Exams and slices.
Tables = tuple[pd.DataFrame, pd.DataFrame]


def predict_contest(
    settings: Settings,
    tree: Path,
    out: Path,
    *,
    hours: float = 0.0,
    group_size: int = GROUP_SIZE,
    force: bool = False,
) -> None:
    """Write a complete, valid submission for the test exams of a contest tree.

    A slice that cannot be read, and an exam without a readable slice or that is not assessable, get the ensemble's
    prior.

    Args:
        settings: those of the finished run.
        tree: the contest tree: test.csv and test/ (or test-jpegs/); neither train.csv nor labels are read.
        out: the submission.
        hours: time limit; the exams of groups that would exceed it get the prior too; 0: no limit.
        group_size: exams per group.
        force: discard the predictions of earlier runs, for example after files were added to the same tree.

    Raises:
        UserError: no finished run with these settings, no usable test.csv, or another such run is active.
    """
    deadline = time.monotonic() + hours * 3600 if hours else float("inf")
    require_finished(settings)
    require_writable(out)
    layout, rows = read_layout(tree), read_test_table(tree)
    artifact = _artifact(tree, group_size)
    unpredicted = rows.iloc[:0]
    with _exclusive(artifact.directory):
        if artifact.is_current(force=force):
            command = shlex.join(["./run.sh", "predict-contest", str(tree), "--out", str(out), "--force"])
            verify(artifact.directory, next_step=f"Predict again, with the same settings: {command}")
        else:
            with artifact.building(fresh=force) as directory:
                unpredicted = _predict_groups(settings, tree, rows, directory, group_size, deadline)
                if unpredicted.empty:
                    artifact.finish(rows={"exams": rows[STUDY].nunique(), "slices": len(rows)})
        exams, slices = _read_groups(artifact.directory)
    if len(unpredicted):
        exams, slices = _with_prior(settings, unpredicted, exams, slices)
    write_submission(out, exams, slices, layout)
    require_valid(out, layout)
    _report(out, layout, slices)


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Keep other runs off the groups and the store; the system releases the lock however this process ends.

    The lock file is in the log folder, because --force empties the directory itself.
    """
    with locked(paths.logs() / ".predicting", wait=False) as is_mine:
        if not is_mine:
            raise UserError(
                f"another predict-contest run is active: {paths.shown(directory)}. Wait for it to end, or set PE_ROOT "
                "to a copy of the finished run."
            )
        yield


def _artifact(tree: Path, group_size: int) -> Artifact:
    return Artifact(
        paths.inference() / "predicted",
        "inference/predicted",
        version=VERSION,
        settings={"at_once": group_size, "layout": "jpeg256" if is_jpeg_tree(tree) else "dicom"},
        inputs={"ensemble": read_manifest(paths.ensemble_run())["identity"], "test.csv": sha256(tree / "test.csv")},
    )


def _predict_groups(
    settings: Settings, tree: Path, rows: pd.DataFrame, directory: Path, group_size: int, deadline: float
) -> pd.DataFrame:
    """Predict every group that is not there yet; returns the rows of the exams that the deadline excludes."""
    studies = rows[STUDY].unique()
    opened = cache(lambda: FinishedNetworks(settings))
    slowest_s = 0.0
    for first in range(0, len(studies), group_size):
        if _slices_path(directory, first).is_file():
            continue
        started = time.monotonic()
        if started + slowest_s > deadline:
            return rows[rows[STUDY].isin(studies[first:])]
        group = rows[rows[STUDY].isin(studies[first : first + group_size])]
        exams, slices = _predict_group(settings, tree, group, directory / _STORE, opened)
        write_table(_exams_path(directory, first), exams)
        write_table(_slices_path(directory, first), slices)
        seconds = time.monotonic() - started
        slowest_s = max(slowest_s, seconds)
        count = min(first + group_size, len(studies))
        say(f"predicted {count} of {len(studies)} exams ({len(group) / seconds:.0f} slices/s)")
    return rows.iloc[:0]


def _exams_path(directory: Path, first: int) -> Path:
    return directory / f"exams{first:06d}.parquet"


def _slices_path(directory: Path, first: int) -> Path:
    return directory / f"slices{first:06d}.parquet"


def _predict_group(
    settings: Settings, tree: Path, group: pd.DataFrame, store: Path, networks: Callable[[], FinishedNetworks]
) -> Tables:
    """Decoded predictions for one group; its pixels are in `store` meanwhile."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    try:
        rows = slice_rows(tree, group)
        store_exams(rows, tree, store, settings.features)
        studies = stored_studies(store)
        tables = networks().predict(store, studies).tables if studies else _no_predictions(settings)
        refused = _refused(judged(measure_store(store), training_step_mm()))
        tables = {fold: _without(networks, refused) for fold, networks in tables.items()}
        exams, slices = decode(*apply(tables, rows, measured=read_measured(store)))
        reasons = read_table(store / "slices.parquet").set_index(SOP)["quarantine"]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    quarantine = reasons.reindex(slices[SOP]).reset_index(drop=True)
    reason = pd.Series([refused.get(study, "") for study in slices[STUDY]])
    return exams, slices.assign(quarantine=quarantine.where(quarantine != "", reason).to_numpy())


def _refused(acceptance: dict[str, Acceptance]) -> dict[str, str]:
    """StudyInstanceUID -> reasons of the exams that are not assessable."""
    return {study: exam.line() for study, exam in acceptance.items() if not exam.allows_labels}


def _without(networks: dict[str, pd.DataFrame], studies: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The networks' predictions without some exams, which then get the prior."""
    return {name: table[~table[STUDY].isin(studies)] for name, table in networks.items()}


def _no_predictions(settings: Settings) -> dict[int, dict[str, pd.DataFrame]]:
    """The networks' predictions for no slice: fold -> network -> an empty table."""
    empty = pd.DataFrame({STUDY: [], SOP: [], "pe": []}).astype({STUDY: str, SOP: str, "pe": float})
    return {fold: dict.fromkeys(network_names(settings.models), empty) for fold in range(settings.input.folds)}


def _with_prior(settings: Settings, unpredicted: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame) -> Tables:
    """The tables with the prior for exams that were not predicted."""
    rows = unpredicted[[STUDY, SERIES, SOP]].assign(z_mm=0.0)
    prior_exams, prior_slices = decode(*apply(_no_predictions(settings), rows))
    return (
        pd.concat([exams, prior_exams], ignore_index=True),
        pd.concat([slices, prior_slices.assign(quarantine=TIME_LIMIT_REACHED)], ignore_index=True),
    )


def _read_groups(directory: Path) -> Tables:
    """The tables of all complete groups; a group is complete when its slices are written."""
    complete = sorted(directory.glob("slices*"))
    return (
        _concat([directory / path.name.replace("slices", "exams") for path in complete], [STUDY]),
        _concat(complete, [STUDY, SOP, "label", "quarantine"]),
    )


def _concat(tables: list[Path], columns_if_empty: list[str]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=columns_if_empty)
    return pd.concat(map(read_table, tables), ignore_index=True)


def _report(out: Path, layout: Layout, slices: pd.DataFrame) -> None:
    """Print what was written, and list the slices with the prior beside the submission."""
    unread = slices[slices["quarantine"] != ""]
    say(f"{paths.shown(out)}: valid ({len(layout.ids)} rows, {len(layout.studies)} exams, {len(layout.slices)} slices)")
    listing = out.with_name(f"{out.stem}_unread.csv")
    listing.unlink(missing_ok=True)
    if len(unread):
        write_table(listing, unread[[STUDY, SOP, "quarantine"]])
        most_frequent = unread["quarantine"].value_counts().index[0]
        say(f"{len(unread)} slices have the prior (most often: {most_frequent}): {paths.shown(listing)}")
    if trained_on_phantoms():
        say(SYNTHETIC_WARNING)
