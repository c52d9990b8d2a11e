"""Gain of every network of the recipe: alone against z alone, and the stack with it against the stack without it.

    ./run.sh bench network_gain --seeds 101 202 303 --root ~/seeds
    ./run.sh bench network_gain --seeds 101 202 303 --root ~/seeds -- --set phantom.train_exams=120

Runs the default recipe for every seed as ./run.sh bench seeds does, then the stages from the ensemble on without each
backbone in turn; the trained networks are shared (arguments after `--` are passed to run.sh). Prints both comparisons
of every network: the metric per seed, out of fold and on the test exams, and over all of these exams together with the
parts of the metric, each with the 95 % interval of a paired bootstrap over exams. A network is worth its time if both
intervals of the metric over all exams lie below zero. Synthetic data.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.seeds import BOOTSTRAP_SEED, RESAMPLES, add_run_arguments, run_seed
from ensemble.candidates import STACK, Z_ONLY
from inference.comparison import Finished, read_finished
from input.metric import contributions
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import recorded_settings
from submissions.bootstrap_intervals import paired_difference, resample_counts
from submissions.text_table import text_table

#: Part of the metric -> the columns of `input.metric.contributions` that it sums.
PARTS = {"metric": ("exam", "image"), "exam part": ("exam",), "image part": ("image",)}
#: The contributions of the same exams from both sides of a comparison.
Pair = tuple[pd.DataFrame, pd.DataFrame]


def pairs_of(first: Finished, second: Finished) -> dict[str, Pair]:
    """Compute the contributions to the metric: "out of fold" and "test" -> those of both experiments."""
    return {
        role: tuple(contributions(truth.exams, truth.slices, *one.predictions[role]) for one in (first, second))
        for role, truth in first.truth.items()
    }


def row(name: str, pairs: Sequence[Pair], part: str = "metric") -> list[str]:
    """Compare a part of the metric over the exams of all pairs.

    Returns:
        Name, the part of the first and of the second side, and the difference with its interval.
    """
    first, second = (np.concatenate([_sum(pair[side], part, "loss") for pair in pairs]) for side in (0, 1))
    weight = np.concatenate([_sum(pair[0], part, "weight") for pair in pairs])
    gap = paired_difference(second, first, weight, resample_counts(len(weight), RESAMPLES, BOOTSTRAP_SEED))
    values = [f"{loss.sum() / weight.sum():.4f}" for loss in (first, second)]
    return [name, *values, f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"]


def _sum(table: pd.DataFrame, part: str, kind: str) -> np.ndarray:
    return sum(table[f"{name}_{kind}"].to_numpy() for name in PARTS[part])


def comparison(titles: tuple[str, str], by_seed: dict[int, dict[str, Pair]]) -> str:
    """Format one comparison.

    Args:
        titles: Of both sides.
        by_seed: Seed -> `pairs_of`.
    """
    rows = [row(f"seed {seed}, {role}", [pair]) for seed, pairs in by_seed.items() for role, pair in pairs.items()]
    pooled = [pair for pairs in by_seed.values() for pair in pairs.values()]
    count = sum(len(first) for first, _ in pooled)
    rows += [row(f"all {count} exams, {part}", pooled, part) for part in reversed(PARTS)]
    return text_table(["exams", *titles, "difference (95 %)"], rows)


def main() -> None:
    """Run what is missing, and print both comparisons of every network."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench network_gain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    arguments = parser.parse_args()
    root = arguments.root.expanduser().resolve()
    os.environ["PE_ROOT"] = str(root)
    whole = {seed: run_seed(root, seed, arguments.options).name for seed in arguments.seeds}
    backbones = recorded_settings(whole[arguments.seeds[0]]).models.backbones
    if len(backbones) < 2:
        raise UserError(f"models.backbones: expected two or more to leave one out, got {', '.join(backbones)}")
    for backbone in backbones:
        rest = ", ".join(f'"{other}"' for other in backbones if other != backbone)
        left_out = [*arguments.options, "--set", f"models.backbones=[{rest}]"]
        without = {seed: run_seed(root, seed, left_out, f"-without-{backbone}").name for seed in arguments.seeds}
        alone, stacks = {}, {}
        for seed, name in whole.items():
            alone[seed] = pairs_of(read_finished(name, Z_ONLY), read_finished(name, backbone))
            stacks[seed] = pairs_of(read_finished(without[seed], STACK), read_finished(name, STACK))
        say("\n" + comparison((Z_ONLY, backbone), alone))
        say("\n" + comparison((f"stack without {backbone}", "stack"), stacks))


if __name__ == "__main__":
    run(main)
