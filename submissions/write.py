"""The product of this stage: a valid CSV for every candidate, the leaderboard's rows, and the report."""

import dataclasses
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.decode import decode
from features.store import store_table
from input.contest import SOP, STUDY
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import atomic_path, sha256
from pipeline.product import Product, identity_of, read_manifest, verify
from pipeline.settings import Settings
from submissions.check import require_valid
from submissions.intervals import resample_counts
from submissions.kaggle_csv import Layout, read_layout, write_submission
from submissions.leaderboard import (
    append,
    commit,
    cv_columns,
    leaderboard_path,
    read_leaderboard,
    run_table,
    truth_columns,
)
from submissions.model_card import hardware, write_card
from submissions.report import SYNTHETIC, write_report
from submissions.score import Score, Truth, prepared_truth, read_predictions, read_truth, score

#: The name of this stage's product.
PRODUCT = "submissions/write"
#: The file that is meant for the contest: the promoted candidate's.
SUBMISSION = "submission.csv"
#: The evidence report of the main job.
EVIDENCE = "evidence.html"
FORMAT_VERSION = 3  # 2: with evidence.html; 3: the manifest holds the run's settings


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What the ensemble offers: names in its own order, the promoted one, and where the tables lie."""

    directory: Path
    names: tuple[str, ...]
    promoted: str
    identity: str

    def predictions(self, name: str, role: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Exams and slices of one candidate; role is `oof` or `test`. Only these rows are read."""
        wanted = [("candidate", "==", name), ("role", "==", role)]
        return tuple(
            pd.read_parquet(self.directory / table, filters=wanted).drop(columns=["candidate", "role"])
            for table in ("exams.parquet", "slices.parquet")
        )


def read_candidates(directory: Path) -> Candidates:
    """The finished ensemble's candidates, its files checked against their sha256 first."""
    manifest = read_manifest(directory)
    verify(directory, ["exams.parquet", "slices.parquet"])
    names = tuple(pd.read_parquet(directory / "exams.parquet", columns=["candidate"])["candidate"].unique())
    promoted = manifest["metrics"].get("promoted")
    if promoted not in names:
        raise UserError(
            f"{paths.shown(directory)}: the manifest promotes {promoted!r}, the tables hold {', '.join(names)}; "
            "rebuild it: ./run.sh --from ensemble --force"
        )
    return Candidates(directory, names, promoted, manifest["identity"])


def truth_path(settings: Settings) -> Path:
    """Where a phantom keeps the truth of its test exams; the real contest has none."""
    return settings.data_root / "truth" / "test_truth.csv"


def known_test_truth(settings: Settings) -> Truth | None:
    """The truth of the finished run's test exams; None where there is none.

    Without --data, which a finished run can be read without, the settings name the drawn contest: what an earlier
    run left there speaks of other exams.
    """
    if not truth_path(settings).is_file():
        return None
    truth, exams = read_truth(truth_path(settings)), load_exams()
    return truth if set(truth.exams[STUDY]) == set(exams.loc[exams["split"] == "test", STUDY]) else None


def trained_on_phantoms() -> bool:
    """Whether the contest behind the finished run was drawn: by that run, or earlier and given as a tree."""
    return "raw" in read_manifest(paths.prepared())["inputs"]


def write_all(settings: Settings, *, force: bool = False) -> None:
    """Decode, write and check every candidate's submission, score them, and say where everything lies."""
    candidates = read_candidates(paths.ensemble_run())
    product = write_product(settings, candidates)
    if product.is_current(force=force):
        verify(product.directory)
    else:
        with product.building(fresh=force):
            rows = _build(settings, candidates, product)
            product.finish(
                rows={"candidates": len(candidates.names), **rows},
                metrics={"promoted": candidates.promoted},
                is_phantom=trained_on_phantoms(),
                hardware=hardware(),
                run_settings=settings.without_place(),
            )
    if len(_rows_of(product.identity)):
        write_card(settings)
    else:
        board = paths.shown(leaderboard_path())
        say(f"{board}: no row of this run, hence no model card; ./run.sh --from submissions --force adds both")
    _show(settings, product.identity)


def write_product(settings: Settings, candidates: Candidates) -> Product:
    """The product that `write_all` makes; its inputs are the ensemble, the tables and the test truth."""
    truth = truth_path(settings)
    return Product(
        paths.submissions(),
        PRODUCT,
        version=FORMAT_VERSION,
        settings={"submissions": dataclasses.asdict(settings.submissions), "is_phantom": trained_on_phantoms()},
        inputs={
            "ensemble": candidates.identity,
            "prepared": read_manifest(paths.prepared())["identity"],
            "test truth": sha256(truth)[:16] if truth.is_file() else "none",
        },
        files=(SUBMISSION, "report.md", "report.png", EVIDENCE, *(f"{name}.csv" for name in candidates.names)),
    )


def _build(settings: Settings, candidates: Candidates, product: Product) -> dict[str, int]:
    layout = read_layout(settings.data_root)
    for name in progress(candidates.names, what="submissions", unit="candidate"):
        write_candidate(product.directory / f"{name}.csv", *candidates.predictions(name, "test"), layout)
    with atomic_path(product.directory / SUBMISSION) as temporary:
        shutil.copyfile(product.directory / f"{candidates.promoted}.csv", temporary)
    require_valid(product.directory / SUBMISSION, layout)

    scores = _out_of_fold_scores(settings, candidates)
    tests = _test_scores(settings, candidates, product.directory)
    facts = _facts(settings, product.identity)
    rows = [
        {
            **facts,
            "candidate": name,
            "promoted": name == candidates.promoted,
            **cv_columns(*scores[name]),
            **(truth_columns(tests[name]) if tests else {}),
        }
        for name in candidates.names
    ]
    append(leaderboard_path(), rows)
    write_report(
        product.directory,
        rows=_rows_of(product.identity),
        out_of_fold={name: found for name, (found, _) in scores.items()},
        test=tests,
        quarantined=quarantined_slices(),
        is_phantom=trained_on_phantoms(),
        settings=settings.submissions,
        folds=_training_folds(),
    )
    _write_evidence(settings, candidates, product)
    return {"exams": len(layout.studies), "slices": len(layout.slices), "submission": len(layout.ids)}


def _write_evidence(settings: Settings, candidates: Candidates, product: Product) -> None:
    from submissions.evidence.report import write_run_evidence  # it reads what stands above

    say(f"evidence: {write_run_evidence(settings, candidates, product.directory / EVIDENCE, run=product.identity)}")


def _training_folds() -> np.ndarray:
    exams = load_exams()
    return exams.loc[exams["split"] == "train", "fold"].to_numpy()


def write_candidate(path: Path, exams: pd.DataFrame, slices: pd.DataFrame, layout: Layout) -> None:
    """Decode predictions, write the submission, read it again and check it.

    Raises:
        UserError: incomplete predictions, or a fault of the file that was written.
    """
    decoded_exams, decoded_slices = decode(exams, slices)
    write_submission(path, decoded_exams, decoded_slices, layout)
    require_valid(path, layout)


def _out_of_fold_scores(settings: Settings, candidates: Candidates) -> dict[str, tuple[Score, float]]:
    """Score of every candidate's decoded out-of-fold predictions, and what decoding cost."""
    truth = prepared_truth(load_exams(), load_slices())
    counts = _counts(settings, truth)
    found = {}
    for name in progress(candidates.names, what="out-of-fold scores", unit="candidate"):
        exams, slices = candidates.predictions(name, "oof")
        raw = score(truth, exams, slices)
        decoded = score(truth, *decode(exams, slices), counts=counts, seed=settings.submissions.seed)
        found[name] = decoded, decoded.total.value - raw.total.value
    return found


def _test_scores(settings: Settings, candidates: Candidates, directory: Path) -> dict[str, Score]:
    """Scores of the files as written on the test truth, which nothing before this has read; empty without one."""
    path = truth_path(settings)
    if not path.is_file():
        return {}
    truth = read_truth(path)
    counts = _counts(settings, truth)
    return {
        name: score(
            truth, *read_predictions(directory / f"{name}.csv", truth), counts=counts, seed=settings.submissions.seed
        )
        for name in progress(candidates.names, what="test scores", unit="candidate")
    }


def _counts(settings: Settings, truth: Truth) -> np.ndarray:
    return resample_counts(len(truth.exams), settings.submissions.bootstrap, settings.submissions.seed)


def _facts(settings: Settings, run: str) -> dict[str, Any]:
    phantom = settings.phantom
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "run": run,
        "settings": identity_of(settings.as_dict()),
        "commit": commit(),
        "data": f"phantom {phantom.name} (seed {phantom.seed})" if settings.is_phantom else settings.data_root.name,
    }


def quarantined_slices() -> pd.DataFrame:
    """STUDY, SOP, quarantine of every slice that was unreadable, at its header or at its pixels."""
    columns = [STUDY, SOP, "quarantine"]
    tables = [load_slices()[columns]]
    stored = store_table(paths.store(), "slices", columns)
    tables += [] if stored is None else [stored]
    table = pd.concat(tables, ignore_index=True)
    return table[table["quarantine"].fillna("") != ""].drop_duplicates(SOP)


def _rows_of(run: str) -> pd.DataFrame:
    rows = read_leaderboard(leaderboard_path())
    return rows[rows["run"] == run]


def _show(settings: Settings, run: str) -> None:
    directory = paths.shown(paths.submissions())
    rows = _rows_of(run)
    if len(rows):
        say(f"\n{run_table(rows)}\n")
        say("CV: out-of-fold metric, lower is better; `*` is promoted; columns are explained in report.md")
    if trained_on_phantoms():
        say(SYNTHETIC)
    say(f"submission:  {directory}/{SUBMISSION}  (each candidate: {directory}/<candidate>.csv)")
    say(f"report:      {directory}/report.md, report.png; for a browser: {EVIDENCE}")
    say(f"model card:  {directory}/model_card.md, model_card.json")
    say(f"leaderboard: {directory}/leaderboard.csv  (all runs: ./run.sh leaderboard)")
    say(f"check it:    ./run.sh check {directory}/{SUBMISSION} --data {paths.shown(settings.data_root)}")
