"""Time and memory of the second level at the contest's size, on drawn predictions (no images, no networks).

    python -m benchmarks.stack_scale --shares 0.0125 0.025 0.05  # is the cost linear in slices?
    python -m benchmarks.stack_scale --shares 1                  # 7,279 + 2,167 exams, 2.3 million slices
    python -m benchmarks.stack_scale --set ensemble.exam_rounds=20 --set ensemble.slice_rounds=20    # tables mostly

Exams have the contest's joint label states, shares of positive slices and slices an exam; six networks speak in five
folds. A first process draws and writes them; a second one, whose memory is told, does what `python -m ensemble fit`
and `python -m submissions write` do, with the recipe of settings/rsna.toml: join, tables, both stacks and all other
candidates in every fold and on everything, decoding, CSV, score. Steps that are part of another are indented.

Beside the seconds stand those of the processor, all threads together: on a machine that does other work too only they
can be compared. Growing trees costs about as much on a hundredth of the exams as on a twentieth, so what is linear in
slices shows best with few trees (--set).

Scores on drawn predictions are synthetic: they prove the pipeline, nothing else.
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

from ensemble import blend, exam_stack, slice_stack, stack
from ensemble import fit_ensemble as second_level
from ensemble.decode import decode, expected_cost
from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.settings import InputSettings, ModelsSettings, Settings, load_settings
from submissions.bootstrap_intervals import resample_counts
from submissions.kaggle_csv import layout_of
from submissions.score import Truth, read_predictions, score
from submissions.write_submission import write_candidate
from tests.support.simulated_predictions import simulate_contest, write_contest, write_network

TRAIN_EXAMS, TEST_EXAMS, FOLDS = 7_279, 2_167, 5
BACKBONES = ("a", "b", "c", "d", "e", "f")
#: Steps inside `fit and predict`: name -> what is watched, as (object, attribute).
WATCHED = {
    "exam tables": ((blend, "exam_table"), (exam_stack, "exam_table"), (second_level, "exam_table")),
    "slice tables": ((slice_stack, "slice_table"),),
    "plain slice models": ((blend.SliceLogistic, "fit"), (blend.SliceLogistic, "decision")),
    "exam stacks, fit": ((stack.ExamStack, "fit"),),
    "slice stacks, fit": ((stack.SliceStack, "fit"),),
    "slice stacks, predict": ((stack.SliceStack, "predict"),),
    "test exams, all folds": ((second_level, "predict_test"),),
}


class Clock:
    """Seconds of named steps, by the wall and of the processor, and the peak memory when each last ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.peak: dict[str, float] = {}

    def time(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step, add its seconds under its name, return what it returns."""
        start, processor = time.perf_counter(), time.process_time()
        value = step()
        self.processor[name] = self.processor.get(name, 0.0) + time.process_time() - processor
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.peak[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return value

    def watch(self, name: str, holder: Any, attribute: str) -> None:
        """Time every call of a function where its callers find it."""
        original = getattr(holder, attribute)

        def timed(*arguments: Any, **named: Any) -> Any:
            return self.time(f"  {name}", lambda: original(*arguments, **named))

        # A class method is looked up bound to its class, a method of an instance is not.
        is_bound = isinstance(holder, type) and hasattr(original, "__self__")
        setattr(holder, attribute, staticmethod(timed) if is_bound else timed)


def scale_settings(overrides: list[str]) -> Settings:
    """The contest's recipe for the second level on two cores, six networks, five folds."""
    recipe = load_settings("settings/rsna.toml", overrides=["ensemble.threads=2", *overrides])
    return Settings(
        input=InputSettings(folds=FOLDS), models=ModelsSettings(backbones=BACKBONES), ensemble=recipe.ensemble
    )


def draw(share: float, root: Path) -> None:
    """Write the inputs of a contest of `share` times the real size, and its test truth, below `root`."""
    train, test = int(TRAIN_EXAMS * share), int(TEST_EXAMS * share)
    contest, networks = simulate_contest(train=train, test=test, seed=0, folds=FOLDS, backbones=BACKBONES)
    write_contest(contest, root)
    for name, fold, table in networks:
        write_network(root, name, fold, table)
    contest.test_exams[[STUDY, *EXAM_LABELS]].to_parquet(root / "test_exams.parquet")
    contest.test_slices[[STUDY, SOP, SLICE_LABEL]].to_parquet(root / "test_slices.parquet")


def measure(root: Path, settings: Settings) -> None:
    """Run the second level and the submission of what lies below `root` (PE_ROOT), and tell every step."""
    clock = Clock()
    for name, places in WATCHED.items():
        for place in places:
            clock.watch(name, *place)
    inputs = clock.time("read and join", lambda: second_level.read_inputs(settings))
    trees = paths.ensemble_run() / "trees"
    # What it says of every fold and rare label is not what is asked here; its progress goes to stderr.
    with contextlib.redirect_stdout(io.StringIO()):
        tables, _ = clock.time("fit and predict", lambda: second_level.predict_all(inputs, settings, trees))
    clock.time("write tables", lambda: second_level._write_tables(paths.ensemble_run(), tables))
    promoted, _ = clock.time("promote", lambda: second_level._promoted(tables, inputs, settings))
    exams, slices = tables[promoted, "test"]
    truth = Truth(*(pd.read_parquet(root / f"test_{name}.parquet") for name in ("exams", "slices")))
    csv = root / "submission.csv"
    clock.time("decode, CSV, check", lambda: write_candidate(csv, exams, slices, layout_of(truth.slices)))
    predicted = clock.time("read the CSV", lambda: read_predictions(csv, truth))
    counts = resample_counts(len(truth.exams), settings.submissions.bootstrap, settings.submissions.seed)
    found = clock.time("score with intervals", lambda: score(truth, *predicted, counts=counts))
    price = expected_cost(exams, slices, *decode(exams, slices)) - expected_cost(exams, slices, exams, slices)
    for name, seconds in clock.seconds.items():
        processor = clock.processor[name]
        say(f"  {name:<26} {seconds:8.1f} s   processor {processor:8.1f} s   peak memory {clock.peak[name]:.2f} GB")
    total, processor = (
        sum(value for name, value in each.items() if not name.startswith(" "))
        for each in (clock.seconds, clock.processor)
    )
    slices_in_all = len(inputs.slices)
    say(
        f"  {len(inputs.exams):,} exams, {slices_in_all:,} slices: {total:.0f} s, processor {processor:.0f} s "
        f"({1e6 * processor / slices_in_all:.0f} s a million slices), {max(clock.peak.values()):.2f} GB"
    )
    say(f"  promoted {promoted}; drawn test {found.total}; expected price of consistency {price:.6f}")


def main() -> None:
    """Parse the sizes; draw and measure each in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.0125, 0.025, 0.05], help="sizes, 1 = the contest (%(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--step", choices=("all", "draw", "measure"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "draw":
        draw(arguments.shares[0], arguments.root)
    elif arguments.step == "measure":
        measure(arguments.root, scale_settings(arguments.set))
    else:
        for share in arguments.shares:
            say(f"share {share:g} of the contest, drawn predictions (synthetic)")
            with tempfile.TemporaryDirectory() as folder:
                for step in ("draw", "measure"):
                    command = [sys.executable, "-m", "benchmarks.stack_scale", "--step", step, "--shares", str(share)]
                    command += [part for each in arguments.set for part in ("--set", each)]
                    environment = {**os.environ, "PE_ROOT": folder}
                    subprocess.run([*command, "--root", folder], env=environment, check=True)


if __name__ == "__main__":
    run(main)
