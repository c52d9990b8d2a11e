"""How hard, how large and how slow the drawn contest is at every step of its difficulty.

    python -m benchmarks.phantom_table                        # about ten minutes on two quiet cores
    python -m benchmarks.phantom_table --exams 60 --drawn 4   # a quick look

One row a step, and one for the contest step at 512 pixels and thin slices (settings/contest_phantom.toml).
`exams` training and half as many test exams are planned without their pixels, which gives their labels
exactly as they would be drawn; label priors and a LightGBM that knows only how high a slice lies learn from
the former and are scored on the latter (the contest's metric, lower is better; AUC over the slices of exams
with PE). `drawn` exams are then really drawn, one process, for time and disk. Scores on drawn exams prove
the pipeline, not clinical skill.
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
from ensemble.decode import decode
from ensemble.fit_ensemble import complete
from ensemble.predictions import View
from ensemble.segments import Segments
from input.contest import SLICE_LABEL, SOP, STUDY
from input.metric import contest_score
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import draw_plan, streams
from input.phantom.labels import ExamState, label_row
from input.phantom.synthetic_contest import draw_one, plan
from pipeline.cli import run
from pipeline.console import say
from pipeline.jobs import run_jobs
from pipeline.settings import EnsembleSettings, PhantomSettings, load_settings
from submissions.leaderboard import aligned

HEADER = (
    "step", "pixels", "slices", "exams", "PE", "slices +", "priors", "z only", "ratio", "z AUC", "s an exam",
    "MB an exam",
)  # fmt: skip


def steps(exams: int, seed: int) -> dict[str, PhantomSettings]:
    """The rows of the table."""
    known = load_settings("settings/contest_phantom.toml").phantom
    default = PhantomSettings()
    rows = {name: replace(default, difficulty=name) for name in ("easy", "medium", "contest")}
    rows["contest"] = replace(rows["contest"], positive_share=known.positive_share)
    rows["contest, full size"] = known
    return {n: replace(s, seed=seed, train_exams=exams, test_exams=-(-exams // 2)) for n, s in rows.items()}


def plan_exam(settings: PhantomSettings, index: int, state: ExamState) -> tuple[np.ndarray, np.ndarray]:
    """One job: z (mm) of an exam's slices and whether they are positive, as they would be drawn."""
    difficulty = difficulty_named(settings.difficulty)
    drawn = draw_plan(
        state, difficulty, streams(settings.seed, index), rows=settings.rows, slices=settings.slices
    )  # fmt: skip
    return drawn.grid.z, drawn.truth.area >= difficulty.visible_mm2


def planned_views(settings: PhantomSettings, workers: int) -> dict[str, View]:
    """`train` and `test` as the second level sees them, without a network."""
    exams = plan(settings)
    slices = run_jobs(
        plan_exam, [(settings, index, state) for index, _, _, state in exams], what="planning", workers=workers
    )
    rows: dict[str, list] = {"train": [], "test": []}
    for (_, split, study, state), (z, positive) in zip(exams, slices, strict=True):
        rows[split].append((study, state, z, positive))
    return {split: view_of(sorted(found, key=lambda row: row[0])) for split, found in rows.items()}


def view_of(exams: list[tuple[str, ExamState, np.ndarray, np.ndarray]]) -> View:
    """A view of (StudyInstanceUID, state, z rising, positive slices), sorted by UID."""
    studies = np.array([study for study, *_ in exams])
    starts = np.concatenate([[0], np.cumsum([len(z) for _, _, z, _ in exams])])
    truth = pd.DataFrame([{**label_row(state.on), "q": positive.mean(), "fold": 0} for _, state, _, positive in exams])
    slices = int(starts[-1])
    z, positive = (np.concatenate([exam[column] for exam in exams]) for column in (2, 3))
    names, nothing = np.array([f"{i:012x}" for i in range(slices)]), pd.DataFrame(index=range(len(studies)))
    unmeasured = pd.DataFrame(index=range(slices))
    return View(
        studies, names, Segments(starts, z), {}, {}, unmeasured, nothing, truth, positive.astype(float)
    )  # fmt: skip


def baselines(train: View, test: View) -> dict[str, float]:
    """The metric of both baselines on the test exams, and the slice AUC of the second within exams with PE."""
    settings = EnsembleSettings()
    exams = test.truth.assign(**{STUDY: test.studies})
    slices = pd.DataFrame({STUDY: test.studies[test.owner], SOP: test.sops, SLICE_LABEL: test.slice_truth})
    prior, found = Prior.fit(train, settings), {}
    for name, candidate in (("priors", prior), ("z only", PositionOnly.fit(train, settings))):
        tables = complete(candidate.predict(test), test.studies, test.sops, exams, slices, prior)
        found[name] = contest_score(exams, slices, *decode(*tables)).total
        with_pe = exams["q"].to_numpy()[test.owner] > 0
        found["z AUC"] = roc_auc_score(test.slice_truth[with_pe], tables[1]["label"][with_pe])
    return found


def drawing_cost(settings: PhantomSettings, count: int) -> tuple[float, float]:
    """Seconds and MB an exam, over `count` exams drawn one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        start = time.perf_counter()
        for index, split, study, state in plan(settings)[:count]:
            draw_one(settings, tree, index, split, study, state)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
    return seconds / count, size / count / 1e6


def row_of(name: str, settings: PhantomSettings, drawn: int, workers: int) -> list[str]:
    """One row of the table."""
    views = planned_views(settings, workers)
    scores = baselines(views["train"], views["test"])
    seconds, size = drawing_cost(settings, drawn)
    positive = np.concatenate([view.slice_truth for view in views.values()]).mean()
    with_pe = np.concatenate([view.truth["q"] > 0 for view in views.values()]).mean()
    return [
        name, str(settings.rows), str(settings.slices), f"{settings.train_exams}+{settings.test_exams}",
        f"{with_pe:.1%}", f"{positive:.1%}", f"{scores['priors']:.3f}", f"{scores['z only']:.3f}",
        f"{scores['z only'] / scores['priors']:.3f}", f"{scores['z AUC']:.3f}", f"{seconds:.2f}", f"{size:.1f}",
    ]  # fmt: skip


def main() -> None:
    """Measure every step and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=400, help="training exams planned a step (%(default)s)")
    parser.add_argument("--drawn", type=int, default=10, help="exams drawn a step; three at full size (%(default)s)")
    parser.add_argument("--seed", type=int, default=2020, help="phantom.seed (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that plan exams; 0: one a core")
    arguments = parser.parse_args()
    rows = []
    for name, settings in steps(arguments.exams, arguments.seed).items():
        drawn = min(arguments.drawn, 3) if settings.rows > 400 else arguments.drawn
        rows.append(row_of(name, settings, drawn, arguments.workers))
        say(aligned(list(HEADER), rows))


if __name__ == "__main__":
    run(main)
