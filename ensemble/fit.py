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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.baselines import Prior
from ensemble.candidates import PRIOR, Candidate, by_simplicity, fitters, save_all
from ensemble.predictions import View, oof_view, read_measured, read_networks, test_view
from ensemble.promote import Step, out_of_fold_parts, promote
from ensemble.questions import Prediction, average
from input.contest import EXAM_LABELS, SOP, STUDY
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import write_json, write_table
from pipeline.product import MANIFEST, Product, read_manifest, verify
from pipeline.settings import Settings

FORMAT_VERSION = 1
Tables = tuple[pd.DataFrame, pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is fitted: the out-of-fold view, a test view a fold, and the contest's rows."""

    out_of_fold: View
    tests: list[View]
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
    product = fit_product(settings)
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


def fit_product(settings: Settings) -> Product:
    """The product that `fit` makes; its inputs are the tables, the store and every network's run."""
    runs = {
        f"{backbone}/fold{fold}": paths.model_run(backbone, fold)
        for backbone in settings.models.backbones
        for fold in range(settings.input.folds)
    }
    missing = [paths.shown(folder) for folder in runs.values() if not (folder / MANIFEST).is_file()]
    if missing:
        raise UserError.listing("Networks that are not trained yet:", missing, "Train them: ./run.sh --from models")
    inputs = {name: read_manifest(folder)["identity"] for name, folder in runs.items()}
    for name, folder in (("prepared", paths.prepared()), ("store", paths.store())):
        inputs[name] = read_manifest(folder)["identity"]
    chosen = {
        "ensemble": dataclasses.asdict(settings.ensemble),
        "backbones": list(settings.models.backbones),
        "folds": settings.input.folds,
    }
    return Product(paths.ensemble_run(), "ensemble/fit", version=FORMAT_VERSION, settings=chosen, inputs=inputs)


def read_inputs(settings: Settings) -> Inputs:
    """Read and join everything; files are compared with their manifests before any parser sees them."""
    for backbone in settings.models.backbones:
        for fold in range(settings.input.folds):
            verify(paths.model_run(backbone, fold), ["slices.parquet"])
    exams, slices = load_exams(), load_slices()
    networks = read_networks(settings.models.backbones, settings.input.folds)
    measured = read_measured(paths.store())
    return Inputs(
        oof_view(networks, exams, slices, measured),
        [test_view(networks, fold, slices, measured) for fold in range(settings.input.folds)],
        exams,
        slices,
    )


def predict_all(
    inputs: Inputs, settings: Settings, trees: Path
) -> tuple[dict[tuple[str, str], Tables], dict[str, Any]]:
    """Fit and predict every candidate.

    Returns:
        (candidate, role) -> exams and slices; and what models.json holds.
    """
    chosen = fitters(settings.models.backbones)
    fold_of = inputs.out_of_fold.truth["fold"].to_numpy()
    parts = {f"fold{fold}": fold_of != fold for fold in np.unique(fold_of)} | {"final": np.ones(len(fold_of), bool)}
    saved, held_out, final = {}, {name: [] for name in chosen}, {}
    for part, rows in progress(parts.items(), what="second level", unit="part"):
        training = inputs.out_of_fold.take(rows)
        say(f"ensemble/fit: {part}: learning from {len(training.studies)} exams, {len(training.sops)} slices")
        fitted = {name: fitter(training, settings.ensemble) for name, fitter in chosen.items()}
        saved[part] = save_all(fitted, trees / part)
        if part == "final":
            final = fitted
            continue
        rest = inputs.out_of_fold.take(~rows)
        exams, slices = inputs.rows("train")
        ours = exams[STUDY].isin(exams.loc[exams["fold"] == int(part.removeprefix("fold")), STUDY])
        theirs = slices[STUDY].isin(exams.loc[ours, STUDY])
        for name, candidate in fitted.items():
            prediction = candidate.predict(rest)
            held_out[name].append(complete(prediction, rest, exams[ours], slices[theirs], fitted[PRIOR]))
    tables = {(name, "oof"): tuple(map(pd.concat, zip(*found, strict=True))) for name, found in held_out.items()}
    for name, candidate in final.items():
        tables[name, "test"] = predict_test(candidate, inputs.tests, *inputs.rows("test"), final[PRIOR])
    return tables, saved


def predict_test(
    candidate: Candidate, views: list[View], exams: pd.DataFrame, slices: pd.DataFrame, prior: Prior
) -> Tables:
    """Run a candidate on each fold's networks and average its outputs; rows that no network saw get the prior."""
    prediction = average([candidate.predict(view) for view in views])
    return complete(prediction, views[0], exams, slices, prior)


def complete(prediction: Prediction, view: View, exams: pd.DataFrame, slices: pd.DataFrame, prior: Prior) -> Tables:
    """One row for every exam and slice that is asked for; where no network saw anything, the prior.

    Args:
        prediction: of the view.
        view: what was predicted.
        exams: StudyInstanceUID of every exam.
        slices: StudyInstanceUID and SOPInstanceUID of every slice.
        prior: stands in.
    """
    unseen = prior.constant(1, 1)
    found = prediction.exams(view.studies).set_index(STUDY).reindex(exams[STUDY])
    stand_in = unseen.exams(np.array([""])).drop(columns=STUDY).iloc[0]
    rows = pd.Index(view.sops).get_indexer(slices[SOP])
    label = np.where(rows >= 0, prediction.slices[rows], unseen.slices[0])
    return (
        found.fillna(stand_in).reset_index(),
        pd.DataFrame({STUDY: slices[STUDY].to_numpy(), SOP: slices[SOP].to_numpy(), "label": label}),
    )


def _write_tables(directory: Path, tables: dict[tuple[str, str], Tables]) -> dict[str, int]:
    rows = {}
    for number, name in enumerate(("exams", "slices")):
        parts = [found[number].assign(candidate=key[0], role=key[1]) for key, found in tables.items()]
        table = pd.concat(parts, ignore_index=True)
        keys = ["candidate", "role", STUDY, *([SOP] if name == "slices" else [])]
        values = table[list(EXAM_LABELS) if name == "exams" else ["label"]].to_numpy()
        if table.duplicated(keys).any() or not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"ensemble/fit made repeated keys or values outside [0, 1] in {name}; please report this")
        write_table(directory / f"{name}.parquet", table[keys + [c for c in table.columns if c not in keys]])
        rows[name] = len(table)
    return rows


def _promoted(tables: dict[tuple[str, str], Tables], inputs: Inputs, settings: Settings) -> tuple[str, list[Step]]:
    out_of_fold = {name: found for (name, role), found in tables.items() if role == "oof"}
    ordered = {name: out_of_fold[name] for name in by_simplicity(out_of_fold)}
    parts = out_of_fold_parts(ordered, *inputs.rows("train"))
    return promote(parts, settings.ensemble.bootstrap, settings.ensemble.seed)


def _say(promoted: str, steps: list[Step]) -> None:
    for step in steps:
        say(
            f"ensemble/fit: {step.candidate}: out-of-fold metric {step.metric:.4f}, {step.difference:+.4f} against "
            f"{step.against} (95 % {step.low:+.4f} to {step.high:+.4f})"
        )
    say(f"ensemble/fit: promoted: {promoted}")
