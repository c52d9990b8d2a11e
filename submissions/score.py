"""The contest's metric of a submission and its parts, with confidence intervals over exams."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import (
    EXAM_LABELS,
    INDETERMINATE,
    LABEL_TITLES,
    NEGATIVE,
    SLICE_LABEL,
    SOP,
    STUDY,
    TRAIN_COLUMNS,
)
from input.contest_tree import submission_ids
from input.metric import contributions, score_of
from pipeline.errors import UserError
from pipeline.paths import shown
from submissions.bootstrap_intervals import (
    Interval,
    RankedScores,
    interval,
    paired_difference,
    ratio_interval,
    resample_counts,
)
from submissions.calibration import Calibration, calibration
from submissions.kaggle_csv import read_rows, to_tables


@dataclasses.dataclass(frozen=True)
class Truth:
    """The ground truth of a score.

    Attributes:
        exams: STUDY and the nine labels (0 or 1), one row per exam.
        slices: STUDY, SOP and pe_present_on_image (0 or 1).
    """

    exams: pd.DataFrame
    slices: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Score:
    """A submission's score; lower is better for the metric and its parts, higher for the AUCs.

    Attributes:
        total: the metric.
        exam_part: weighted log loss of the exam labels alone; exam_interval: the same with its limits.
        image_part: q-weighted log loss of the slices alone, NaN without a positive exam; image_interval: the same
            with its limits.
        image_share: the slices' share of the metric's weight.
        labels: log loss of every exam label.
        slice_auc: over the slices of exams with PE.
        exam_auc: of PE with the score 1 - P(negative) - P(indeterminate).
        calibration: of that score clipped to [0, 1].
        loss, weight: (exams,) the sums whose ratio is the metric, in the order of the truth's exams.
        parts: `exam` and `image` -> the same sums of that part alone.
        resampled_auc: `slice` and `exam` -> (resamples,) AUC of every resample.
        pe_scores, positive: (exams,) the score of PE and whether the exam has PE, in the same order.
    """

    exams: int
    positive_exams: int
    slices: int
    total: Interval
    exam_part: float
    image_part: float
    exam_interval: Interval
    image_interval: Interval
    image_share: float
    labels: dict[str, float]
    slice_auc: Interval
    exam_auc: Interval
    calibration: Calibration
    loss: np.ndarray
    weight: np.ndarray
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    resampled_auc: dict[str, np.ndarray]
    pe_scores: np.ndarray
    positive: np.ndarray


def read_truth(path: Path) -> Truth:
    """Read labels in the columns of train.csv.

    Raises:
        UserError: missing file, not a CSV table, missing columns or UIDs, no rows, labels other than 0 and 1, a
            repeated slice, or exam labels that vary within an exam.
    """
    if not path.is_file():
        raise UserError(f"File not found: {shown(path)}. Expected a CSV with the columns of train.csv.")
    try:
        table = pd.read_csv(path, dtype={name: str for name in (STUDY, SOP)}, encoding="utf-8-sig")
    except ValueError as fault:  # pandas' EmptyDataError and ParserError, and UnicodeDecodeError
        raise UserError(
            f"Not a CSV table: {shown(path)}. Expected a CSV with the columns of train.csv, got: "
            f"{' '.join(str(fault).split())}"
        ) from fault
    missing = [name for name in (STUDY, SOP, SLICE_LABEL, *EXAM_LABELS) if name not in table]
    if missing:
        raise UserError(
            f"Columns missing: {shown(path)}: {', '.join(missing)}. Expected those of train.csv: "
            f"{', '.join(TRAIN_COLUMNS)}"
        )
    exams = table[[STUDY, *EXAM_LABELS]].drop_duplicates()
    faults = _truth_faults(table, exams)
    if faults:
        raise UserError.listing(f"Unusable truth: {shown(path)}:", faults)
    return Truth(exams.reset_index(drop=True), table[[STUDY, SOP, SLICE_LABEL]])


def _truth_faults(table: pd.DataFrame, exams: pd.DataFrame) -> list[str]:
    """The faults of a table of labels; `exams` are its distinct rows of exam labels."""
    faults = [
        f"{name}: values other than 0 and 1"
        for name in (SLICE_LABEL, *EXAM_LABELS)
        if not table[name].isin([0, 1]).all()
    ]
    if table.empty:
        faults.append("no rows")
    without_uid = np.flatnonzero(table[[STUDY, SOP]].isna().any(axis=1))
    if len(without_uid):
        faults.append(f"{len(without_uid)} rows without {STUDY} or {SOP}, first in line {without_uid[0] + 2}")
    if not exams[STUDY].is_unique:
        faults.append(f"exam labels vary within exam {exams.loc[exams[STUDY].duplicated(), STUDY].iloc[0]}")
    if not table[SOP].is_unique:
        faults.append(f"slice {table.loc[table[SOP].duplicated(), SOP].iloc[0]} occurs twice")
    return faults


def read_predictions(path: Path, truth: Truth) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a submission for the exams of the truth, as exam and slice tables; other rows are not checked.

    Raises:
        UserError: ids of the truth that are missing, repeated or without a probability.
    """
    rows = read_rows(path)
    values = pd.Series(pd.to_numeric(rows["label"], errors="coerce").to_numpy(float), index=pd.Index(rows["id"]))
    needed = submission_ids(truth.slices)
    values = values[values.index.isin(needed)]
    invalid = values.index[~((values >= 0) & (values <= 1)).to_numpy()]
    ids_by_fault = {
        "missing": needed[~needed.isin(values.index)],
        "given twice": needed[needed.isin(values.index[values.index.duplicated()])],
        "without a probability in [0, 1]": needed[needed.isin(invalid)],
    }
    faults = [f"{len(ids)} ids {fault}, e.g. {ids[0]}" for fault, ids in ids_by_fault.items() if len(ids)]
    if faults:
        next_step = f"List all faults: ./run.sh check-submission {shown(path)} --data DIR"
        raise UserError.listing(f"Submission cannot be scored: {shown(path)}:", faults, next_step)
    return to_tables(values, truth.slices)


def pe_score(exams: pd.DataFrame) -> np.ndarray:
    """(rows,) the score of PE: 1 - P(negative) - P(indeterminate)."""
    return 1.0 - exams[NEGATIVE].to_numpy(float) - exams[INDETERMINATE].to_numpy(float)


def score(
    truth: Truth, exams: pd.DataFrame, slices: pd.DataFrame, *, counts: np.ndarray | None = None, seed: int = 0
) -> Score:
    """Score predictions; both tables may be in any order and have more exams than the truth.

    Args:
        truth: the labels.
        exams: STUDY and the nine labels.
        slices: SOP and `label`.
        counts: (resamples, exams of the truth in its order) from `resample_counts`; None: no intervals.
        seed: of the calibration's simulated null.

    Raises:
        UserError: predictions are missing, repeated, NaN or outside [0, 1].
    """
    parts = contributions(truth.exams, truth.slices, exams, slices)
    metric = score_of(parts)
    counts = np.zeros((0, len(truth.exams)), dtype=np.int32) if counts is None else counts
    sums = {name: (parts[f"{name}_loss"].to_numpy(), parts[f"{name}_weight"].to_numpy()) for name in ("exam", "image")}
    loss, weight = (sums["exam"][column] + sums["image"][column] for column in (0, 1))
    positive = is_positive(truth)
    pe_scores = pe_score(exams.set_index(STUDY).reindex(truth.exams[STUDY]))
    ranked = {
        "slice": _ranked_slices(truth, positive, slices),
        "exam": RankedScores(pe_scores, positive, np.arange(len(positive))),
    }
    resampled_auc = {name: scores.resampled_auc(counts) for name, scores in ranked.items()}
    return Score(
        exams=len(truth.exams),
        positive_exams=int(positive.sum()),
        slices=len(truth.slices),
        total=ratio_interval(loss, weight, counts),
        exam_part=metric.exam,
        image_part=metric.image,
        exam_interval=ratio_interval(*sums["exam"], counts),
        image_interval=ratio_interval(*sums["image"], counts),
        image_share=metric.image_share,
        labels=metric.labels,
        slice_auc=interval(ranked["slice"].auc(), resampled_auc["slice"]),
        exam_auc=interval(ranked["exam"].auc(), resampled_auc["exam"]),
        calibration=calibration(np.clip(pe_scores, 0, 1), positive, seed=seed),
        loss=loss,
        weight=weight,
        parts=sums,
        resampled_auc=resampled_auc,
        pe_scores=pe_scores,
        positive=positive,
    )


def is_positive(truth: Truth) -> np.ndarray:
    """(exams,) whether any slice of the exam shows PE, in the order of the truth's exams."""
    with_pe = truth.slices.loc[truth.slices[SLICE_LABEL] > 0.5, STUDY].unique()
    return truth.exams[STUDY].isin(with_pe).to_numpy(bool)


def differences(first: Score, second: Score, counts: np.ndarray) -> dict[str, Interval]:
    """`first` minus `second` for the metric, its two parts and the two AUCs, with paired intervals.

    Args:
        first, second: scores against the same truth with the same `counts`; the metric and its parts are losses.
        counts: (resamples, exams) the resamples of both scores.

    Returns:
        figure -> interval of the difference.
    """
    result = {"metric": paired_difference(first.loss, second.loss, first.weight, counts)}
    for name, (loss, weight) in first.parts.items():
        result[f"{name} part"] = paired_difference(loss, second.parts[name][0], weight, counts)
    for name, auc in (("slice", "slice_auc"), ("exam", "exam_auc")):
        value = getattr(first, auc).value - getattr(second, auc).value
        result[f"{name} AUC"] = interval(value, first.resampled_auc[name] - second.resampled_auc[name])
    return result


def _ranked_slices(truth: Truth, positive: np.ndarray, slices: pd.DataFrame) -> RankedScores:
    """The slices of exams with PE; slices of other exams have no weight in the metric."""
    studies = pd.Index(truth.exams[STUDY])
    exam_of = studies.get_indexer(truth.slices[STUDY])
    in_positive_exam = positive[exam_of]
    scored = truth.slices[in_positive_exam]
    rows = pd.Index(slices[SOP]).get_indexer(scored[SOP])
    probability = slices["label"].to_numpy(float)[rows]
    return RankedScores(probability, scored[SLICE_LABEL].to_numpy(float), exam_of[in_positive_exam])


def prepared_truth(exams: pd.DataFrame, slices: pd.DataFrame) -> Truth:
    """The labels of the training exams of the prepared tables, for scoring out-of-fold predictions."""
    exams, slices = exams[exams["split"] == "train"], slices[slices["split"] == "train"]
    return Truth(
        exams[[STUDY, *EXAM_LABELS]].reset_index(drop=True), slices[[STUDY, SOP, SLICE_LABEL]].reset_index(drop=True)
    )


def score_file(path: Path, truth_path: Path, *, bootstrap: int = 1000, seed: int = 31) -> Score:
    """Score a submission file against a truth file; exams that are not in the truth are left out.

    Args:
        path: the submission.
        truth_path: labels in the columns of train.csv.
        bootstrap: number of resamples of exams.
        seed: of the resamples and of the calibration's null.

    Raises:
        UserError: unusable truth or submission.
    """
    truth = read_truth(truth_path)
    exams, slices = read_predictions(path, truth)
    return score(truth, exams, slices, counts=resample_counts(len(truth.exams), bootstrap, seed), seed=seed)


def describe(result: Score) -> str:
    """A score as text: the metric, its parts, its labels, the two AUCs and the calibration."""
    check = result.calibration
    lines = [
        f"metric        {result.total}   (lower is better; 95 % by bootstrap over {result.exams} exams)",
        f"  exam part   {result.exam_interval}   ({1 - result.image_share:.1%} of the weight)",
        *(f"    {LABEL_TITLES[label]:<22}{loss:.4f}" for label, loss in result.labels.items()),
        f"  image part  {result.image_interval}   ({result.image_share:.1%} of the weight, {result.slices} slices)",
        f"slice AUC     {result.slice_auc}   (slices of the {result.positive_exams} exams with PE)",
        f"exam AUC      {result.exam_auc}   (PE: 1 - P(negative) - P(indeterminate))",
        f"P(PE)         ECE {check.ece:.4f} (null {check.null:.4f}, its 95th percentile {check.null_high:.4f}), "
        f"Brier {check.brier:.4f}",
    ]
    return "\n".join(lines)
