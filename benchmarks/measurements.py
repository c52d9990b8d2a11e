"""Accuracy of the heart and vessel measurements against the ground truth of synthetic exams, by difficulty.

    ./run.sh bench measurements
    ./run.sh bench measurements --exams 100 --difficulty contest --rows 512 --slices 240

Generates exams with the label shares of a synthetic contest, stores them as ./run.sh features build does, measures them
(`features.heart_and_vessels`) and compares with the generated anatomy. For each difficulty: the share of exams in which
the anatomy was found, the median and the 90th percentile of the absolute error, the median error (bias) and the rank
correlation; for the RV/LV ratio also its AUC for "RV/LV ratio >= 1" and the error by confidence. Exams with poor
contrast (qa_contrast) are listed separately: a radiologist would not measure them. Last, the duration of a measurement.

The synthetic trunk and aorta are tubes; their ground truth is the tube's width where they run side by side.
Synthetic data.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.heart_and_vessels import measure_anatomy
from features.ingest import store_planes
from features.slice_measurements import measure_slices
from features.store import open_exam
from input.contest import QA_CONTRAST
from input.phantom.difficulty import DIFFICULTIES, difficulty_named
from input.phantom.exam_generator import generate_exam
from input.phantom.labels import ExamState
from input.phantom.synthetic_contest import plan_contest
from pipeline.cli import run
from pipeline.console import say
from pipeline.jobs import run_jobs
from pipeline.settings import FeaturesSettings, PhantomSettings
from submissions.bootstrap_intervals import RankedScores
from submissions.text_table import text_table

#: Of the reference patient (`input.phantom.mediastinum`), mm; a patient's vessels are scaled by `Patient.vessel`.
REFERENCE_AORTA_MM = 31.6
#: Measurement -> decimals shown.
DECIMALS = {
    "rv_lv_ratio_measured": 3, "rv_mm": 1, "lv_mm": 1, "pulmonary_trunk_mm": 1, "ascending_aorta_mm": 1,
    "trunk_aorta_ratio": 3, "pulmonary_artery_hu": 0, "left_atrium_hu": 0, "aorta_hu": 0,
}  # fmt: skip
CONFIDENT = 0.8


def measured_exam(settings: PhantomSettings, spacing_mm: float, index: int, state: ExamState) -> dict[str, Any]:
    """Generate, store and measure one exam.

    Args:
        settings: of the synthetic contest.
        spacing_mm: in-plane spacing of the store.
        index: number of the exam.
        state: its labels.

    Returns:
        The measurements, and `true <name>` for each one in DECIMALS.
    """
    exam = generate_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=index, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="measurements-") as folder:
        store_planes(
            Path(folder), FeaturesSettings(spacing_mm=spacing_mm), study="exam", series="series", hu=exam.hu,
            z_mm=exam.grid.z, spacing_mm=(exam.grid.pixel, exam.grid.pixel),
            sop_uids=tuple(f"image{plane}" for plane in range(len(exam.hu))), quarantine={},
        )  # fmt: skip
        stored = open_exam(Path(folder), "exam")
        hu = stored.hu[:]
    slices = measure_slices(stored, hu)
    started = time.process_time()
    measured = measure_anatomy(stored, slices, hu)
    seconds = time.process_time() - started
    trunk, aorta = exam.trunk_mm, REFERENCE_AORTA_MM * exam.patient.vessel
    truth = {
        "rv_lv_ratio_measured": exam.heart.ratio, "rv_mm": exam.heart.rv_mm, "lv_mm": exam.heart.lv_mm,
        "pulmonary_trunk_mm": trunk, "ascending_aorta_mm": aorta, "trunk_aorta_ratio": trunk / aorta,
        "pulmonary_artery_hu": exam.contrast.artery, "left_atrium_hu": exam.contrast.left_heart,
        "aorta_hu": exam.contrast.aorta,
    }  # fmt: skip
    return {
        "difficulty": settings.difficulty, "poor": QA_CONTRAST in state.labels, "seconds": seconds, **measured,
        **{f"true {name}": value for name, value in truth.items()},
    }  # fmt: skip


def error_rows(table: pd.DataFrame) -> list[list[str]]:
    """Rows of text: difficulty, name, exams, found, median and 90th percentile of |error|, bias, rank correlation."""
    rows = []
    for (difficulty, poor), exams in table.groupby(["difficulty", "poor"], sort=False):
        for name, decimals in DECIMALS.items():
            error = exams[name] - exams[f"true {name}"]
            rank = exams[[name, f"true {name}"]].corr("spearman").iloc[0, 1] if error.notna().sum() > 2 else np.nan
            statistics = [error.abs().median(), error.abs().quantile(0.9), error.median()]
            cells = [f"{value:.{decimals}f}" for value in statistics]
            group = f"{difficulty}, poor contrast" if poor else difficulty
            rows.append([group, name, str(len(exams)), f"{error.notna().mean():.0%}", *cells, f"{rank:.2f}"])
    return rows


def ratio_rows(table: pd.DataFrame) -> list[list[str]]:
    """Rows of text: difficulty, AUC of the ratio for "RV/LV ratio >= 1", errors of confident and other exams."""
    rows = []
    for difficulty, exams in table[~table["poor"]].groupby("difficulty", sort=False):
        exams = exams[exams["rv_lv_ratio_measured"].notna()]
        strained = (exams["true rv_lv_ratio_measured"] >= 1).to_numpy(float)
        auc = RankedScores(exams["rv_lv_ratio_measured"].to_numpy(), strained, np.arange(len(exams))).auc()
        error = (exams["rv_lv_ratio_measured"] - exams["true rv_lv_ratio_measured"]).abs()
        confident = exams["rv_lv_confidence"] >= CONFIDENT
        parts = [
            f"{part.median():.3f} of {len(part)}" if len(part) else "-"
            for part in (error[confident], error[~confident])
        ]
        rows.append([difficulty, f"{auc:.3f}", *parts])
    return rows


def main() -> None:
    """Generate and measure the exams, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench measurements", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exams", type=int, default=48, help="exams per difficulty (%(default)s)")
    parser.add_argument("--difficulty", nargs="+", choices=list(DIFFICULTIES), default=list(DIFFICULTIES), help="(all)")
    parser.add_argument("--seed", type=int, default=77, help="seed of the exams (%(default)s)")
    parser.add_argument("--rows", type=int, default=PhantomSettings().rows, help="pixels per side (%(default)s)")
    parser.add_argument("--slices", type=int, default=PhantomSettings().slices, help="mean slices (%(default)s)")
    parser.add_argument(
        "--spacing-mm", type=float, default=FeaturesSettings().spacing_mm, help="of the store (%(default)s)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the measurements of every exam")
    arguments = parser.parse_args()
    jobs = []
    for difficulty in arguments.difficulty:
        settings = PhantomSettings(
            seed=arguments.seed, train_exams=arguments.exams, test_exams=1, difficulty=difficulty,
            rows=arguments.rows, slices=arguments.slices,
        )  # fmt: skip
        jobs += [(settings, arguments.spacing_mm, index, state) for index, _, _, state in plan_contest(settings)[:-1]]
    table = pd.DataFrame(run_jobs(measured_exam, jobs, desc="measuring synthetic exams"))
    header = ["difficulty", "measurement", "exams", "found", "median |error|", "90 %", "bias", "rank correlation"]
    say(text_table(header, error_rows(table), left=2))
    say("")
    header = ["difficulty", "AUC of RV/LV >= 1", f"|error|, confidence >= {CONFIDENT}", "|error|, others"]
    say(text_table(header, ratio_rows(table)))
    say(f"\n{table['seconds'].median() * 1000:.0f} ms of CPU time per exam (median); synthetic exams")
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    run(main)
