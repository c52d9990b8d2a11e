"""The whole pipeline on several drawn contests: how good it is, and how CV, public and private scores agree.

    python -m benchmarks.seeds --seeds 101 202 303 --root ~/seeds
    python -m benchmarks.seeds --seeds 1 2 3 4 5 6 --root ~/seeds -- --set phantom.train_exams=120

Runs `./run.sh --set phantom.seed=SEED` for every seed under ROOT/seedSEED (what follows `--` goes to run.sh; what is
up to date is kept), then prints a table of the promoted candidates, the medians over the seeds, and draws
ROOT/seeds.png. The test exams are split by their id into a public part (a third) and a private one, as a contest
does. Last it pools the test exams of all seeds and tells what the promoted candidates and the stack have over the
best single network, by a bootstrap of paired exams: the network with the best CV of each seed (what one would have
submitted instead), and the harder rival that the test truth itself picks. --finished reads finished runs only.
Synthetic data: the figures prove the pipeline, not clinical skill.
"""

import argparse
import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.candidates import MEAN, PRIOR, STACK, WEIGHTED, Z_ONLY
from input.contest import SLICE_LABEL, STUDY
from input.metric import contest_score, contributions
from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from submissions.bootstrap_intervals import Interval, paired_difference, resample_counts
from submissions.leaderboard import aligned
from submissions.score import Truth, read_predictions, read_truth

PUBLIC_SHARE = 1 / 3
#: Candidates that hear more than one network, or none.
NOT_SINGLE = (PRIOR, Z_ONLY, MEAN, WEIGHTED, STACK)
#: Who is compared with the best single network over the pooled test exams.
PROMOTED = "promoted"
COMPARED = (PROMOTED, STACK, WEIGHTED, MEAN)
RESAMPLES, BOOTSTRAP_SEED = 2000, 31


def run_seed(root: Path, seed: int, options: list[str]) -> Path:
    """Run the pipeline for one seed, which takes seconds where it is up to date; the folder of its products."""
    folder = root / f"seed{seed}"
    command = [str(paths.CHECKOUT / "run.sh"), "--set", f"phantom.seed={seed}", *options]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, env={**os.environ, "PE_ROOT": str(folder)}, check=True)
    return folder


def rows_of(folder: Path, seed: int) -> pd.DataFrame:
    """One run's leaderboard with the public and the private score of every candidate."""
    table = pd.read_csv(folder / "submissions" / "leaderboard.csv")
    table = table[table["run"] == table["run"].iloc[-1]].assign(seed=seed)
    truth = truth_of(folder)
    for part, exams in split_exams(truth).items():
        table[part] = [part_score(folder / "submissions" / f"{name}.csv", truth, exams) for name in table["candidate"]]
    return table


def truth_of(folder: Path) -> Truth:
    """The test truth of a run's drawn contest."""
    (truth_file,) = (folder / "input" / "raw").glob("*/truth/test_truth.csv")
    return read_truth(truth_file)


def exam_losses(folder: Path, names: Iterable[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Each test exam's loss, a column a candidate, and its weight: the metric is the ratio of their sums."""
    truth = truth_of(folder)
    losses, weight = {}, np.zeros(0)
    for name in names:
        parts = contributions(
            truth.exams, truth.slices, *read_predictions(folder / "submissions" / f"{name}.csv", truth)
        )
        losses[name] = (parts["exam_loss"] + parts["image_loss"]).to_numpy()
        weight = (parts["exam_weight"] + parts["image_weight"]).to_numpy()
    return pd.DataFrame(losses), weight


def against_single(
    table: pd.DataFrame, losses: dict[int, tuple[pd.DataFrame, np.ndarray]]
) -> dict[tuple[str, str], Interval]:
    """(candidate, how the rival was picked) -> its metric minus the best single network's on the pooled exams.

    Args:
        table: `rows_of` every seed; a candidate that a seed lacks is not compared.
        losses: seed -> `exam_losses`.
    """
    weight = np.concatenate([each for _, each in losses.values()])
    counts = resample_counts(len(weight), RESAMPLES, BOOTSTRAP_SEED)
    found = {}
    for pick in ("cv", "test"):
        chosen = {seed: _names(run, pick) for seed, run in table.groupby("seed", sort=False)}
        rival = np.concatenate([losses[seed][0][names["single"]] for seed, names in chosen.items()])
        for name in COMPARED:
            if all(name in names for names in chosen.values()):
                own = np.concatenate([losses[seed][0][names[name]] for seed, names in chosen.items()])
                found[name, pick] = paired_difference(own, rival, weight, counts)
    return found


def _names(run: pd.DataFrame, pick: str) -> dict[str, str]:
    """Role -> candidate of one run: every candidate itself, the promoted one, the single network best by `pick`."""
    single = run[~run["candidate"].isin(NOT_SINGLE)]
    roles = {name: name for name in run["candidate"]}
    promoted = run.loc[run["promoted"], "candidate"].iloc[0]
    return roles | {PROMOTED: promoted, "single": single.loc[single[pick].idxmin(), "candidate"]}


def show_against_single(found: dict[tuple[str, str], Interval], exams: int) -> str:
    """The comparison as text."""
    rival = {"cv": "best CV", "test": "best on the test truth"}
    cells = [
        [
            name,
            rival[pick],
            f"{each.value:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            "yes" if each.high < 0 else "no",
        ]
        for (name, pick), each in found.items()
    ]
    title = f"metric minus that of the best single network, {exams} test exams pooled, paired bootstrap over exams"
    return title + "\n" + aligned(["candidate", "single network with", "difference", "95 %", "better"], cells, left=2)


def split_exams(truth: Truth) -> dict[str, np.ndarray]:
    """`public` and `private` -> StudyInstanceUIDs; which exam is public depends on its id alone."""
    studies = truth.exams[STUDY].to_numpy()
    place = [int(hashlib.sha256(str(study).encode()).hexdigest()[:8], 16) / 2**32 for study in studies]
    public = np.array(place) < PUBLIC_SHARE
    return {"public": studies[public], "private": studies[~public]}


def part_score(submission: Path, truth: Truth, studies: np.ndarray) -> float:
    """The metric of a submission on some exams."""
    exams, slices = read_predictions(submission, truth)
    chosen = truth.exams[truth.exams[STUDY].isin(studies)]
    chosen_slices = truth.slices[truth.slices[STUDY].isin(studies)]
    return contest_score(chosen, chosen_slices[[STUDY, "SOPInstanceUID", SLICE_LABEL]], exams, slices).total


def results(table: pd.DataFrame) -> pd.DataFrame:
    """One row a seed: the promoted candidate beside the baselines, on the test truth."""
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


def show(found: pd.DataFrame) -> str:
    """The table as text, medians last."""
    middle = found.select_dtypes("number").median().to_dict() | {"seed": "median"}
    table = pd.concat([found.astype({"seed": object}), pd.DataFrame([middle])], ignore_index=True)
    cells = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    return aligned(list(table.columns), cells)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)


def draw(table: pd.DataFrame, png: Path) -> None:
    """Scatter every candidate's CV against its public and private score, and public against private."""
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
    figure.suptitle("Metric of every candidate, a point a seed (drawn contests, lower is better)", fontsize=10)
    figure.savefig(png, dpi=110)
    pyplot.close(figure)


def _candidates(table: pd.DataFrame, seed: int) -> list[str]:
    return table.loc[table["seed"] == seed, "candidate"].tolist()


def main() -> None:
    """Run what is missing, then tell and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="phantom.seed of every contest")
    parser.add_argument("--root", type=Path, required=True, help="one folder of products a seed is made in it")
    parser.add_argument("--finished", action="store_true", help="run nothing: ROOT/seedSEED holds finished runs")
    parser.add_argument("options", nargs="*", help="further options of run.sh, after --")
    arguments = parser.parse_args()
    root = arguments.root.expanduser()
    if arguments.finished:
        folders = {seed: root / f"seed{seed}" for seed in arguments.seeds}
    else:
        folders = {seed: run_seed(root, seed, arguments.options) for seed in arguments.seeds}
    table = pd.concat([rows_of(folder, seed) for seed, folder in folders.items()], ignore_index=True)
    say(show(results(table)))
    losses = {seed: exam_losses(folder, _candidates(table, seed)) for seed, folder in folders.items()}
    exams = sum(len(weight) for _, weight in losses.values())
    say("\n" + show_against_single(against_single(table, losses), exams) + "\n")
    picture = root / "seeds.png"
    draw(table, picture)
    say(f"CV, public and private score of every candidate: {picture}")


if __name__ == "__main__":
    run(main)
