"""Benefit of embeddings for the stack, measured out of fold on the finished run under PE_ROOT.

    PE_ROOT=~/runs/pe ./run.sh bench embeddings --settings settings/phantom.toml

Embeddings of independently trained networks are not comparable, so those of fold k's network are used for fold k's
exams only, which it never saw. Slice embeddings are pooled over the exam with weight on suspected PE, compressed to a
few principal components, and a ridge logistic regression predicts each target, cross-fitted inside the fold. Its logit
is added as one more column to the pooled logits of the blend; both are compared across folds with a paired bootstrap
over exams. On the synthetic contest the numbers are synthetic.
"""

import argparse

import numpy as np
import pandas as pd

from ensemble.binary_targets import is_rare, target_labels
from ensemble.blend import POOLED
from ensemble.ensemble_inputs import read_inputs
from ensemble.exam_table import exam_table, slice_attention
from ensemble.gradient_boosting import inner_folds
from ensemble.logistic import Logistic
from ensemble.view import View
from input.contest import SOP
from pipeline import paths
from pipeline.artifact import verify
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import EnsembleSettings, Settings
from submissions.bootstrap_intervals import RankedScores, paired_difference, resample_counts
from submissions.text_table import text_table

COMPONENTS = 8
RIDGE = 5.0


def pooled_embeddings(view: View, backbone: str, folds: int) -> np.ndarray:
    """Pool every training exam's embeddings by its held-out network.

    Args:
        view: the out-of-fold view of the ensemble.
        backbone: name of the slice network.
        folds: number of folds.

    Returns:
        (e, 2 d): means weighted by suspected PE, then means over the exam.
    """
    vectors = np.zeros((0, 0), np.float32)
    sops = pd.Index(view.sops)
    for fold in range(folds):
        folder = paths.model_run(backbone, fold)
        verify(folder, ["slices.parquet", "embeddings.npy"])
        table = pd.read_parquet(folder / "slices.parquet", columns=[SOP, "row"], filters=[("role", "==", "oof")])
        stored = np.load(folder / "embeddings.npy", mmap_mode="r")
        vectors = vectors if len(vectors) else np.zeros((len(sops), stored.shape[1]), np.float32)
        vectors[sops.get_indexer(table[SOP])] = stored[table["row"].to_numpy()]
    attention = slice_attention(view.segments, view.mean_logit())
    means = [[view.segments.mean(column, weight) for column in vectors.T] for weight in (attention, None)]
    return np.concatenate(means).T


def cross_fitted_logits(values: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Predict a target of one fold's exams from their pooled embeddings, cross-fitted inside the fold.

    Args:
        values: (e, 2 d) pooled embeddings.
        labels: (e,) 0/1.
        seed: of the inner folds.

    Returns:
        (e,) logits; zeros where one class is too rare.
    """
    logits = np.zeros(len(labels))
    if is_rare(labels):
        return logits
    part = inner_folds(labels, np.arange(len(labels)), 4, seed)
    for number in range(4):
        held = part == number
        if len(np.unique(labels[~held])) < 2:
            continue
        centre, scale = values[~held].mean(axis=0), values[~held].std(axis=0) + 1e-6
        standard = (values - centre) / scale
        axes = np.linalg.svd(standard[~held], full_matrices=False)[2][:COMPONENTS]
        scores = standard @ axes.T
        logits[held] = Logistic.fit(scores[~held], labels[~held], penalty=RIDGE).decision(scores[held])
    return logits


def cross_fitted_loss(x: np.ndarray, labels: np.ndarray, folds: np.ndarray, ridge: float) -> np.ndarray:
    """Log loss (e,) of a logistic regression fitted on the other folds.

    Args:
        x: (e, columns) features.
        labels: (e,) 0/1.
        folds: (e,) fold of each exam.
        ridge: strength of the penalty.
    """
    decision = np.empty(len(labels))
    for fold in np.unique(folds):
        held = folds == fold
        decision[held] = Logistic.fit(x[~held], labels[~held], penalty=ridge).decision(x[held])
    return np.logaddexp(0, decision) - labels * decision


def compare(view: View, embeddings: np.ndarray, settings: EnsembleSettings) -> list[list[str]]:
    """Compare the log loss with and without embeddings.

    Args:
        view: the out-of-fold view of the ensemble.
        embeddings: (e, 2 d) from `pooled_embeddings`.
        settings: of the ensemble.

    Returns:
        One row per target: exams, AUC of the embeddings alone, log loss without and with them, their difference.
    """
    truth, _ = view.require_truth()
    table, fold_of = exam_table(view), truth["fold"].to_numpy()
    rows = []
    for target, (mask, labels) in target_labels(truth).items():
        folds = fold_of[mask]
        if is_rare(labels) or any(len(np.unique(labels[folds != fold])) < 2 for fold in np.unique(folds)):
            continue
        logits = np.empty(len(labels))
        for fold in np.unique(folds):
            rows_of_fold = folds == fold
            logits[rows_of_fold] = cross_fitted_logits(
                embeddings[mask][rows_of_fold], labels[rows_of_fold], settings.seed
            )
        pooled = table.loc[mask, [name for name in POOLED[target] if name in table]].to_numpy(float)
        without = cross_fitted_loss(pooled, labels, folds, settings.ridge)
        with_embeddings = cross_fitted_loss(np.column_stack([pooled, logits]), labels, folds, settings.ridge)
        counts = resample_counts(len(labels), 1000, settings.seed)
        difference = paired_difference(with_embeddings, without, np.ones(len(labels)), counts)
        auc = RankedScores(logits, labels, np.arange(len(labels))).auc()
        losses = [f"{auc:.3f}", f"{without.mean():.4f}", f"{with_embeddings.mean():.4f}", f"{difference.value:+.4f}"]
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        rows.append([target, str(len(labels)), *losses, interval])
    return rows


def print_comparison(settings: Settings) -> None:
    """Measure every backbone of a finished run and print one table per backbone."""
    view = read_inputs(settings).out_of_fold
    header = ["target", "exams", "AUC alone", "log loss without", "with", "difference", "95 %"]
    for backbone in settings.models.backbones:
        embeddings = pooled_embeddings(view, backbone, settings.input.folds)
        say(f"\nembeddings of {backbone} added to the pooled logits, out of fold (negative: better)")
        say(text_table(header, compare(view, embeddings, settings.ensemble)))


def main() -> int:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench embeddings", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_settings_arguments(parser)
    print_comparison(settings_from(parser.parse_args()))
    return 0


if __name__ == "__main__":
    run(main)
