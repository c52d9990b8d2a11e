"""In-sample against held-out embeddings as training inputs of the exam networks.

    ./run.sh bench exam_inputs                      the finished run under $PE_ROOT (or the checkout)
    ./run.sh bench exam_inputs --kind transformer

The pipeline trains exam network k on the exams outside fold k with the embeddings of slice network k, which was trained
on the same exams (in-sample). The alternative trains on fold k only, whose embeddings are held out, and predicts its
exams by an inner cross-validation: fewer training exams (one fold instead of all others), but no memorised inputs. Both
are scored on the same out-of-fold exams with the contest's metric, after a recalibration (one temperature and one shift
per label) that is fitted on the other folds, so that overconfidence alone does not count. Synthetic data where the run
is of the synthetic contest.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from ensemble.logistic import Logistic, expit, logit
from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, INDETERMINATE, NEGATIVE, SLICE_LABEL, SOP, STUDY
from input.metric import log_loss
from models.check_recipe import EXAM_KINDS
from models.exam_inputs import group_by_exam
from models.exam_prediction import predict_exams
from models.exam_runs import stored_inputs
from models.exam_training import forward_of, train_exam_network
from models.network_artifacts import exam_network_artifact
from models.network_names import exam_network_name
from models.slice_runs import plane_table
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.settings import Settings
from submissions.bootstrap_intervals import Interval, RankedScores, paired_difference, ratio_interval, resample_counts
from submissions.text_table import text_table

INNER_FOLDS = 4
RESAMPLES = 1000
COLUMNS = ("pe", *EXAM_LABELS)


def held_out_predictions(settings: Settings, backbone: str, fold: int, kind: str, table: pd.DataFrame) -> pd.DataFrame:
    """Predict one fold's exams by exam networks trained on the fold's other exams.

    Args:
        settings: of the finished run.
        backbone: the slice network whose embeddings are used.
        fold: its held-out fold.
        kind: of exam network.
        table: all slices with labels and positions, from `plane_table`.

    Returns:
        StudyInstanceUID, SOPInstanceUID, `pe` and nine exam labels; one row per slice of the fold.
    """
    rows = table[(table["split"] == "train") & (table["fold"] == fold)].reset_index(drop=True)
    inputs = stored_inputs(paths.model_run(backbone, fold), rows)
    exams = rows.drop_duplicates(STUDY)
    predictions = []
    parts = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=settings.models.exam.seed)
    for _, held_out in parts.split(exams, exams[NEGATIVE]):
        out = rows[STUDY].isin(exams[STUDY].iloc[held_out]).to_numpy()
        training = group_by_exam(rows[~out].reset_index(drop=True), inputs[~out])
        model, scale, _ = train_exam_network(training, kind, settings.models.exam, lambda epoch, loss: None)
        unlabelled = rows[out].drop(columns=[SLICE_LABEL, *EXAM_LABELS]).reset_index(drop=True)
        forward = forward_of(model, kind)
        predictions.append(predict_exams(forward, unlabelled, inputs[out], scale, settings.models.exam))
    return pd.concat(predictions, ignore_index=True)


def in_sample_predictions(settings: Settings, backbone: str, fold: int, kind: str) -> pd.DataFrame:
    """Read the predictions of one fold by the pipeline's own exam network.

    Args:
        settings: of the finished run.
        backbone: the slice network whose embeddings are used.
        fold: its held-out fold.
        kind: of exam network.

    Raises:
        UserError: the exam network is not trained.
    """
    reason = exam_network_artifact(settings, backbone, fold, kind).stale_reason()
    if reason:
        name = exam_network_name(backbone, kind)
        raise UserError(
            f"No finished exam network: {name} fold {fold}: {reason}. Train it: ./run.sh --set "
            f"'models.exam.kinds=[\"{kind}\"]'"
        )
    predictions = pd.read_parquet(paths.model_run(exam_network_name(backbone, kind), fold) / "slices.parquet")
    return predictions[predictions["role"] == "oof"]


def recalibrate(predictions: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Apply a temperature and a shift to every column, fitted on the other folds with the metric's weights.

    Args:
        predictions: COLUMNS as probabilities.
        known: the ground truth with fold and q, in the same row order.
    """
    recalibrated, fold, q = predictions.copy(), known["fold"].to_numpy(), known["q"].to_numpy()
    for column in COLUMNS:
        truth = known[SLICE_LABEL if column == "pe" else column].to_numpy(float)
        weight = q if column == "pe" else 1 / known.groupby(STUDY)[STUDY].transform("size").to_numpy()
        x = logit(predictions[column].to_numpy())[:, None]
        for held_out in np.unique(fold):
            other = (fold != held_out) & (weight > 0)
            if len(np.unique(truth[other])) == 2:
                model = Logistic.fit(x[other], truth[other], weight=weight[other])
                recalibrated.loc[fold == held_out, column] = expit(model.decision(x[fold == held_out]))
    return recalibrated


def losses(predictions: pd.DataFrame, known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the metric per exam, (e,) each; exams sorted by id."""
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


def aucs(predictions: pd.DataFrame, known: pd.DataFrame) -> tuple[float, float]:
    """AUC of PE over exams, and AUC over the slices of exams with PE."""
    exams, truth = predictions.groupby(STUDY).first(), known.groupby(STUDY).first()
    exam_score = 1 - exams[NEGATIVE].to_numpy() - exams[INDETERMINATE].to_numpy()
    positive = 1 - truth[NEGATIVE].to_numpy(float) - truth[INDETERMINATE].to_numpy(float)
    within = (known["q"] > 0).to_numpy()
    slices = RankedScores(
        predictions["pe"].to_numpy()[within], known[SLICE_LABEL].to_numpy(float)[within], np.zeros(within.sum(), int)
    )
    return RankedScores(exam_score, positive, np.arange(len(exams))).auc(), slices.auc()


def compare(settings: Settings, backbone: str, kind: str) -> tuple[list[list[str]], Interval]:
    """Compare both inputs for one backbone.

    Args:
        settings: of the finished run.
        backbone: the slice network whose embeddings are used.
        kind: of exam network.

    Returns:
        Rows of the table, and the paired difference of the metric (in-sample minus held-out).
    """
    table = plane_table("train")
    table["q"] = table.groupby(STUDY)[SLICE_LABEL].transform("mean")
    folds = range(settings.input.folds)
    predictions_by_input = {
        "in-sample, the other folds": [in_sample_predictions(settings, backbone, fold, kind) for fold in folds],
        "held-out, the fold itself": [
            held_out_predictions(settings, backbone, fold, kind, table)
            for fold in progress(folds, desc=f"{kind} on {backbone}", unit="fold")
        ],
    }
    rows, sums = [], []
    for name, parts in predictions_by_input.items():
        joined = pd.concat(parts, ignore_index=True).merge(table, on=[STUDY, SOP], suffixes=("", "_truth"))
        joined = joined.sort_values([STUDY, SOP], ignore_index=True)
        known = joined[[STUDY, "fold", "q", SLICE_LABEL]].assign(
            **{label: joined[f"{label}_truth"] for label in EXAM_LABELS}
        )
        predictions = joined[[STUDY, *COLUMNS]]
        recalibrated = recalibrate(predictions, known)
        loss, weight = losses(recalibrated, known)
        counts = resample_counts(len(loss), RESAMPLES, settings.submissions.seed)
        raw = losses(predictions, known)[0].sum() / weight.sum()
        exam_auc, slice_auc = aucs(recalibrated, known)
        cells = [f"{raw:.4f}", str(ratio_interval(loss, weight, counts)), f"{exam_auc:.3f}", f"{slice_auc:.3f}"]
        rows.append([backbone, name, *cells])
        sums.append(loss)
    return rows, paired_difference(sums[0], sums[1], weight, counts)


def main() -> None:
    """Compare on every backbone that exam networks use, and print the table."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench exam_inputs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings_arguments(parser)
    parser.add_argument("--kind", choices=EXAM_KINDS, default="gru", help="kind of exam network (%(default)s)")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    rows, differences = [], []
    for backbone in settings.models.exam.backbones or settings.models.backbones:
        backbone_rows, difference = compare(settings, backbone, arguments.kind)
        rows += backbone_rows
        differences.append(f"{backbone}: in-sample minus held-out {difference}")
    title = ["slice network", "training inputs", "metric", "recalibrated (95 %)", "PE AUC", "slice AUC"]
    say("\n".join(["Out of fold, lower metric is better:", text_table(title, rows), *differences]))


if __name__ == "__main__":
    run(main)
