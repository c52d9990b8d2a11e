"""The product ensemble/runs: every candidate's predictions, the fitted second level, and the promoted name.

    exams.parquet    candidate, role (oof | test), StudyInstanceUID, nine labels, expected_q; not yet decoded
    slices.parquet   candidate, role, StudyInstanceUID, SOPInstanceUID, label; every row of the contest's CSVs
    models.json      the second level as numbers: `final` (all training exams) and `fold<k>` (without fold k)
    trees/           its LightGBM models as text, sha256 in models.json
    promotion.csv    who challenged whom, with paired intervals

Fold k is predicted by second-level models that learned from the other folds' out-of-fold rows, so their rounds,
columns and calibration saw nothing of it. The networks are not retrained inside that loop: the rows of the other
folds come from networks that did see fold k's labels. At test the final models read each fold's networks apart
and their outputs are averaged.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from ensemble.baselines import Prior
from ensemble.binary_targets import Prediction, average
from ensemble.candidates import MEAN, PRIOR, STACK, Candidate, by_simplicity, fitters, networks_read, save_all
from ensemble.exam_table import exam_table
from ensemble.predictions import View, oof_view, read_measured, read_networks, test_view
from ensemble.promotion import Step, out_of_fold_parts, promote, slices_alone
from input.contest import EXAM_LABELS, SOP, STUDY
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.artifact import MANIFEST, Artifact, identity_of, read_manifest
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import atomic_path, write_json, write_table
from pipeline.settings import Settings

FORMAT_VERSION = 1
Tables = tuple[pd.DataFrame, pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is fitted: the out-of-fold view, how a fold's test view is made, and the contest's rows."""

    out_of_fold: View
    test_view: Callable[[int], View]
    exams: pd.DataFrame
    slices: pd.DataFrame

    def rows(self, split: str) -> Tables:
        """The contest's exams and slices of one split."""
        return self.exams[self.exams["split"] == split], self.slices[self.slices["split"] == split]


def fit(settings: Settings, *, force: bool = False) -> None:
    """Fit every candidate with nested cross-validation and on all training exams; predict; promote.

    Raises:
        UserError: missing, changed or inconsistent inputs.
    """
    product = ensemble_artifact(settings)
    if product.is_current(force=force):
        return
    inputs = read_inputs(settings)
    with product.building(fresh=force) as directory:
        tables, saved = predict_all(inputs, settings, directory / "trees")
        write_json(directory / "models.json", saved)
        rows = _write_tables(directory, tables)
        promoted, steps = _promoted(tables, inputs, settings)
        write_table(directory / "promotion.csv", pd.DataFrame([dataclasses.asdict(step) for step in steps]))
        scores = {step.candidate: round(step.metric, 6) for step in steps}
        product.finish(rows=rows, metrics={"promoted": promoted, "out_of_fold": scores})
    _say(promoted, steps)


def ensemble_artifact(settings: Settings) -> Artifact:
    """The product that `fit` makes; its inputs are the tables, the store and every network's predictions."""
    runs = {
        f"{network}/fold{fold}": paths.model_run(network, fold)
        for network in settings.models.networks
        for fold in range(settings.input.folds)
    }
    missing = [paths.shown(folder) for folder in runs.values() if not (folder / MANIFEST).is_file()]
    if missing:
        raise UserError.listing("Networks that are not trained yet:", missing, "Train them: ./run.sh --from models")
    inputs = {name: _predictions_of(read_manifest(folder)) for name, folder in runs.items()}
    for name, folder in (("prepared", paths.prepared()), ("store", paths.store())):
        inputs[name] = read_manifest(folder)["identity"]
    chosen = {
        "ensemble": dataclasses.asdict(settings.ensemble),
        "networks": list(settings.models.networks),
        "folds": settings.input.folds,
    }
    return Artifact(paths.ensemble_run(), "ensemble/fit", version=FORMAT_VERSION, settings=chosen, inputs=inputs)


def _predictions_of(manifest: dict[str, Any]) -> str:
    """An identity that differs where a network of the same settings was trained again and says something else."""
    return identity_of([manifest["identity"], manifest["files"].get("slices.parquet")])


def read_inputs(settings: Settings) -> Inputs:
    """Read and join everything; files are compared with their manifests before any parser sees them.

    Raises:
        UserError: missing, damaged or inconsistent inputs.
    """
    exams, slices = load_exams(), load_slices()
    measured = read_measured(paths.store())
    names = settings.models.networks

    def test(fold: int) -> View:
        return test_view(read_networks(names, [fold], "test"), fold, slices, measured)

    networks = read_networks(names, range(settings.input.folds), "oof")
    view = oof_view(networks, exams, slices, measured)
    _require_pe_in_two_folds(view.truth)
    return Inputs(view, test, exams, slices)


def _require_pe_in_two_folds(truth: pd.DataFrame) -> None:
    """Without PE outside a fold nothing could be learned for it."""
    counts = truth[truth["q"] > 0].groupby("fold").size()
    if len(counts) < 2:
        raise UserError(
            f"{int(counts.sum())} readable training exams with PE, in {len(counts)} folds; the second level learns "
            "from those of the other folds and needs some in at least two: a contest with more exams, or fewer "
            "input.folds"
        )


def predict_all(
    inputs: Inputs, settings: Settings, trees: Path
) -> tuple[dict[tuple[str, str], Tables], dict[str, Any]]:
    """Fit and predict every candidate.

    Returns:
        (candidate, role) -> exams and slices; and what models.json holds.
    """
    fold_of = inputs.out_of_fold.truth["fold"].to_numpy()
    parts = {f"fold{fold}": fold_of != fold for fold in np.unique(fold_of)} | {"final": np.ones(len(fold_of), bool)}
    seen = seen_by(inputs.out_of_fold, settings)
    saved, held_out, final = {}, {}, {}
    for part, rows in progress(parts.items(), what="second level", unit="part"):
        slices = int(inputs.out_of_fold.segments.sizes[rows].sum())
        say(f"ensemble/fit: {part}: learning from {int(rows.sum())} exams, {slices} slices")
        final = {name: fitter(seen[name].take(rows), settings.ensemble) for name, fitter in fitters(settings).items()}
        saved[part] = save_all(final, trees / part)
        if part != "final":
            found = _predict_fold(int(part.removeprefix("fold")), final, seen, rows, inputs)
            held_out = {name: [*held_out.get(name, []), tables] for name, tables in found.items()}
    tables = {(name, "oof"): tuple(map(pd.concat, zip(*found, strict=True))) for name, found in held_out.items()}
    found = predict_test(final, map(inputs.test_view, range(settings.input.folds)), *inputs.rows("test"))
    return tables | {(name, "test"): each for name, each in found.items()}, saved


def seen_by(view: View, settings: Settings) -> dict[str, View]:
    """Candidate -> the view that it may read, with the exam table computed once for all folds."""
    reads = networks_read(settings)
    seen = {name: view.of_networks(reads[name]) if name in reads else view for name in fitters(settings)}
    for name in reads:
        exam_table(seen[name])
    return seen


def _predict_fold(
    fold: int, fitted: dict[str, Candidate], seen: dict[str, View], rows: np.ndarray, inputs: Inputs
) -> dict[str, Tables]:
    """Every candidate's rows of the held-out fold."""
    exams, slices = inputs.rows("train")
    exams = exams[exams["fold"] == fold]
    slices = slices[slices[STUDY].isin(exams[STUDY])]
    found = {}
    for name, candidate in fitted.items():
        rest = seen[name].take(~rows)
        found[name] = complete(candidate.predict(rest), rest.studies, rest.sops, exams, slices, fitted[PRIOR])
    return found


def predict_test(
    candidates: dict[str, Candidate], views: Iterable[View], exams: pd.DataFrame, slices: pd.DataFrame
) -> dict[str, Tables]:
    """Run candidates on each fold's networks and average the outputs of each; one view is held at a time.

    Args:
        candidates: name -> fitted candidate, the prior among them: it stands in where no network saw a row.
        views: the same slices as each fold's networks see them.
        exams: StudyInstanceUID of every exam.
        slices: StudyInstanceUID and SOPInstanceUID of every slice.
    """
    predictions: dict[str, list[Prediction]] = {name: [] for name in candidates}
    keys = []
    for view in views:
        keys.append((view.studies, view.sops))
        if not np.array_equal(keys[0][1], view.sops):
            raise UserError("The folds' networks predict different test slices; rebuild them: ./run.sh --from models")
        for name, candidate in candidates.items():
            predictions[name].append(candidate.predict(view) if len(view.sops) else candidates[PRIOR].constant(0, 0))
    return {
        name: complete(average(found), *keys[0], exams, slices, candidates[PRIOR])
        for name, found in predictions.items()
    }


def complete(
    prediction: Prediction,
    studies: np.ndarray,
    sops: np.ndarray,
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    prior: Prior,
) -> Tables:
    """One row for every exam and slice that is asked for; where no network saw anything, the prior.

    Args:
        prediction: of `studies` and `sops`.
        studies: (e,) exams predicted.
        sops: (n,) slices predicted.
        exams: StudyInstanceUID of every exam.
        slices: StudyInstanceUID and SOPInstanceUID of every slice.
        prior: stands in.

    Raises:
        UserError: a prediction that is no number.
    """
    unseen = prior.constant(1, 1)
    found = prediction.exams(studies).set_index(STUDY)
    broken = found.index[~np.isfinite(found.to_numpy(float)).all(axis=1)]
    if len(broken):  # said here: below, NaN means that no network saw an exam
        raise UserError(
            f"ensemble: {len(broken)} exams are predicted as NaN, such as {broken[0]}; fit anew: ./run.sh --from "
            "ensemble --force"
        )
    found = found.reindex(exams[STUDY])
    stand_in = unseen.exams(np.array([""])).drop(columns=STUDY).iloc[0]
    rows = pd.Index(sops).get_indexer(slices[SOP])  # -1 where unseen: the last entry
    label = np.append(prediction.slices, unseen.slices)[rows]
    return found.fillna(stand_in).reset_index(), slices[[STUDY, SOP]].reset_index(drop=True).assign(label=label)


def _write_tables(directory: Path, tables: dict[tuple[str, str], Tables]) -> dict[str, int]:
    """Write both tables, one candidate and role a row group: readers filter, and memory holds one copy."""
    rows = {"exams": 0, "slices": 0}
    for number, name in enumerate(rows):
        with atomic_path(directory / f"{name}.parquet") as temporary:
            writer = None
            for (candidate, role), found in tables.items():
                table = _checked(found[number], SOP if name == "slices" else STUDY, f"{candidate}, {role}, {name}")
                named = pd.DataFrame({"candidate": candidate, "role": role}, index=table.index)
                group = pyarrow.Table.from_pandas(pd.concat([named, table], axis=1), preserve_index=False)
                writer = writer or parquet.ParquetWriter(temporary, group.schema)
                writer.write_table(group)
                rows[name] += len(table)
            writer.close()
    return rows


def _checked(table: pd.DataFrame, key: str, what: str) -> pd.DataFrame:
    """The table, if its keys are unique and its probabilities are in [0, 1]."""
    values = table[[label for label in (*EXAM_LABELS, "label") if label in table]].to_numpy()
    if table[key].duplicated().any() or not ((values >= 0) & (values <= 1)).all():
        raise UserError(f"ensemble/fit: {what}: repeated keys, or values that are NaN or outside [0, 1]")
    return table


def _promoted(tables: dict[tuple[str, str], Tables], inputs: Inputs, settings: Settings) -> tuple[str, list[Step]]:
    out_of_fold = {name: found for (name, role), found in tables.items() if role == "oof"}
    ordered = {name: out_of_fold[name] for name in by_simplicity(out_of_fold)}
    parts = out_of_fold_parts(ordered, *inputs.rows("train"))
    if {STACK, MEAN} <= set(parts):
        found = slices_alone(parts, STACK, MEAN, settings.ensemble.bootstrap, settings.ensemble.seed)
        say(
            f"ensemble/fit: slices alone: LightGBM {found.metric:.4f}, {found.difference:+.4f} against the smoothed "
            f"mean (95 % {found.low:+.4f} to {found.high:+.4f})"
        )
    return promote(parts, settings.ensemble.bootstrap, settings.ensemble.seed)


def _say(promoted: str, steps: list[Step]) -> None:
    for step in steps:
        say(
            f"ensemble/fit: {step.candidate}: out-of-fold metric {step.metric:.4f}, {step.difference:+.4f} against "
            f"{step.against} (95 % {step.low:+.4f} to {step.high:+.4f})"
        )
    say(f"ensemble/fit: promoted: {promoted}")
