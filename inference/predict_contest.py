"""The finished ensemble on a contest tree without labels: a whole submission, a few exams at a time.

    inference/results/predicted/
        exams<first>.parquet     the nine labels of a group of exams, decoded
        slices<first>.parquet    their slices, with the reason where the stated prior stands in; written last
        .store/                  pixels of the group at work; it goes when the group is done

Memory and disk hold one group of exams, however many there are. A killed run goes on after the last group that was
written whole, as long as the ensemble and test.csv are the same.
"""

import fcntl
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from ensemble.apply_ensemble import apply
from ensemble.decode import decode
from ensemble.predictions import read_measured
from features.build_store import store_exams
from features.store import stored_studies
from inference.predicted_studies import WARNING
from input.contest import SERIES, SOP, STUDY
from input.contest_tree import is_jpeg_tree, read_test_table
from input.unlabelled_exams import slice_rows
from models.apply_networks import predict_exams
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import read_table, sha256, write_table
from pipeline.settings import Settings
from submissions.check_submission import require_valid
from submissions.finished_run import require_finished, trained_on_phantoms
from submissions.kaggle_csv import Layout, read_layout, write_submission

VERSION = 1
#: Exams that are read and predicted together: opening the networks costs seconds, so they see several at once.
EXAMS_AT_ONCE = 32
#: The reason in the list of rows with a prior where the time was up.
NO_TIME = "not read: the time was up"
_STORE = ".store"
Tables = tuple[pd.DataFrame, pd.DataFrame]


def predict_contest(
    settings: Settings, data: Path, out: Path, *, hours: float = 0.0, at_once: int = EXAMS_AT_ONCE, force: bool = False
) -> None:
    """Write a full, valid submission for the test exams of a contest tree.

    A slice that cannot be read, and an exam without a readable slice, get the ensemble's stated prior.

    Args:
        settings: those of the finished run.
        data: the tree: test.csv and test/ (or test-jpegs/); neither train.csv nor labels are read.
        out: the submission.
        hours: when this time would be exceeded, the exams that are left get the prior too; 0: no limit.
        at_once: exams in a group.
        force: predict again what an earlier run has predicted, such as after files were added to the same tree.

    Raises:
        UserError: no finished run with these settings, no usable test.csv, or another such run at work.
    """
    end = time.monotonic() + hours * 3600 if hours else float("inf")
    require_finished(settings)
    layout, rows = read_layout(data), read_test_table(data)
    product = _product(data, at_once)
    left = pd.DataFrame(columns=rows.columns)
    with _alone(product.directory):
        if product.is_current(force=force):
            again = shlex.join(["./run.sh", "predict", str(data), "--submission", str(out), "--force"])
            verify(product.directory, mend=f"Predict it again, with the same settings: {again}")
        else:
            with product.building(fresh=force) as directory:
                left = _predict_groups(settings, data, rows, directory, at_once, end)
                if left.empty:
                    product.finish(rows={"exams": rows[STUDY].nunique(), "slices": len(rows)})
        exams, slices = _read_groups(product.directory)
    if len(left):
        exams, slices = _with_prior(settings, left, exams, slices)
    write_submission(out, exams, slices, layout)
    require_valid(out, layout)
    _tell(out, layout, slices)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other runs off the groups and the store; however this one ends, the system lifts the lock.

    The locked file lies with the logs, like that of run.sh: the directory itself is emptied by --force.
    """
    place = paths.logs() / ".predicting"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise UserError(
                f"{paths.shown(directory)}: another predict --submission works there; run this again when it has "
                "ended, or give this one a PE_ROOT with a copy of the finished run"
            ) from fault
        yield


def _product(data: Path, at_once: int) -> Artifact:
    inputs = {"ensemble": read_manifest(paths.ensemble_run())["identity"], "test.csv": sha256(data / "test.csv")}
    chosen = {"at_once": at_once, "layout": "jpeg256" if is_jpeg_tree(data) else "dicom"}
    folder = paths.inference() / "predicted"
    return Artifact(folder, "inference/predicted", version=VERSION, settings=chosen, inputs=inputs)


def _predict_groups(
    settings: Settings, data: Path, rows: pd.DataFrame, directory: Path, at_once: int, end: float
) -> pd.DataFrame:
    """Predict every group that is not there yet; the rows that time did not allow for."""
    studies = rows[STUDY].unique()
    longest = 0.0
    for first in range(0, len(studies), at_once):
        if _slices_path(directory, first).is_file():
            continue
        started = time.monotonic()
        if started + longest > end:
            return rows[rows[STUDY].isin(studies[first:])]
        group = rows[rows[STUDY].isin(studies[first : first + at_once])]
        exams, slices = _predict_group(settings, data, group, directory / _STORE)
        write_table(directory / f"exams{first:06d}.parquet", exams)
        write_table(_slices_path(directory, first), slices)
        seconds = time.monotonic() - started
        longest = max(longest, seconds)
        done = min(first + at_once, len(studies))
        say(f"predicted {done} of {len(studies)} exams ({len(group) / seconds:.0f} slices/s)")
    return rows.iloc[:0]


def _slices_path(directory: Path, first: int) -> Path:
    return directory / f"slices{first:06d}.parquet"


def _predict_group(settings: Settings, data: Path, group: pd.DataFrame, store: Path) -> Tables:
    """Decoded predictions of a few exams; their pixels lie in `store` meanwhile."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    try:
        slices = slice_rows(data, group)
        store_exams(slices, data, store, settings.features)
        networks = predict_exams(settings, store) if stored_studies(store) else _silent(settings)
        exams, found = decode(*apply(networks, slices, measured=read_measured(store)))
        reasons = read_table(store / "slices.parquet").set_index(SOP)["quarantine"]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    return exams, found.assign(quarantine=reasons.reindex(found[SOP]).to_numpy())


def _silent(settings: Settings) -> dict[int, dict[str, pd.DataFrame]]:
    """What the networks say of no slice at all."""
    nothing = pd.DataFrame({STUDY: [], SOP: [], "pe": []}).astype({STUDY: str, SOP: str, "pe": float})
    return {fold: dict.fromkeys(settings.models.networks, nothing) for fold in range(settings.input.folds)}


def _with_prior(settings: Settings, left: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame) -> Tables:
    unread = left[[STUDY, SERIES, SOP]].assign(z_mm=0.0)
    more_exams, more_slices = decode(*apply(_silent(settings), unread))
    return (
        pd.concat([exams, more_exams], ignore_index=True),
        pd.concat([slices, more_slices.assign(quarantine=NO_TIME)], ignore_index=True),
    )


def _read_groups(directory: Path) -> Tables:
    columns = {"exams": [STUDY], "slices": [STUDY, SOP, "label", "quarantine"]}
    tables = []
    for name, empty in columns.items():
        parts = [
            read_table(directory / path.name.replace("slices", name)) for path in sorted(directory.glob("slices*"))
        ]
        tables.append(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=empty))
    return tuple(tables)


def _tell(out: Path, layout: Layout, slices: pd.DataFrame) -> None:
    unread = slices[slices["quarantine"] != ""]
    say(f"{paths.shown(out)}: valid ({len(layout.ids)} rows, {len(layout.studies)} exams, {len(layout.slices)} slices)")
    listing = out.with_name(f"{out.stem}_unread.csv")
    listing.unlink(missing_ok=True)
    if len(unread):
        write_table(listing, unread[[STUDY, SOP, "quarantine"]])
        first = unread["quarantine"].value_counts().index[0]
        say(f"{len(unread)} slices have the stated prior (e.g. {first}): {paths.shown(listing)}")
    if trained_on_phantoms():
        say(WARNING)
