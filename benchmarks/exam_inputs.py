"""What does it cost an exam network that its slice network has seen the exams which it learns from?

    python -m benchmarks.exam_inputs                      the finished run under $PE_ROOT (or the checkout)
    python -m benchmarks.exam_inputs --kind transformer

The pipeline trains exam network k on the exams outside fold k with slice network k's embeddings of them, which that
network has fitted (in-sample). The clean alternative trains on fold k alone, whose embeddings are honest, and predicts
its exams by an inner cross-validation: fewer exams (one fold instead of all others), but nothing memorised. Both
are scored on the same out-of-fold exams with the contest's metric, after one temperature and shift a label that is
fitted on the other folds, so that mere overconfidence is told apart from not knowing. Synthetic data where the
run is the phantom's.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from ensemble.logistic import Logistic, expit, logit
from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, INDETERMINATE, NEGATIVE, SLICE_LABEL, SOP, STUDY
from input.metric import log_loss
from models.check_recipe import EXAM_KINDS
from models.exam_runs import stored_numbers
from models.exam_training import exams_of, predict_exams, train_exam_network
from models.slice_runs import exam_network_artifact, plane_table
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.settings import Settings, exam_network_name
from submissions.bootstrap_intervals import Interval, RankedScores, paired_difference, ratio_interval, resample_counts
from submissions.leaderboard import aligned

INNER_FOLDS = 4
RESAMPLES = 1000
COLUMNS = ("pe", *EXAM_LABELS)


def held_out_predictions(settings: Settings, backbone: str, fold: int, kind: str, table: pd.DataFrame) -> pd.DataFrame:
    """Predict one fold's exams by exam networks that learned from the fold's other exams.

    Args:
        table: all slices with labels and positions, from `plane_table`.

    Returns:
        StudyInstanceUID, SOPInstanceUID, `pe` and nine exam labels, a row a slice of the fold.
    """
    rows = table[(table["split"] == "train") & (table["fold"] == fold)].reset_index(drop=True)
    numbers = stored_numbers(paths.model_run(backbone, fold), rows)
    exams = rows.drop_duplicates(STUDY)
    found = []
    parts = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=settings.models.exam.seed)
    for _, asked in parts.split(exams, exams[NEGATIVE]):
        out = rows[STUDY].isin(exams[STUDY].iloc[asked]).to_numpy()
        learned = exams_of(rows[~out].reset_index(drop=True), numbers[~out])
        model, scale, _ = train_exam_network(learned, kind, settings.models.exam, lambda epoch, loss: None)
        unlabelled = rows[out].drop(columns=[SLICE_LABEL, *EXAM_LABELS]).reset_index(drop=True)
        found.append(predict_exams(model, unlabelled, numbers[out], scale, settings.models.exam))
    return pd.concat(found, ignore_index=True)


def in_sample_predictions(settings: Settings, backbone: str, fold: int, kind: str) -> pd.DataFrame:
    """What the pipeline's own exam network says of one fold.

    Raises:
        UserError: it is not trained.
    """
    reason = exam_network_artifact(settings, backbone, fold, kind).stale_reason()
    if reason:
        name = exam_network_name(backbone, kind)
        raise UserError(f"{name} fold {fold}: {reason}. Train it: ./run.sh --set 'models.exam.kinds=[\"{kind}\"]'")
    said = pd.read_parquet(paths.model_run(exam_network_name(backbone, kind), fold) / "slices.parquet")
    return said[said["role"] == "oof"]


def recalibrated(predictions: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Temperature and shift of every column, fitted on the other folds with the metric's weights.

    Args:
        predictions: COLUMNS as probabilities, and `known` the truth with fold and q; rows alike.
    """
    better, fold, q = predictions.copy(), known["fold"].to_numpy(), known["q"].to_numpy()
    for column in COLUMNS:
        truth = known[SLICE_LABEL if column == "pe" else column].to_numpy(float)
        weight = q if column == "pe" else 1 / known.groupby(STUDY)[STUDY].transform("size").to_numpy()
        x = logit(predictions[column].to_numpy())[:, None]
        for each in np.unique(fold):
            other = (fold != each) & (weight > 0)
            if len(np.unique(truth[other])) == 2:
                model = Logistic.fit(x[other], truth[other], weight=weight[other])
                better.loc[fold == each, column] = expit(model.decision(x[fold == each]))
    return better


def losses(predictions: pd.DataFrame, known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the metric per exam, (e,) each; exams by ascending id."""
    weights = np.array([EXAM_WEIGHTS[label] for label in EXAM_LABELS])
    exams, truth = (
        predictions.groupby(STUDY)[list(EXAM_LABELS)].first(),
        known.groupby(STUDY)[list(EXAM_LABELS)].first(),
    )
    exam = log_loss(truth.to_numpy(float), exams.to_numpy()) @ weights
    slices = known["q"] * log_loss(known[SLICE_LABEL].to_numpy(float), predictions["pe"].to_numpy())
    positive = known.groupby(STUDY)[SLICE_LABEL].sum().to_numpy()
    image = slices.groupby(known[STUDY]).sum().to_numpy()
    return exam + IMAGE_WEIGHT * image, weights.sum() + IMAGE_WEIGHT * positive


def figures(predictions: pd.DataFrame, known: pd.DataFrame) -> tuple[float, float]:
    """AUC of PE over exams, and of the slices of exams with PE."""
    exams, truth = predictions.groupby(STUDY).first(), known.groupby(STUDY).first()
    suspicion = 1 - exams[NEGATIVE].to_numpy() - exams[INDETERMINATE].to_numpy()
    positive = 1 - truth[NEGATIVE].to_numpy(float) - truth[INDETERMINATE].to_numpy(float)
    within = (known["q"] > 0).to_numpy()
    slices = RankedScores(
        predictions["pe"].to_numpy()[within], known[SLICE_LABEL].to_numpy(float)[within], np.zeros(within.sum(), int)
    )
    return RankedScores(suspicion, positive, np.arange(len(exams))).auc(), slices.auc()


def compare(settings: Settings, backbone: str, kind: str) -> tuple[list[list[str]], Interval]:
    """Rows of the table for one backbone, and the paired difference (in-sample minus clean)."""
    table = plane_table("train")
    table["q"] = table.groupby(STUDY)[SLICE_LABEL].transform("mean")
    folds = range(settings.input.folds)
    ways = {
        "in-sample, the other folds": [in_sample_predictions(settings, backbone, fold, kind) for fold in folds],
        "held out, the fold itself": [
            held_out_predictions(settings, backbone, fold, kind, table)
            for fold in progress(folds, what=f"{kind} on {backbone}", unit="fold")
        ],
    }
    rows, sums = [], []
    for name, parts in ways.items():
        said = pd.concat(parts, ignore_index=True).merge(table, on=[STUDY, SOP], suffixes=("", "_truth"))
        said = said.sort_values([STUDY, SOP], ignore_index=True)
        known = said[[STUDY, "fold", "q", SLICE_LABEL]].assign(
            **{label: said[f"{label}_truth"] for label in EXAM_LABELS}
        )
        predictions = said[[STUDY, *COLUMNS]]
        better = recalibrated(predictions, known)
        loss, weight = losses(better, known)
        counts = resample_counts(len(loss), RESAMPLES, settings.submissions.seed)
        raw = losses(predictions, known)[0].sum() / weight.sum()
        exam_auc, slice_auc = figures(better, known)
        cells = [f"{raw:.4f}", str(ratio_interval(loss, weight, counts)), f"{exam_auc:.3f}", f"{slice_auc:.3f}"]
        rows.append([backbone, name, *cells])
        sums.append(loss)
    return rows, paired_difference(sums[0], sums[1], weight, counts)


def main() -> None:
    """Compare on every backbone that exam networks read; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings_arguments(parser)
    parser.add_argument("--kind", choices=EXAM_KINDS, default="gru", help="of exam network (%(default)s)")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    rows, gaps = [], []
    for backbone in settings.models.exam.backbones or settings.models.backbones:
        found, gap = compare(settings, backbone, arguments.kind)
        rows += found
        gaps.append(f"{backbone}: in-sample minus held out {gap}")
    title = ["slice network", "learned from", "metric", "recalibrated (95 %)", "PE AUC", "slice AUC"]
    say("\n".join(["Out of fold, lower metric is better:", aligned(title, rows), *gaps]))


if __name__ == "__main__":
    run(main)
