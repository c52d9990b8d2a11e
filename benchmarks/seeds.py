"""The whole pipeline on several drawn contests: how good it is, and how CV, public and private scores agree.

    python -m benchmarks.seeds --seeds 101 202 303 --root ~/seeds
    python -m benchmarks.seeds --seeds 1 2 3 4 5 6 --root ~/seeds -- --set phantom.train_exams=120

Runs `./run.sh --set phantom.seed=SEED` for every seed that is not finished under ROOT/seedSEED (what follows `--`
goes to run.sh), then prints a table of the promoted candidates, the medians over the seeds, and draws
ROOT/seeds.png. The test exams are split by their id into a public part (a third) and a private one, as a contest
does. Synthetic data: the figures prove the pipeline, not clinical skill.
"""

import argparse
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.candidates import PRIOR, Z_ONLY
from input.contest import SLICE_LABEL, STUDY
from input.metric import contest_score
from pipeline import paths
from pipeline.console import say
from submissions.leaderboard import aligned
from submissions.score import Truth, read_predictions, read_truth

PUBLIC_SHARE = 1 / 3


def run_seed(root: Path, seed: int, options: list[str]) -> Path:
    """Run the pipeline for one seed where it is not finished; the folder of its products."""
    folder = root / f"seed{seed}"
    command = [str(paths.CHECKOUT / "run.sh"), "--set", f"phantom.seed={seed}", *options]
    if not (folder / "submissions" / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, env={**os.environ, "PE_ROOT": str(folder)}, check=True)
    return folder


def rows_of(folder: Path, seed: int) -> pd.DataFrame:
    """One run's leaderboard with the public and the private score of every candidate."""
    table = pd.read_csv(folder / "submissions" / "leaderboard.csv")
    table = table[table["run"] == table["run"].iloc[-1]].assign(seed=seed)
    (truth_file,) = (folder / "input" / "raw").glob("*/truth/test_truth.csv")
    truth = read_truth(truth_file)
    for part, exams in split_exams(truth).items():
        table[part] = [part_score(folder / "submissions" / f"{name}.csv", truth, exams) for name in table["candidate"]]
    return table


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
    for seed, run in table.groupby("seed", sort=False):
        by_name = run.set_index("candidate")
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


def main() -> None:
    """Run what is missing, then tell and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="phantom.seed of every contest")
    parser.add_argument("--root", type=Path, required=True, help="one folder of products a seed is made in it")
    parser.add_argument("options", nargs="*", help="further options of run.sh, after --")
    arguments = parser.parse_args()
    folders = {seed: run_seed(arguments.root.expanduser(), seed, arguments.options) for seed in arguments.seeds}
    table = pd.concat([rows_of(folder, seed) for seed, folder in folders.items()], ignore_index=True)
    say(show(results(table)))
    picture = arguments.root.expanduser() / "seeds.png"
    draw(table, picture)
    say(f"CV, public and private score of every candidate: {picture}")


if __name__ == "__main__":
    main()
