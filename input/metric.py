"""The contest's metric, a weighted log loss (lower is better), with its components and fast bootstrapping.

    numerator     sum over exams: EXAM_WEIGHTS * label losses + IMAGE_WEIGHT * q * sum of the slice losses
    denominator   sum over exams: sum of EXAM_WEIGHTS + IMAGE_WEIGHT * number of positive slices

q is an exam's proportion of positive slices, so slices of exams without PE have weight 0. The denominator is the sum
of all weights. Source: the contest's evaluation page.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute as arrow

from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, SLICE_LABEL, SOP, STUDY
from pipeline.errors import UserError

#: Probabilities are clipped to [CLIP, 1 - CLIP], so that the loss stays finite.
CLIP = 1e-15


@dataclass(frozen=True)
class Score:
    """A score and its components: total = image_share * image + (1 - image_share) * exam.

    Attributes:
        total: the contest's metric.
        image: weighted mean log loss of the slices; NaN without positive slices.
        exam: weighted mean log loss of the exam labels.
        image_share: the slices' share of all weights, 0 to 1.
        labels: exam label -> unweighted mean log loss.
    """

    total: float
    image: float
    exam: float
    image_share: float
    labels: dict[str, float]


def log_loss(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Compute the elementwise binary cross-entropy of 0/1 truth and probabilities in [0, 1]."""
    probability = np.clip(np.asarray(probability, dtype=float), CLIP, 1 - CLIP)
    return -np.log(np.where(np.asarray(truth) > 0.5, probability, 1 - probability))


def contest_score(
    truth_exams: pd.DataFrame, truth_slices: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame
) -> Score:
    """Score predictions against the truth; see `contributions` for the arguments and errors."""
    return score_of(contributions(truth_exams, truth_slices, exams, slices))


def contributions(
    truth_exams: pd.DataFrame, truth_slices: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame
) -> pd.DataFrame:
    """Compute each exam's contribution to the sums of the metric, so that exams can be resampled by summing rows.

    Args:
        truth_exams: StudyInstanceUID and the nine labels, one row per exam.
        truth_slices: StudyInstanceUID, SOPInstanceUID and pe_present_on_image of every slice of these exams.
        exams: StudyInstanceUID and the nine probabilities; other exams are ignored.
        slices: SOPInstanceUID and `label`, the probability; other slices are ignored.

    Returns:
        One row per exam, indexed by StudyInstanceUID in the order of `truth_exams`. Columns: `exam_loss`,
        `exam_weight`, `image_loss`, `image_weight` (numerators and denominators of the two parts) and the log loss
        of each label.

    Raises:
        UserError: missing or duplicate keys, NaN, or probabilities outside [0, 1]; all faults are listed.
    """
    faults: list[str] = []
    rows = _rows_of(exams, truth_exams, STUDY, list(EXAM_LABELS), "exam", faults)
    slice_rows = _rows_of(slices, truth_slices, SOP, ["label"], "slice", faults)
    exam_rows = arrow.index_in(_keys(truth_slices[STUDY]), value_set=_keys(truth_exams[STUDY]))
    exam_of_slice = exam_rows.fill_null(-1).to_numpy(zero_copy_only=False)
    if (exam_of_slice < 0).any():
        faults.append(f"{(exam_of_slice < 0).sum()} slices of the ground truth belong to none of its exams")
    if faults:
        raise UserError.listing("The predictions cannot be scored:", faults)
    return _contributions(truth_exams, truth_slices, exams, slices, rows, slice_rows, exam_of_slice)


def _contributions(
    truth_exams: pd.DataFrame,
    truth_slices: pd.DataFrame,
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    rows: np.ndarray,
    slice_rows: np.ndarray,
    exam_of_slice: np.ndarray,
) -> pd.DataFrame:
    labels = {
        label: log_loss(truth_exams[label].to_numpy(), exams[label].to_numpy(dtype=float)[rows])
        for label in EXAM_LABELS
    }
    count = len(truth_exams)
    truth = truth_slices[SLICE_LABEL].to_numpy(dtype=float)
    losses = log_loss(truth, slices["label"].to_numpy(dtype=float)[slice_rows])
    positive = np.bincount(exam_of_slice, truth, minlength=count)
    share = positive / np.maximum(np.bincount(exam_of_slice, minlength=count), 1)
    return pd.DataFrame(
        {
            "exam_loss": sum(EXAM_WEIGHTS[label] * loss for label, loss in labels.items()),
            "exam_weight": np.full(count, sum(EXAM_WEIGHTS.values())),
            "image_loss": IMAGE_WEIGHT * share * np.bincount(exam_of_slice, losses, minlength=count),
            "image_weight": IMAGE_WEIGHT * positive,
            **labels,
        },
        index=pd.Index(truth_exams[STUDY], name=STUDY),
    )


def score_of(parts: pd.DataFrame) -> Score:
    """Sum the contributions of exams, with or without repetition, to a score."""
    exam_weight, image_weight = parts["exam_weight"].sum(), parts["image_weight"].sum()
    exam_loss, image_loss = parts["exam_loss"].sum(), parts["image_loss"].sum()
    weight = exam_weight + image_weight
    return Score(
        total=float((exam_loss + image_loss) / weight),
        image=float(image_loss / image_weight) if image_weight else float("nan"),
        exam=float(exam_loss / exam_weight),
        image_share=float(image_weight / weight),
        labels={label: float(parts[label].mean()) for label in EXAM_LABELS},
    )


def bootstrap_totals(parts: pd.DataFrame, resamples: int, seed: int) -> np.ndarray:
    """Compute the total score of bootstrap resamples of the exams.

    The same seed and number of exams give the same resamples, so two candidates can be compared pairwise.

    Args:
        parts: the table of `contributions`.
        resamples: number of resamples.
        seed: of the random generator.

    Returns:
        (resamples,) total scores.
    """
    generator = np.random.default_rng(seed)
    loss = (parts["exam_loss"] + parts["image_loss"]).to_numpy()
    weight = (parts["exam_weight"] + parts["image_weight"]).to_numpy()
    rows = generator.integers(0, len(parts), (resamples, len(parts)))
    return loss[rows].sum(axis=1) / weight[rows].sum(axis=1)


def _rows_of(
    predicted: pd.DataFrame, truth: pd.DataFrame, key: str, columns: list[str], kind: str, faults: list[str]
) -> np.ndarray:
    """Look up the row of the predictions for every row of the truth.

    Args:
        predicted: the predictions.
        truth: the ground truth.
        key: the column that identifies a row in both tables.
        columns: of the predictions, checked to be probabilities.
        kind: "exam" or "slice", for messages.
        faults: receives the faults of the tables.

    Returns:
        (rows of the truth,) row numbers, -1 without a prediction; empty when the predictions miss a column.
    """
    missing = [column for column in (key, *columns) if column not in predicted.columns]
    if missing:
        faults.append(f"the {kind} predictions are missing the columns {', '.join(missing)}")
        return np.empty(0, dtype=int)
    predicted_keys, truth_keys = _keys(predicted[key]), _keys(truth[key])
    for name, table, keys in (("predictions", predicted, predicted_keys), ("ground truth", truth, truth_keys)):
        if duplicates := len(keys) - len(keys.unique()):
            example = table[key][table[key].duplicated()].iloc[0]
            faults.append(f"{duplicates} duplicate {kind} keys in the {name}, e.g. {example}")
    rows = arrow.index_in(truth_keys, value_set=predicted_keys).fill_null(-1).to_numpy(zero_copy_only=False)
    if (rows < 0).any():
        faults.append(f"{(rows < 0).sum()} {kind}s have no prediction, e.g. {truth[key].to_numpy()[rows < 0][0]}")
    for column in columns:
        values = predicted[column].to_numpy(dtype=float)[rows[rows >= 0]]
        invalid = ~((values >= 0) & (values <= 1))
        if invalid.any():
            faults.append(f"{invalid.sum()} {kind} values of {column} are not in [0, 1], e.g. {values[invalid][0]}")
    return rows


def _keys(column: pd.Series) -> pa.Array:
    """Convert UIDs to an Arrow array, whose hash join is several times faster than a pandas index."""
    keys = pa.array(column.astype("str"))
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    return keys.cast(pa.large_string())
