"""Would embeddings help the second level? Measured out of fold on the finished run under PE_ROOT.

    PE_ROOT=~/runs/pe python -m benchmarks.embeddings --settings settings/phantom.toml

Embeddings of independently trained networks do not compare, so fold k's network is read on fold k's exams only, which
it never saw: a slice's embedding is pooled over its exam where PE seems to be, compressed to a few principal
components, and a ridge logistic regression answers each question, cross-fitted inside the fold. What it says is one
more column beside the pooled logits of the blend; both are compared across folds with a paired bootstrap over exams.
On drawn exams the figures are synthetic.
"""

import argparse

import numpy as np
import pandas as pd

from ensemble.binary_targets import asked, rare
from ensemble.blend import POOLED
from ensemble.exam_table import exam_table, slice_attention
from ensemble.fit_ensemble import read_inputs
from ensemble.gradient_boosting import inner_folds
from ensemble.logistic import Logistic
from ensemble.predictions import View
from input.contest import SOP
from pipeline import paths
from pipeline.artifact import verify
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import EnsembleSettings, Settings
from submissions.bootstrap_intervals import RankedScores, paired_difference, resample_counts
from submissions.leaderboard import aligned

COMPONENTS = 8
RIDGE = 5.0


def pooled_embeddings(view: View, backbone: str, folds: int) -> np.ndarray:
    """(e, 2 d): each training exam's embeddings by its held-out network, mean at suspected PE and over the exam."""
    vectors: np.ndarray | None = None
    place = pd.Index(view.sops)
    for fold in range(folds):
        folder = paths.model_run(backbone, fold)
        verify(folder, ["slices.parquet", "embeddings.npy"])
        table = pd.read_parquet(folder / "slices.parquet", columns=[SOP, "row"], filters=[("role", "==", "oof")])
        stored = np.load(folder / "embeddings.npy", mmap_mode="r")
        vectors = np.zeros((len(place), stored.shape[1]), np.float32) if vectors is None else vectors
        vectors[place.get_indexer(table[SOP])] = stored[table["row"].to_numpy()]
    attention = slice_attention(view.segments, view.mean_logit())
    means = [[view.segments.mean(column, weight) for column in vectors.T] for weight in (attention, None)]
    return np.concatenate(means).T


def fold_opinion(values: np.ndarray, answers: np.ndarray, seed: int) -> np.ndarray:
    """(e,) cross-fitted logits of one fold's exams from their pooled embeddings; zeros where answers are too rare."""
    found = np.zeros(len(answers))
    if rare(answers):
        return found
    part = inner_folds(answers, np.arange(len(answers)), 4, seed)
    for number in range(4):
        held = part == number
        if len(np.unique(answers[~held])) < 2:
            continue
        centre, scale = values[~held].mean(axis=0), values[~held].std(axis=0) + 1e-6
        standard = (values - centre) / scale
        axes = np.linalg.svd(standard[~held], full_matrices=False)[2][:COMPONENTS]
        scores = standard @ axes.T
        found[held] = Logistic.fit(scores[~held], answers[~held], penalty=RIDGE).decision(scores[held])
    return found


def crossed_loss(x: np.ndarray, answers: np.ndarray, folds: np.ndarray, ridge: float) -> np.ndarray:
    """(e,) log loss of a logistic regression that is fitted without each exam's fold."""
    decision = np.empty(len(answers))
    for fold in np.unique(folds):
        held = folds == fold
        decision[held] = Logistic.fit(x[~held], answers[~held], penalty=ridge).decision(x[held])
    return np.logaddexp(0, decision) - answers * decision


def compare(view: View, embeddings: np.ndarray, settings: EnsembleSettings) -> list[list[str]]:
    """A row a question: exams, AUC of the embeddings alone, log loss without and with them, their difference."""
    table, fold_of = exam_table(view), view.truth["fold"].to_numpy()
    rows = []
    for question, (mask, answers) in asked(view.truth).items():
        folds = fold_of[mask]
        if rare(answers) or any(len(np.unique(answers[folds != fold])) < 2 for fold in np.unique(folds)):
            continue
        opinion = np.empty(len(answers))
        for fold in np.unique(folds):
            opinion[folds == fold] = fold_opinion(
                embeddings[mask][folds == fold], answers[folds == fold], settings.seed
            )
        pooled = table.loc[mask, [name for name in POOLED[question] if name in table]].to_numpy(float)
        without = crossed_loss(pooled, answers, folds, settings.ridge)
        having = crossed_loss(np.column_stack([pooled, opinion]), answers, folds, settings.ridge)
        counts = resample_counts(len(answers), 1000, settings.seed)
        found = paired_difference(having, without, np.ones(len(answers)), counts)
        auc = RankedScores(opinion, answers, np.arange(len(answers))).auc()
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        figures = [f"{auc:.3f}", f"{without.mean():.4f}", f"{having.mean():.4f}", f"{found.value:+.4f}", interval]
        rows.append([question, str(len(answers)), *figures])
    return rows


def tell(settings: Settings) -> None:
    """Measure every backbone of a finished run."""
    view = read_inputs(settings).out_of_fold
    header = ["question", "exams", "AUC alone", "log loss without", "with", "difference", "95 %"]
    for backbone in settings.models.backbones:
        embeddings = pooled_embeddings(view, backbone, settings.input.folds)
        say(f"\nembeddings of {backbone} beside the pooled logits, out of fold (below zero helps)")
        say(aligned(header, compare(view, embeddings, settings.ensemble)))


def main() -> int:
    """Parse, then measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embeddings", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_settings_arguments(parser)
    tell(settings_from(parser.parse_args()))
    return 0


if __name__ == "__main__":
    run(main)
