"""The `repeat` command: one recipe with several training seeds on the same folds, and what averaging them gains."""

import argparse
import subprocess
from collections import Counter
from collections.abc import Sequence

import numpy as np

from inference.comparison import OUT_OF_FOLD, TEST, Finished, read_finished
from input.metric import contributions
from pipeline import paths
from pipeline.artifact import verify
from pipeline.cli import experiment_options, settings_from
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import SETTINGS, is_recipe
from pipeline.files import read_table
from submissions.blend_experiments import blend
from submissions.bootstrap_intervals import Interval, paired_difference, resample_counts
from submissions.text_table import text_table


def repeat(arguments: argparse.Namespace, seeds: int) -> None:
    """Run the recipe with several seeds, blend them, and print the spread and the gain.

    The first experiment has the recipe's own models.seed, the others the following numbers. What is finished is reused.

    Args:
        arguments: of the command line, with the options of an experiment.
        seeds: number of seeds, at least two.

    Raises:
        UserError: too few seeds, or a run that failed.
    """
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: expected at least 2.")
    first_seed = settings_from(arguments).models.seed
    first = paths.experiment().name
    _run(first, experiment_options(arguments))
    names = [first]
    tracking = [word for text in arguments.overrides if not is_recipe(text) for word in ("--set", text)]
    for seed in range(first_seed + 1, first_seed + seeds):
        recipe = str(paths.experiments() / first / SETTINGS)
        names.append(f"{first},models.seed={seed}")
        _run(names[-1], ["--name", names[-1], "--settings", recipe, "--set", f"models.seed={seed}", *tracking])
    blended = f"{names[0]},seeds={seeds}"
    if blend(names, blended):
        raise UserError(f"The blend failed: {blended}. Rerun the same command to resume.")
    runs = [read_finished(name) for name in names]
    say("\n" + describe(runs, [_promotions(name) for name in names], read_finished(blended)))


def _run(name: str, options: Sequence[str]) -> None:
    """Run an experiment."""
    say(f"experiment: {name}")
    if subprocess.run([str(paths.CHECKOUT / "run.sh"), *options]).returncode:
        raise UserError(f"The run failed: {name}. Rerun the same command to resume.")


def _promotions(name: str) -> list[str]:
    """The candidates that were better than the best simpler one in an experiment."""
    folder = paths.experiments() / name / paths.LINKS / "ensemble"
    verify(folder, ["promotion.csv"])
    table = read_table(folder / "promotion.csv")
    return table.loc[table["promoted"].astype(bool), "candidate"].tolist()


def describe(runs: Sequence[Finished], promotions: Sequence[Sequence[str]], blended: Finished) -> str:
    """The scores of every seed and their spread, the promotions, and the gain of averaging, as text.

    Args:
        runs: one per seed, on the same exams.
        promotions: of each run, the candidates that were promoted over simpler ones.
        blended: the blend of all runs.
    """
    roles = [role for role in (OUT_OF_FOLD, TEST) if role in blended.predictions]
    losses = {role: [_losses(run, role) for run in (*runs, blended)] for role in roles}
    scores = {role: [loss.sum() / weight.sum() for loss, weight in pairs] for role, pairs in losses.items()}
    rows = [
        [run.name, run.candidate, *(f"{scores[role][number]:.4f}" for role in roles)]
        for number, run in enumerate((*runs, blended))
    ]
    for title, function in (("mean of the seeds", np.mean), ("standard deviation", _deviation)):
        rows.append([title, "", *(f"{function(scores[role][:-1]):.4f}" for role in roles)])
    counts = Counter(candidate for promoted in promotions for candidate in promoted)
    survived = ", ".join(f"{name} in {count} of {len(runs)}" for name, count in counts.items()) or "none"
    lines = [
        text_table(["experiment", "promoted", *roles], rows, left=2),
        f"promoted over simpler candidates: {survived}",
    ]
    lines += [
        f"averaging the seeds, {role}: {_signed(gain(losses[role], blended))} against their mean" for role in roles
    ]
    return "\n\n".join(lines)


def gain(losses: Sequence[tuple[np.ndarray, np.ndarray]], blended: Finished) -> Interval:
    """The metric of the last entry minus the mean metric of the others, with a paired interval over exams.

    Args:
        losses: (losses, weights) of the exams, one pair per seed and then the blend's.
        blended: for resamples and seed.
    """
    settings = blended.settings.submissions
    counts = resample_counts(len(losses[0][0]), settings.bootstrap, settings.seed)
    mean = np.mean([loss for loss, _ in losses[:-1]], axis=0)
    return paired_difference(losses[-1][0], mean, losses[-1][1], counts)


def _losses(run: Finished, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the metric, per exam."""
    truth = run.truth[role]
    parts = contributions(truth.exams, truth.slices, *run.predictions[role])
    loss, weight = (parts[f"exam_{kind}"] + parts[f"image_{kind}"] for kind in ("loss", "weight"))
    return loss.to_numpy(), weight.to_numpy()


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def _signed(gap: Interval) -> str:
    return f"{gap.value:+.4f} (95 % {gap.low:+.4f} to {gap.high:+.4f})"
