"""Time and memory of the ensemble stage at the size of the contest, on simulated predictions (no images, no networks).

    ./run.sh bench stack_scale --shares 0.0125 0.025 0.05  checks that the cost is linear in slices
    ./run.sh bench stack_scale --shares 1                  7,279 + 2,167 exams, 2.3 million slices
    ./run.sh bench stack_scale --set ensemble.exam_rounds=20 --set ensemble.slice_rounds=20    mostly tables

The exams have the contest's joint label states, shares of positive slices and slices per exam, with six networks in
five folds. A first process simulates and writes them. A second one, whose memory is measured, does the work of
./run.sh ensemble fit and ./run.sh submissions write with the recipe of settings/rsna.toml: join, tables, both stacks
and all other candidates in every fold and on all exams, decoding, CSV, score. Steps that are part of another step are
indented.

CPU seconds of all threads are printed next to the wall time: only they are comparable on a machine with other load.
Growing trees costs about as much on a hundredth of the exams as on a twentieth, so the cost that is linear in slices
shows best with few trees (--set).

Scores on simulated predictions are synthetic and prove only that the pipeline works.
"""

import argparse
import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.simulated_predictions import simulate_contest, write_contest, write_network
from ensemble import blend, cross_fitting, exam_stack, fit_ensemble, slice_stack, stack
from ensemble.decode import decode, expected_cost
from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.load_settings import load_settings
from pipeline.settings import InputSettings, ModelsSettings, Settings
from submissions.bootstrap_intervals import resample_counts
from submissions.kaggle_csv import layout_of
from submissions.score import Truth, read_predictions, score
from submissions.write_submission import write_candidate

TRAIN_EXAMS, TEST_EXAMS, FOLDS = 7_279, 2_167, 5
BACKBONES = ("a", "b", "c", "d", "e", "f")
#: Steps inside `fit and predict`: name -> functions that are timed, as (object, attribute).
TIMED = {
    "exam tables": ((blend, "exam_table"), (exam_stack, "exam_table"), (cross_fitting, "exam_table")),
    "slice tables": ((slice_stack, "slice_table"),),
    "slice base models": ((blend.SliceModel, "fit"), (blend.SliceModel, "decision")),
    "exam stacks, fit": ((stack.ExamStack, "fit"),),
    "slice stacks, fit": ((stack.SliceStack, "fit"),),
    "slice stacks, predict": ((stack.SliceStack, "predict"),),
    "test exams, all folds": ((cross_fitting, "predict_test"),),
}


class Clock:
    """Wall and CPU seconds of named steps, and the peak memory (GB) when each last ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.peak: dict[str, float] = {}

    def time(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step, add its seconds under its name, and return its result."""
        start, cpu = time.perf_counter(), time.process_time()
        value = step()
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.peak[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return value

    def watch(self, name: str, holder: Any, attribute: str) -> None:
        """Replace a function by a timed version.

        Args:
            name: of the step.
            holder: the module or class through which callers access the function.
            attribute: name of the function.
        """
        original = getattr(holder, attribute)

        def timed(*arguments: Any, **named: Any) -> Any:
            return self.time(f"  {name}", lambda: original(*arguments, **named))

        # A class method is bound to its class already; a method of an instance is not.
        is_bound = isinstance(holder, type) and hasattr(original, "__self__")
        setattr(holder, attribute, staticmethod(timed) if is_bound else timed)


def scale_settings(overrides: list[str]) -> Settings:
    """The ensemble recipe of the contest on two cores, with six networks and five folds."""
    recipe = load_settings("settings/rsna.toml", overrides=["ensemble.threads=2", *overrides])
    return Settings(
        input=InputSettings(folds=FOLDS), models=ModelsSettings(backbones=BACKBONES), ensemble=recipe.ensemble
    )


def write_inputs(share: float, root: Path) -> None:
    """Write the inputs of a contest of `share` times the real size, and its test ground truth, below `root`."""
    train, test = int(TRAIN_EXAMS * share), int(TEST_EXAMS * share)
    contest, networks = simulate_contest(train=train, test=test, seed=0, folds=FOLDS, backbones=BACKBONES)
    write_contest(contest, root)
    for name, fold, table in networks:
        write_network(root, name, fold, table)
    contest.test_exams[[STUDY, *EXAM_LABELS]].to_parquet(root / "test_exams.parquet")
    contest.test_slices[[STUDY, SOP, SLICE_LABEL]].to_parquet(root / "test_slices.parquet")


def measure(root: Path, settings: Settings) -> None:
    """Run the ensemble and the submission of the inputs below `root` (PE_ROOT), and print the cost of every step."""
    clock = Clock()
    for name, functions in TIMED.items():
        for holder, attribute in functions:
            clock.watch(name, holder, attribute)
    inputs = clock.time("read and join", lambda: fit_ensemble.read_inputs(settings))
    trees = paths.ensemble_run() / "trees"
    # Messages about folds and rare labels are not of interest here; progress goes to stderr.
    with contextlib.redirect_stdout(io.StringIO()):
        tables, _ = clock.time("fit and predict", lambda: cross_fitting.cross_fit(inputs, settings, trees))
    clock.time("write tables", lambda: fit_ensemble.write_tables(paths.ensemble_run(), tables))
    promoted, _ = clock.time("promote", lambda: fit_ensemble.promote_candidate(tables, inputs, settings))
    exams, slices = tables[promoted, "test"]
    truth = Truth(*(pd.read_parquet(root / f"test_{name}.parquet") for name in ("exams", "slices")))
    csv = root / "submission.csv"
    clock.time("decode, CSV, check", lambda: write_candidate(csv, exams, slices, layout_of(truth.slices)))
    predicted = clock.time("read the CSV", lambda: read_predictions(csv, truth))
    counts = resample_counts(len(truth.exams), settings.submissions.bootstrap, settings.submissions.seed)
    test_score = clock.time("score with intervals", lambda: score(truth, *predicted, counts=counts))
    decoding_cost = expected_cost(exams, slices, *decode(exams, slices)) - expected_cost(exams, slices, exams, slices)
    for name, seconds in clock.seconds.items():
        cpu = clock.cpu[name]
        say(f"  {name:<26} {seconds:8.1f} s   CPU {cpu:8.1f} s   peak memory {clock.peak[name]:.2f} GB")
    total, cpu = (
        sum(value for name, value in steps.items() if not name.startswith(" ")) for steps in (clock.seconds, clock.cpu)
    )
    n_slices = len(inputs.slices)
    say(
        f"  {len(inputs.exams):,} exams, {n_slices:,} slices: {total:.0f} s, CPU {cpu:.0f} s "
        f"({1e6 * cpu / n_slices:.0f} s per million slices), {max(clock.peak.values()):.2f} GB"
    )
    say(f"  promoted {promoted}; simulated test {test_score.total}; expected decoding cost {decoding_cost:.6f}")


def main() -> None:
    """Simulate and measure every size, each step in a separate process."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench stack_scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.0125, 0.025, 0.05], help="sizes, 1 = the contest (%(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--step", choices=("all", "simulate", "measure"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "simulate":
        write_inputs(arguments.shares[0], arguments.root)
    elif arguments.step == "measure":
        measure(arguments.root, scale_settings(arguments.set))
    else:
        for share in arguments.shares:
            say(f"share {share:g} of the contest, simulated predictions")
            with tempfile.TemporaryDirectory() as folder:
                for step in ("simulate", "measure"):
                    command = [sys.executable, "-m", "benchmarks.stack_scale", "--step", step, "--shares", str(share)]
                    command += [part for override in arguments.set for part in ("--set", override)]
                    environment = {**os.environ, "PE_ROOT": folder}
                    subprocess.run([*command, "--root", folder], env=environment, check=True)


if __name__ == "__main__":
    run(main)
