"""Difficulty, size and generation time of the synthetic contest at every difficulty level.

    ./run.sh bench phantom_table                           about ten minutes on two idle cores
    ./run.sh bench phantom_table --exams 60 --generated 4  a quick estimate

One row per level, and one for the contest level at 512 pixels and thin slices (settings/contest_phantom.toml).
`--exams` training exams and half as many test exams are planned without their pixels, which gives exactly the labels
that they would have when generated. Label priors and a LightGBM that uses only the z position of a slice are trained on
the former and scored on the latter (the contest's metric, lower is better; AUC over the slices of exams with PE).
`--generated` exams are then generated completely, in one process, to measure time and disk space. Scores on synthetic
exams prove the pipeline, not clinical skill.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ensemble.baselines import PositionOnly, Prior
from ensemble.cross_fitting import complete
from ensemble.decode import decode
from ensemble.segments import Segments
from ensemble.view import View
from input.contest import SLICE_LABEL, SOP, STUDY
from input.metric import contest_score
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam_plan, streams
from input.phantom.labels import ExamState, label_row
from input.phantom.synthetic_contest import plan_contest, write_synthetic_exam
from pipeline.cli import run
from pipeline.console import say
from pipeline.jobs import run_jobs
from pipeline.load_settings import load_settings
from pipeline.settings import EnsembleSettings, PhantomSettings
from submissions.text_table import text_table

HEADER = (
    "level", "pixels", "slices", "exams", "PE", "slices +", "priors", "z only", "ratio", "z AUC", "s per exam",
    "MB per exam",
)  # fmt: skip


def levels(exams: int, seed: int) -> dict[str, PhantomSettings]:
    """The rows of the table: name -> settings."""
    full_size = load_settings("settings/contest_phantom.toml").phantom
    default = PhantomSettings()
    rows = {name: replace(default, difficulty=name) for name in ("easy", "medium", "contest")}
    rows["contest"] = replace(rows["contest"], positive_share=full_size.positive_share)
    rows["contest, full size"] = full_size
    return {
        name: replace(settings, seed=seed, train_exams=exams, test_exams=-(-exams // 2))
        for name, settings in rows.items()
    }


def plan_exam(settings: PhantomSettings, index: int, state: ExamState) -> tuple[np.ndarray, np.ndarray]:
    """Plan one exam (a job): z (mm) of its slices, and whether they are positive."""
    difficulty = difficulty_named(settings.difficulty)
    planned = generate_exam_plan(
        state, difficulty, streams(settings.seed, index), rows=settings.rows, slices=settings.slices
    )  # fmt: skip
    return planned.grid.z, planned.truth.area >= difficulty.visible_mm2


def planned_views(settings: PhantomSettings, workers: int) -> dict[str, View]:
    """The views `train` and `test` of the ensemble, without networks."""
    exams = plan_contest(settings)
    slices = run_jobs(
        plan_exam, [(settings, index, state) for index, _, _, state in exams], desc="planning", workers=workers
    )
    rows: dict[str, list] = {"train": [], "test": []}
    for (_, split, study, state), (z, positive) in zip(exams, slices, strict=True):
        rows[split].append((study, state, z, positive))
    return {split: view_of(sorted(split_rows, key=lambda row: row[0])) for split, split_rows in rows.items()}


def view_of(exams: list[tuple[str, ExamState, np.ndarray, np.ndarray]]) -> View:
    """Build the view of exams given as (StudyInstanceUID, state, ascending z, positive slices), sorted by UID."""
    studies = np.array([study for study, *_ in exams])
    starts = np.concatenate([[0], np.cumsum([len(z) for _, _, z, _ in exams])])
    truth = pd.DataFrame(
        [{**label_row(state.labels), "q": positive.mean(), "fold": 0} for _, state, _, positive in exams]
    )
    slices = int(starts[-1])
    z, positive = (np.concatenate([exam[column] for exam in exams]) for column in (2, 3))
    sops = np.array([f"{number:012x}" for number in range(slices)])
    no_exam_numbers, no_slice_numbers = pd.DataFrame(index=range(len(studies))), pd.DataFrame(index=range(slices))
    return View(
        studies, sops, Segments(starts, z), logits={}, heads={}, clot={}, slice_numbers=no_slice_numbers,
        exam_numbers=no_exam_numbers, truth=truth, slice_truth=positive.astype(float),
    )  # fmt: skip


def baselines(train: View, test: View) -> dict[str, float]:
    """Score both baselines on the test exams: `priors`, `z only`, and `z AUC` over the slices of exams with PE."""
    settings = EnsembleSettings()
    truth, slice_truth = test.require_truth()
    exams = truth.assign(**{STUDY: test.studies})
    slices = pd.DataFrame({STUDY: test.studies[test.owner], SOP: test.sops, SLICE_LABEL: slice_truth})
    prior, scores = Prior.fit(train, settings), {}
    for name, candidate in (("priors", prior), ("z only", PositionOnly.fit(train, settings))):
        tables = complete(candidate.predict(test), test.studies, test.sops, exams, slices, prior)
        scores[name] = contest_score(exams, slices, *decode(*tables)).total
        with_pe = exams["q"].to_numpy()[test.owner] > 0
        scores["z AUC"] = roc_auc_score(slice_truth[with_pe], tables[1]["label"][with_pe])
    return scores


def generation_cost(settings: PhantomSettings, count: int) -> tuple[float, float]:
    """Seconds and MB per exam, over `count` exams generated one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        start = time.perf_counter()
        for index, split, study, state in plan_contest(settings)[:count]:
            write_synthetic_exam(settings, tree, index, split, study, state)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
    return seconds / count, size / count / 1e6


def row_of(name: str, settings: PhantomSettings, generated: int, workers: int) -> list[str]:
    """Compute one row of the table.

    Args:
        name: of the level.
        settings: of the synthetic contest.
        generated: exams that are generated completely.
        workers: processes that plan exams; 0 means one per core.
    """
    views = planned_views(settings, workers)
    scores = baselines(views["train"], views["test"])
    seconds, size = generation_cost(settings, generated)
    truths = [view.require_truth() for view in views.values()]
    positive = np.concatenate([slice_truth for _, slice_truth in truths]).mean()
    with_pe = np.concatenate([truth["q"] > 0 for truth, _ in truths]).mean()
    return [
        name, str(settings.rows), str(settings.slices), f"{settings.train_exams}+{settings.test_exams}",
        f"{with_pe:.1%}", f"{positive:.1%}", f"{scores['priors']:.3f}", f"{scores['z only']:.3f}",
        f"{scores['z only'] / scores['priors']:.3f}", f"{scores['z AUC']:.3f}", f"{seconds:.2f}", f"{size:.1f}",
    ]  # fmt: skip


def main() -> None:
    """Measure every level and print the table."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench phantom_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exams", type=int, default=400, help="planned training exams per level (%(default)s)")
    parser.add_argument(
        "--generated", type=int, default=10, help="generated exams per level; at most 3 at full size (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2020, help="phantom.seed (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that plan exams; 0: one per core")
    arguments = parser.parse_args()
    rows = []
    for name, settings in levels(arguments.exams, arguments.seed).items():
        generated = min(arguments.generated, 3) if settings.rows > 400 else arguments.generated
        rows.append(row_of(name, settings, generated, arguments.workers))
        say(text_table(list(HEADER), rows))


if __name__ == "__main__":
    run(main)
