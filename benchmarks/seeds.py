"""Scores of the whole pipeline on several synthetic contests, and agreement of CV, public and private scores.

    ./run.sh bench seeds --seeds 101 202 303 --root ~/seeds
    ./run.sh bench seeds --seeds 1 2 3 4 5 6 --root ~/seeds -- --set phantom.train_exams=120

Runs `./run.sh --name seedSEED --set phantom.seed=SEED` for every seed with PE_ROOT=ROOT (arguments after `--` are
passed to run.sh; up-to-date stages are kept), then prints a table of the promoted candidates with medians over the
seeds, and draws ROOT/seeds.png. The test exams are split by their id into a public part (a third) and a private part,
as in a contest. Last, it pools the test exams of all seeds and compares the promoted candidates and the stack with the
best single network, by a paired bootstrap over exams: with the network of the best CV of each seed (which one would
have submitted instead), and with the network that is best on the test ground truth (a harder comparison). --finished
only reads finished runs. Synthetic data: the numbers prove the pipeline, not clinical skill.
"""

import argparse
import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.candidates import MEAN, PRIOR, STACK, Z_ONLY
from input.contest import SLICE_LABEL, STUDY
from input.metric import contest_score, contributions
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.cli import run
from pipeline.console import say
from submissions.bootstrap_intervals import Interval, paired_difference, resample_counts
from submissions.leaderboard import read_leaderboard
from submissions.score import Truth, read_predictions, read_truth
from submissions.text_table import text_table

PUBLIC_SHARE = 1 / 3
#: Candidates that use more than one network, or none.
NOT_SINGLE = (PRIOR, Z_ONLY, MEAN, STACK)
#: Candidates that are compared with the best single network over the pooled test exams.
PROMOTED = "promoted"
COMPARED = (PROMOTED, STACK, MEAN)
RESAMPLES, BOOTSTRAP_SEED = 2000, 31


def run_seed(root: Path, seed: int, options: list[str], variant: str = "") -> Path:
    """Run the pipeline for one seed (seconds when it is up to date); return the folder of its experiment.

    `variant` is appended to the experiment's name.
    """
    folder = experiment_folder(root, seed, variant)
    command = [str(paths.CHECKOUT / "run.sh"), "--name", folder.name, "--set", f"phantom.seed={seed}", *options]
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, env={**os.environ, "PE_ROOT": str(root)}, check=True)
    return folder


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run_seed`."""
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="phantom.seed of each contest")
    parser.add_argument("--root", type=Path, required=True, help="artifact root (PE_ROOT) of all seeds")
    parser.add_argument("options", nargs="*", help="further options of run.sh, after --")


def experiment_folder(root: Path, seed: int, variant: str = "") -> Path:
    """The folder of a seed's experiment."""
    return root / "experiments" / f"seed{seed}{variant}"


def rows_of(folder: Path, seed: int) -> pd.DataFrame:
    """Read one run's leaderboard and add the public and private score of every candidate."""
    table = read_leaderboard(folder.parent / "leaderboard.csv")
    table = table[table["run"] == read_manifest(folder)["identity"]].assign(seed=seed)
    truth = truth_of(folder)
    for part, exams in split_exams(truth).items():
        table[part] = [part_score(folder / f"{name}.csv", truth, exams) for name in table["candidate"]]
    return table


def truth_of(folder: Path) -> Truth:
    """Read the test ground truth of a run's synthetic contest."""
    return read_truth(folder / paths.LINKS / "raw" / "truth" / "test_truth.csv")


def exam_losses(folder: Path, names: Iterable[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Loss of each test exam, one column per candidate, and its weight: the metric is the ratio of their sums."""
    truth = truth_of(folder)
    losses, weight = {}, np.zeros(0)
    for name in names:
        parts = contributions(truth.exams, truth.slices, *read_predictions(folder / f"{name}.csv", truth))
        losses[name] = (parts["exam_loss"] + parts["image_loss"]).to_numpy()
        weight = (parts["exam_weight"] + parts["image_weight"]).to_numpy()
    return pd.DataFrame(losses), weight


def against_single(
    table: pd.DataFrame, losses: dict[int, tuple[pd.DataFrame, np.ndarray]]
) -> dict[tuple[str, str], Interval]:
    """Compare candidates with the best single network on the pooled test exams.

    Args:
        table: `rows_of` every seed; a candidate that is missing in one seed is not compared.
        losses: seed -> `exam_losses`.

    Returns:
        (candidate, selection of the single network: "cv" or "test") -> difference of the metric.
    """
    weight = np.concatenate([exam_weight for _, exam_weight in losses.values()])
    counts = resample_counts(len(weight), RESAMPLES, BOOTSTRAP_SEED)
    differences = {}
    for pick in ("cv", "test"):
        names_by_seed = {seed: _names(run, pick) for seed, run in table.groupby("seed", sort=False)}
        single = np.concatenate([losses[seed][0][names["single"]] for seed, names in names_by_seed.items()])
        for name in COMPARED:
            if all(name in names for names in names_by_seed.values()):
                own = np.concatenate([losses[seed][0][names[name]] for seed, names in names_by_seed.items()])
                differences[name, pick] = paired_difference(own, single, weight, counts)
    return differences


def _names(run: pd.DataFrame, pick: str) -> dict[str, str]:
    """Role -> candidate of one run: all by their names, the promoted one, and the single network best by `pick`."""
    single = run[~run["candidate"].isin(NOT_SINGLE)]
    roles = {name: name for name in run["candidate"]}
    promoted = run.loc[run["promoted"], "candidate"].iloc[0]
    return roles | {PROMOTED: promoted, "single": single.loc[single[pick].idxmin(), "candidate"]}


def format_against_single(differences: dict[tuple[str, str], Interval], exams: int) -> str:
    """Format the result of `against_single`; `exams` is the number of pooled exams."""
    selection = {"cv": "best CV", "test": "best on the test truth"}
    cells = [
        [
            name,
            selection[pick],
            f"{difference.value:+.4f}",
            f"{difference.low:+.4f} to {difference.high:+.4f}",
            "yes" if difference.high < 0 else "no",
        ]
        for (name, pick), difference in differences.items()
    ]
    title = f"metric minus that of the best single network, {exams} test exams pooled, paired bootstrap over exams"
    return (
        title + "\n" + text_table(["candidate", "single network with", "difference", "95 %", "better"], cells, left=2)
    )


def split_exams(truth: Truth) -> dict[str, np.ndarray]:
    """`public` and `private` -> StudyInstanceUIDs; an exam's part depends only on its id."""
    studies = truth.exams[STUDY].to_numpy()
    fraction = [int(hashlib.sha256(str(study).encode()).hexdigest()[:8], 16) / 2**32 for study in studies]
    public = np.array(fraction) < PUBLIC_SHARE
    return {"public": studies[public], "private": studies[~public]}


def part_score(submission: Path, truth: Truth, studies: np.ndarray) -> float:
    """Metric of a submission on the exams `studies`."""
    exams, slices = read_predictions(submission, truth)
    true_exams = truth.exams[truth.exams[STUDY].isin(studies)]
    true_slices = truth.slices[truth.slices[STUDY].isin(studies)]
    return contest_score(true_exams, true_slices[[STUDY, "SOPInstanceUID", SLICE_LABEL]], exams, slices).total


def results(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed: scores of the promoted candidate and of the baselines on the test ground truth."""
    rows = []
    for seed, of_run in table.groupby("seed", sort=False):
        by_name = of_run.set_index("candidate")
        best = by_name[by_name["promoted"]].iloc[0]
        rows.append(
            {
                "seed": seed,
                "promoted": best.name,
                "CV": best["cv"],
                "test": best["test"],
                "95 %": f"{best['test_low']:.3f}-{best['test_high']:.3f}",
                "priors": by_name.loc[PRIOR, "test"],
                "ratio": best["test"] / by_name.loc[PRIOR, "test"],
                "PE AUC": best["test_exam_auc"],
                "slice AUC": best["test_slice_auc"],
                "z alone": by_name.loc[Z_ONLY, "test_slice_auc"],
                "public": best["public"],
                "private": best["private"],
            }
        )
    return pd.DataFrame(rows)


def format_results(table: pd.DataFrame) -> str:
    """Format the table with a last row of medians."""
    medians = table.select_dtypes("number").median().to_dict() | {"seed": "median"}
    table = pd.concat([table.astype({"seed": object}), pd.DataFrame([medians])], ignore_index=True)
    cells = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    return text_table(list(table.columns), cells)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)


def draw(table: pd.DataFrame, png: Path) -> None:
    """Draw every candidate's CV against its public and private score, and public against private."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.4), constrained_layout=True)
    pairs = (("cv", "public"), ("cv", "private"), ("public", "private"))
    low, high = table[["cv", "public", "private"]].min().min() - 0.02, table[["cv", "public", "private"]].max().max()
    for axis, (x, y) in zip(axes, pairs, strict=True):
        for name, rows in table.groupby("candidate", sort=False):
            axis.scatter(rows[x], rows[y], label=name, s=22)
        axis.plot([low, high + 0.02], [low, high + 0.02], color="0.7", linewidth=1)
        within = np.mean([run[[x, y]].corr("spearman").iloc[0, 1] for _, run in table.groupby("seed")])
        axis.set(xlabel=x, ylabel=y, title=f"rank correlation within a run {within:.2f}")
    axes[0].legend(fontsize=8)
    figure.suptitle("Metric of every candidate, one point per seed (synthetic contests, lower is better)", fontsize=10)
    figure.savefig(png, dpi=110)
    pyplot.close(figure)


def _candidates(table: pd.DataFrame, seed: int) -> list[str]:
    return table.loc[table["seed"] == seed, "candidate"].tolist()


def main() -> None:
    """Run the missing seeds, print the tables and draw the figure."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument("--finished", action="store_true", help="run nothing: the experiments are finished")
    arguments = parser.parse_args()
    root = arguments.root.expanduser()
    if arguments.finished:
        folders = {seed: experiment_folder(root, seed) for seed in arguments.seeds}
    else:
        folders = {seed: run_seed(root, seed, arguments.options) for seed in arguments.seeds}
    table = pd.concat([rows_of(folder, seed) for seed, folder in folders.items()], ignore_index=True)
    say(format_results(results(table)))
    losses = {seed: exam_losses(folder, _candidates(table, seed)) for seed, folder in folders.items()}
    exams = sum(len(weight) for _, weight in losses.values())
    say("\n" + format_against_single(against_single(table, losses), exams) + "\n")
    picture = root / "seeds.png"
    draw(table, picture)
    say(f"CV, public and private score of every candidate: {picture}")


if __name__ == "__main__":
    run(main)
