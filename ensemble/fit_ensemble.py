"""The artifact ensemble/fit: every candidate's predictions, the fitted second level, and the promoted candidate.

    exams.parquet    candidate, role (oof | test), StudyInstanceUID, nine labels, expected_q; not yet decoded
    slices.parquet   candidate, role, StudyInstanceUID, SOPInstanceUID, label; every row of the contest's CSVs
    models.json      the second level as numbers: `final` (all training exams) and `fold<k>` (without fold k)
    trees/           its LightGBM models as text, sha256 in models.json
    promotion.csv    the comparisons between candidates, with paired intervals

`ensemble.cross_fitting` describes how the predictions are made.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from ensemble.candidates import MEAN, STACK, by_simplicity
from ensemble.cross_fitting import Tables, cross_fit
from ensemble.ensemble_inputs import Inputs, read_inputs
from ensemble.promotion import Comparison, compare_slices, out_of_fold_parts, promote
from input.contest import EXAM_LABELS, SOP, STUDY
from models.network_artifacts import connect_networks
from models.network_names import network_names
from pipeline import paths
from pipeline.artifact import MANIFEST, Artifact, read_manifest
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path, write_json, write_table
from pipeline.identity import identity_of
from pipeline.settings import Settings

FORMAT_VERSION = 3


def fit(settings: Settings, *, force: bool = False) -> None:
    """Fit every candidate with nested cross-validation and on all training exams, predict, and promote one.

    Args:
        settings: those of the run.
        force: rebuild an artifact that is up to date.

    Raises:
        UserError: missing, changed or inconsistent inputs.
    """
    artifact = ensemble_artifact(settings)
    if artifact.is_current(force=force):
        return
    inputs = read_inputs(settings)
    with artifact.building(fresh=force) as directory:
        tables, saved = cross_fit(inputs, settings, directory / "trees")
        write_json(directory / "models.json", saved)
        rows = write_tables(directory, tables)
        promoted, comparisons = promote_candidate(tables, inputs, settings)
        write_table(directory / "promotion.csv", pd.DataFrame([dataclasses.asdict(row) for row in comparisons]))
        scores = {row.candidate: round(row.metric, 6) for row in comparisons}
        artifact.finish(rows=rows, metrics={"promoted": promoted, "out_of_fold": scores})
    _report(promoted, comparisons)


def ensemble_artifact(settings: Settings) -> Artifact:
    """The artifact that `fit` makes; its inputs are the tables, the store and every network's predictions.

    Raises:
        UserError: networks that are not trained yet.
    """
    runs = _network_folders(settings)
    missing = _missing_networks(settings)
    if missing:
        raise UserError.listing("Networks that are not trained yet:", missing, "Train them: ./run.sh --from models")
    inputs = {name: _predictions_identity(read_manifest(folder)) for name, folder in runs.items()}
    for name, folder in (("prepared", paths.prepared()), ("store", paths.store())):
        inputs[name] = read_manifest(folder)["identity"]
    relevant_settings = {
        "ensemble": dataclasses.asdict(settings.ensemble),
        "networks": list(network_names(settings.models)),
        "folds": settings.input.folds,
    }
    return Artifact(
        paths.ensemble_run(),
        "ensemble/fit",
        version=FORMAT_VERSION,
        settings=relevant_settings,
        inputs=inputs,
        shared=True,
    )


def connect_ensemble(settings: Settings) -> None:
    """Link a finished ensemble of these settings, and its inputs, into an experiment that has none yet."""
    connect_networks(settings)
    if not paths.ensemble_run().exists() and not _missing_networks(settings):
        ensemble_artifact(settings).connect_if_finished()


def _network_folders(settings: Settings) -> dict[str, Path]:
    """`<network>/fold<k>` -> the folder of every network."""
    return {
        f"{network}/fold{fold}": paths.model_run(network, fold)
        for network in network_names(settings.models)
        for fold in range(settings.input.folds)
    }


def _missing_networks(settings: Settings) -> list[str]:
    folders = _network_folders(settings).values()
    return [paths.shown(folder) for folder in folders if not (folder / MANIFEST).is_file()]


def _predictions_identity(manifest: dict[str, Any]) -> str:
    """An identity that also changes when a network with the same settings was retrained with another result."""
    return identity_of([manifest["identity"], manifest["files"].get("slices.parquet")])


def write_tables(directory: Path, tables: dict[tuple[str, str], Tables]) -> dict[str, int]:
    """Write exams.parquet and slices.parquet, one row group per candidate and role.

    Row groups let readers filter, and only one copy of the predictions is in memory.

    Args:
        directory: the artifact's folder.
        tables: (candidate, role) -> exams and slices.

    Returns:
        table -> number of rows.

    Raises:
        UserError: repeated keys, or values that are NaN or outside [0, 1].
    """
    return {
        name: _write_row_groups(directory / f"{name}.parquet", {key: pair[number] for key, pair in tables.items()})
        for number, name in enumerate(("exams", "slices"))
    }


def _write_row_groups(path: Path, tables: dict[tuple[str, str], pd.DataFrame]) -> int:
    """Write one table of `write_tables`; return its number of rows."""
    with atomic_path(path) as temporary:
        writer: parquet.ParquetWriter | None = None
        for (candidate, role), table in tables.items():
            _check_predictions(table, SOP if path.stem == "slices" else STUDY, f"{candidate}, {role}, {path.stem}")
            keys = pd.DataFrame({"candidate": candidate, "role": role}, index=table.index)
            group = pyarrow.Table.from_pandas(pd.concat([keys, table], axis=1), preserve_index=False)
            writer = writer or parquet.ParquetWriter(temporary, group.schema)
            writer.write_table(group)
        if writer is not None:
            writer.close()
    return sum(map(len, tables.values()))


def _check_predictions(table: pd.DataFrame, key: str, source: str) -> None:
    """Raise a UserError unless keys are unique and probabilities in [0, 1]."""
    values = table[[label for label in (*EXAM_LABELS, "label") if label in table]].to_numpy()
    if table[key].duplicated().any() or not ((values >= 0) & (values <= 1)).all():
        raise UserError(
            f"Invalid predictions: {source}. Expected unique keys and values in [0, 1]. Fit the ensemble again: "
            "./run.sh --from ensemble --force"
        )


def promote_candidate(
    tables: dict[tuple[str, str], Tables], inputs: Inputs, settings: Settings
) -> tuple[str, list[Comparison]]:
    """Compare the candidates' out-of-fold predictions.

    Args:
        tables: (candidate, role) -> exams and slices.
        inputs: the training exams with their labels.
        settings: resamples and seed.

    Returns:
        The promoted candidate's name, and every comparison.
    """
    out_of_fold = {name: predictions for (name, role), predictions in tables.items() if role == "oof"}
    ordered = {name: out_of_fold[name] for name in by_simplicity(out_of_fold)}
    parts = out_of_fold_parts(ordered, *inputs.rows("train"))
    if {STACK, MEAN} <= set(parts):
        slices = compare_slices(parts, STACK, MEAN, settings.ensemble.bootstrap, settings.ensemble.seed)
        say(
            f"ensemble/fit: slices alone: LightGBM {slices.metric:.4f}, {slices.difference:+.4f} against the smoothed "
            f"mean (95 % {slices.low:+.4f} to {slices.high:+.4f})"
        )
    return promote(parts, settings.ensemble.bootstrap, settings.ensemble.seed)


def _report(promoted: str, comparisons: list[Comparison]) -> None:
    for row in comparisons:
        say(
            f"ensemble/fit: {row.candidate}: out-of-fold metric {row.metric:.4f}, {row.difference:+.4f} against "
            f"{row.against} (95 % {row.low:+.4f} to {row.high:+.4f})"
        )
    say(f"ensemble/fit: promoted: {promoted}")
