"""Ablation study of the training recipe: one network per variant, compared on held-out synthetic exams.

    ./run.sh bench ablation --root ~/ablation                       medium exams, one fold, under an hour
    ./run.sh bench ablation --root ~/ablation --only base scratch   some of the variants
    ./run.sh bench ablation --root ~/ablation --set phantom.difficulty=easy

Generates one synthetic contest, trains one (backbone, fold) per variant (one per core at a time; finished networks
under ROOT are kept), and scores it on the exams of the held-out fold and the test exams together:
    slice AUC    over the slices of exams with PE
    slice loss   the image part of the contest's metric (weight q), after a logistic recalibration of the logit that is
                 fitted on the other exams (five parts), so that a variant's sampling of slices does not count
    PE AUC       over exams, by the mean logit of the four highest slices; for the exam network by its own output
Next to each, the difference from the base recipe with its 95 % interval (the same resampled exams for both). Removing
a part of the recipe that makes a metric worse, by an interval without zero, shows that the part helps.
Synthetic data: the numbers describe this code on synthetic exams with this training budget.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ensemble.logistic import Logistic, expit, logit
from input.contest import INDETERMINATE, NEGATIVE, SLICE_LABEL, SOP, STUDY
from input.metric import log_loss
from models.network_names import exam_network_name
from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.machine import cores
from submissions.bootstrap_intervals import RankedScores, interval, resample_counts
from submissions.text_table import text_table

BASE = "base"
EXAM_KIND = "gru"
EXAM_NETWORK = f"+ exam network ({EXAM_KIND})"
#: Variant -> changed settings; settings of one backbone override those of all.
VARIANTS = {
    BASE: (),
    "scratch": ('models.weights="none"', "models.frozen_share=0.0", "models.fixed_statistics=false"),
    "2.5-D": ("models.per_backbone.{backbone}.neighbour_mm=5.0",),
    "no auxiliary heads": ("models.auxiliary_weight=0.0",),
    "q-weighted slice loss": ("models.q_weighting=true",),
    "uniform sampling": ('models.sampling="uniform"',),
    "averaged weights": ("models.ema=0.99",),
    "no clot map": ("models.map_weight=0.0",),
    "no masks": ("models.mask_supervision=false",),
    "large steps": ("models.learning_rate=2e-3", "models.batch=16"),
}
TOP = 4
PARTS = 5
RESAMPLES = 1000


class HeldOutScores(NamedTuple):
    """Predictions of one network on held-out exams, with the ground truth; slices sorted by exam.

    Attributes:
        exam: (n,) index of each slice's exam.
        present: (n,) 0/1 slice labels.
        logit: (n,) predicted slice logits.
        positive: (e,) 0/1, exams with PE.
        exam_score: (e,) predicted score of PE.
    """

    exam: np.ndarray
    present: np.ndarray
    logit: np.ndarray
    positive: np.ndarray
    exam_score: np.ndarray


def variant_links(root: Path, variant: str) -> Path:
    """The links to the artifacts of one variant, an experiment below `root` (PE_ROOT)."""
    return root / "experiments" / variant_name(variant) / paths.LINKS


def variant_name(variant: str) -> str:
    """The name of a variant's experiment."""
    return "".join(letter if letter.isalnum() else "_" for letter in variant)


def generate_contest(root: Path, options: list[str]) -> None:
    """Generate, prepare and store the exams that all variants share, unless that is done."""
    root.mkdir(parents=True, exist_ok=True)
    command = [str(paths.CHECKOUT / "run.sh"), *options, "--name", "exams", "--to", "features"]
    subprocess.run(command, env={**os.environ, "PE_ROOT": str(root)}, check=True)


def train(root: Path, variant: str, backbone: str, fold: int, options: list[str]) -> str | None:
    """Train one variant unless it is finished.

    Args:
        root: folder of the benchmark.
        variant: a key of VARIANTS.
        backbone: the network.
        fold: the held-out fold.
        options: settings arguments of the command line.

    Returns:
        The path of the log when training failed, else None.
    """
    changed_settings = [change.replace("{backbone}", backbone) for change in VARIANTS[variant]]
    changes = [part for change in changed_settings for part in ("--set", change)]
    kinds = f'models.exam.kinds=["{EXAM_KIND}"]' if variant == BASE else "models.exam.kinds=[]"
    inputs = f'models.exam.backbones=["{backbone}"]'  # the recipe's exam networks may read another backbone
    command = [
        sys.executable, "-m", "models", "fold", "--backbone", backbone, "--fold", str(fold), "--threads", "1",
        *options, *changes, "--set", kinds, "--set", inputs, "--name", variant_name(variant),
    ]  # fmt: skip
    log = root / "logs" / f"train-{variant_name(variant)}.log"
    environment = {**os.environ, "PE_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    say(f"{variant}: {'failed' if status else 'trained'}")
    return str(log) if status else None


def read_scores(root: Path, variant: str, network: str, fold: int) -> HeldOutScores:
    """Read one network's predictions of its held-out exams, with their ground truth.

    Args:
        root: folder of the benchmark.
        variant: a key of VARIANTS.
        network: name of the slice or exam network.
        fold: its held-out fold.
    """
    links = variant_links(root, variant)
    labels = pd.concat([pd.read_parquet(links / "prepared" / "slices.parquet")[[SOP, SLICE_LABEL]].dropna(),
                        pd.read_csv(links / "raw" / "truth" / "test_truth.csv")[[SOP, SLICE_LABEL]]])  # fmt: skip
    run_folder = links / "models" / network / f"fold{fold}"
    predictions = pd.read_parquet(run_folder / "slices.parquet")
    table = predictions.merge(labels, on=SOP, validate="one_to_one").sort_values(STUDY, kind="stable")
    exam = table[STUDY].factorize()[0]
    present, logits = table[SLICE_LABEL].to_numpy(float), logit(table["pe"].to_numpy())
    positive = table.groupby(exam)[SLICE_LABEL].max().to_numpy(float)
    if network.endswith(f"_{EXAM_KIND}"):
        exam_score = 1 - table.groupby(exam)[[NEGATIVE, INDETERMINATE]].first().sum(axis=1).to_numpy()
    else:
        exam_score = pd.Series(logits).groupby(exam).apply(lambda slices: slices.nlargest(TOP).mean()).to_numpy()
    return HeldOutScores(exam, present, logits, positive, exam_score)


def metrics(scores: HeldOutScores, counts: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Compute name -> (value, resampled values); `counts` (resamples, exams) is the multiplicity of each exam."""
    within = scores.positive[scores.exam] > 0
    slices = RankedScores(scores.logit[within], scores.present[within], scores.exam[within])
    exams = RankedScores(scores.exam_score, scores.positive, np.arange(len(scores.positive)))
    loss, weight = slice_losses(scores)
    return {
        "slice AUC": (slices.auc(), np.array([slices.auc(row) for row in counts])),
        "slice loss": (loss.sum() / weight.sum(), (counts @ loss) / (counts @ weight)),
        "PE AUC": (exams.auc(), np.array([exams.auc(row) for row in counts])),
    }


def slice_losses(scores: HeldOutScores) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the metric's image part per exam, (e,) each; recalibrated across PARTS of exams."""
    sizes = np.bincount(scores.exam)
    positive = np.bincount(scores.exam, scores.present)
    q = (positive / sizes)[scores.exam]
    part = (scores.exam * 7919) % PARTS  # exams are sorted by their random ids, so any stride is a random split
    probability = np.empty(len(q))
    for number in range(PARTS):
        others = (part != number) & (q > 0)
        fitted = Logistic.fit(scores.logit[others, None], scores.present[others], weight=q[others])
        probability[part == number] = expit(fitted.decision(scores.logit[part == number, None]))
    return np.bincount(scores.exam, q * log_loss(scores.present, probability)), positive


def comparison_table(metrics_by_variant: dict[str, dict[str, tuple[float, np.ndarray]]]) -> str:
    """Format one row per variant: every metric, and its difference from the base with the 95 % interval."""
    base = metrics_by_variant[BASE]
    rows = []
    for variant, own in metrics_by_variant.items():
        cells = [variant]
        for name in base:
            cells.append(f"{own[name][0]:.3f}")
            gap = interval(own[name][0] - base[name][0], own[name][1] - base[name][1])
            clear = "*" if gap.low > 0 or gap.high < 0 else " "
            cells.append("" if variant == BASE else f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){clear}")
        rows.append(cells)
    return text_table(["variant", *(title for name in base for title in (name, "minus base"))], rows)


def main() -> None:
    """Generate, train, score and print the table."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder for all artifacts, which are kept")
    parser.add_argument("--backbone", default="mobilenetv2", help="the network (%(default)s)")
    parser.add_argument("--fold", type=int, default=0, help="the held-out fold (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT", help=f"among {', '.join(VARIANTS)}")
    parser.add_argument("--settings", default="settings/phantom.toml", help="the recipe (%(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    root = arguments.root.expanduser().resolve()
    options = ["--settings", arguments.settings, "--set", 'phantom.difficulty="medium"']
    options += [part for override in arguments.overrides for part in ("--set", override)]
    generate_contest(root, options)
    variants = [name for name in VARIANTS if name == BASE or not arguments.only or name in arguments.only]
    with ThreadPoolExecutor(cores()) as pool:
        jobs = [pool.submit(train, root, name, arguments.backbone, arguments.fold, options) for name in variants]
        failed_logs = [log for job in jobs if (log := job.result())]
    if failed_logs:
        raise UserError.listing("Some variants could not be trained; their logs:", failed_logs)
    scores = {name: read_scores(root, name, arguments.backbone, arguments.fold) for name in variants}
    exam_network = exam_network_name(arguments.backbone, EXAM_KIND)
    scores[EXAM_NETWORK] = read_scores(root, BASE, exam_network, arguments.fold)
    exams = len(scores[BASE].positive)
    counts = resample_counts(exams, RESAMPLES, seed=1)
    text = comparison_table({name: metrics(network, counts) for name, network in scores.items()})
    with atomic_path(root / "ablation.txt") as temporary:
        temporary.write_text(text + "\n")
    say(f"{exams} held-out synthetic exams; * marks intervals that exclude zero")
    say(text)


if __name__ == "__main__":
    run(main)
