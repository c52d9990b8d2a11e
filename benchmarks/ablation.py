"""What does each part of the recipe bring? One network a variant on drawn exams that none of them has seen.

    python -m benchmarks.ablation --root ~/ablation                       medium exams, one fold, under an hour
    python -m benchmarks.ablation --root ~/ablation --only base scratch   some of the variants
    python -m benchmarks.ablation --root ~/ablation --set phantom.difficulty=easy

Draws one contest, trains one (backbone, fold) a variant (two at a time on two cores; what is finished under
ROOT is kept), and scores it on the exams of the held-out fold and the test exams together:
    slice AUC    over the slices of exams with PE
    slice loss   the image part of the contest's metric (weight q), after a logistic regression on the logit
                 that is fitted on the other exams (five parts), so that a variant's sampling costs it nothing
    PE AUC       of the exam, by the mean logit of its four likeliest slices; for the exam network by its own
                 answer
Beside each the difference to the base recipe with its 95 % interval (the same resampled exams for both).
A variant without the base's part that is worse by an interval without zero shows that the part helps.
Synthetic data: the figures speak of this code on drawn exams, at this budget.
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
from pipeline import paths
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.jobs import cores
from pipeline.settings import exam_network_name
from submissions.bootstrap_intervals import RankedScores, interval, resample_counts
from submissions.leaderboard import aligned

BASE = "base"
EXAM_KIND = "gru"
EXAM_NETWORK = f"+ exam network ({EXAM_KIND})"
#: Variant -> what it changes of the recipe; a backbone's own settings go before those of all.
VARIANTS = {
    BASE: (),
    "scratch": ('models.weights="none"', "models.frozen_share=0.0"),
    "2.5-D": ("models.per_backbone.{backbone}.neighbour_mm=5.0",),
    "no auxiliary heads": ("models.auxiliary_weight=0.0",),
    "q-weighted slice loss": ("models.q_weighting=true",),
    "uniform sampling": ('models.sampling="uniform"',),
    "averaged weights": ("models.ema=0.99",),
}
TOP = 4
PARTS = 5
RESAMPLES = 1000


class Answers(NamedTuple):
    """What one network says of the exams that it has not seen, with the truth; slices sorted by exam.

    Attributes:
        exam: (n,) row of each slice's exam.
        present: (n,) 0/1 slice labels, and `logit`: (n,) what the network says.
        positive: (e,) 0/1, exams with PE, and `suspicion`: (e,) the score of that.
    """

    exam: np.ndarray
    present: np.ndarray
    logit: np.ndarray
    positive: np.ndarray
    suspicion: np.ndarray


def folder_of(root: Path, variant: str) -> Path:
    """PE_ROOT of one variant."""
    return root / "".join(letter if letter.isalnum() else "_" for letter in variant)


def draw_contest(root: Path, options: list[str]) -> None:
    """Draw, prepare and store the exams that all variants share, where that is not done."""
    (root / BASE).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PE_ROOT": str(root / BASE)}
    subprocess.run([str(paths.CHECKOUT / "run.sh"), *options, "--to", "features"], env=environment, check=True)
    for variant in VARIANTS:
        folder = folder_of(root, variant)
        if variant != BASE:
            _link(folder / "input", root / BASE / "input")
            _link(folder / "features", root / BASE / "features")
        _link(folder / "models" / "weights", paths.weights())


def _link(place: Path, target: Path) -> None:
    if place != target and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target, target_is_directory=True)


def train(root: Path, variant: str, backbone: str, fold: int, options: list[str]) -> str | None:
    """Train one variant where it is not finished; the name of the log when that failed."""
    folder = folder_of(root, variant)
    wanted = [change.replace("{backbone}", backbone) for change in VARIANTS[variant]]
    changes = [part for change in wanted for part in ("--set", change)]
    kinds = f'models.exam.kinds=["{EXAM_KIND}"]' if variant == BASE else "models.exam.kinds=[]"
    reads = f'models.exam.backbones=["{backbone}"]'  # the recipe's own exam networks may read another one
    command = [
        sys.executable, "-m", "models", "fold", "--backbone", backbone, "--fold", str(fold), "--threads", "1",
        *options, *changes, "--set", kinds, "--set", reads,
    ]  # fmt: skip
    log = folder / "train.log"
    environment = {**os.environ, "PE_ROOT": str(folder), "OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    say(f"{variant}: {'failed' if status else 'trained'}")
    return str(log) if status else None


def answers_of(root: Path, variant: str, network: str, fold: int) -> Answers:
    """Read one network's predictions and the truth of the exams that it did not learn from."""
    prepared = folder_of(root, variant) / "input" / "prepared"
    (truth_file,) = (root / BASE / "input" / "raw").glob("*/truth/test_truth.csv")
    known = pd.concat([pd.read_parquet(prepared / "slices.parquet")[[SOP, SLICE_LABEL]].dropna(),
                       pd.read_csv(truth_file)[[SOP, SLICE_LABEL]]])  # fmt: skip
    said = pd.read_parquet(folder_of(root, variant) / "models" / "runs" / network / f"fold{fold}" / "slices.parquet")
    table = said.merge(known, on=SOP, validate="one_to_one").sort_values(STUDY, kind="stable")
    exam = table[STUDY].factorize()[0]
    present, logits = table[SLICE_LABEL].to_numpy(float), logit(table["pe"].to_numpy())
    positive = table.groupby(exam)[SLICE_LABEL].max().to_numpy(float)
    if network.endswith(f"_{EXAM_KIND}"):
        suspicion = 1 - table.groupby(exam)[[NEGATIVE, INDETERMINATE]].first().sum(axis=1).to_numpy()
    else:
        suspicion = pd.Series(logits).groupby(exam).apply(lambda each: each.nlargest(TOP).mean()).to_numpy()
    return Answers(exam, present, logits, positive, suspicion)


def figures(answers: Answers, counts: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Figure -> its value and its resamples; `counts` (resamples, exams) says how often an exam is drawn."""
    within = answers.positive[answers.exam] > 0
    slices = RankedScores(answers.logit[within], answers.present[within], answers.exam[within])
    exams = RankedScores(answers.suspicion, answers.positive, np.arange(len(answers.positive)))
    loss, weight = slice_losses(answers)
    return {
        "slice AUC": (slices.auc(), np.array([slices.auc(row) for row in counts])),
        "slice loss": (loss.sum() / weight.sum(), (counts @ loss) / (counts @ weight)),
        "PE AUC": (exams.auc(), np.array([exams.auc(row) for row in counts])),
    }


def slice_losses(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the metric's image part, per exam, (e,) each; recalibrated out of part."""
    sizes = np.bincount(answers.exam)
    positive = np.bincount(answers.exam, answers.present)
    q = (positive / sizes)[answers.exam]
    part = (answers.exam * 7919) % PARTS  # exams are in the order of their ids, so any stride will do
    probability = np.empty(len(q))
    for each in range(PARTS):
        others = (part != each) & (q > 0)
        fitted = Logistic.fit(answers.logit[others, None], answers.present[others], weight=q[others])
        probability[part == each] = expit(fitted.decision(answers.logit[part == each, None]))
    return np.bincount(answers.exam, q * log_loss(answers.present, probability)), positive


def table_of(found: dict[str, dict[str, tuple[float, np.ndarray]]]) -> str:
    """One row a variant; behind each figure its difference to the base with the 95 % interval."""
    names = list(found[BASE])
    rows = []
    for variant, own in found.items():
        cells = [variant]
        for name in names:
            cells.append(f"{own[name][0]:.3f}")
            gap = interval(own[name][0] - found[BASE][name][0], own[name][1] - found[BASE][name][1])
            clear = "*" if gap.low > 0 or gap.high < 0 else " "
            cells.append("" if variant == BASE else f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){clear}")
        rows.append(cells)
    return aligned(["variant", *(title for name in names for title in (name, "against base"))], rows)


def main() -> None:
    """Draw, train, score, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="everything is made in here, and kept")
    parser.add_argument("--backbone", default="mobilenetv2", help="the network (%(default)s)")
    parser.add_argument("--fold", type=int, default=0, help="the held-out fold (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--settings", default="settings/phantom.toml", help="the recipe (%(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    root = arguments.root.expanduser().resolve()
    options = ["--settings", arguments.settings, "--set", 'phantom.difficulty="medium"']
    options += [part for override in arguments.overrides for part in ("--set", override)]
    draw_contest(root, options)
    variants = [each for each in VARIANTS if each == BASE or not arguments.only or each in arguments.only]
    with ThreadPoolExecutor(cores()) as pool:
        job = [pool.submit(train, root, each, arguments.backbone, arguments.fold, options) for each in variants]
        failed = [log for each in job if (log := each.result())]
    if failed:
        raise UserError.listing("Some variants could not be trained:", failed)
    answers = {each: answers_of(root, each, arguments.backbone, arguments.fold) for each in variants}
    over = exam_network_name(arguments.backbone, EXAM_KIND)
    answers[EXAM_NETWORK] = answers_of(root, BASE, over, arguments.fold)
    counts = resample_counts(len(answers[BASE].positive), RESAMPLES, seed=1)
    text = table_of({name: figures(each, counts) for name, each in answers.items()})
    with atomic_path(root / "ablation.txt") as temporary:
        temporary.write_text(text + "\n")
    say(f"{len(answers[BASE].positive)} exams that no network has seen, synthetic; * the interval excludes zero")
    say(text)


if __name__ == "__main__":
    run(main)
