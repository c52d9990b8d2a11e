"""The contest's metric, a weighted log loss (lower is better), with its parts and cheap resampling.

    numerator     over exams: the label losses times EXAM_WEIGHTS, plus IMAGE_WEIGHT * q * its slices' losses
    denominator   over exams: the sum of EXAM_WEIGHTS, plus IMAGE_WEIGHT * its number of positive slices

q is an exam's share of positive slices, so the slices of exams without PE weigh nothing, and the
denominator is what the weights sum up to. Source: the contest's evaluation page.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute as arrow

from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, SLICE_LABEL, SOP, STUDY
from pipeline.errors import UserError

#: Probabilities are clipped this far from 0 and 1, so that a sure error stays finite.
CLIP = 1e-15


@dataclass(frozen=True)
class Score:
    """One score and its breakdown; total = image_share * image + (1 - image_share) * exam.

    `image` and `exam` are the weighted means of their own terms; `labels` the plain mean log loss of
    every exam label.
    """

    total: float
    image: float
    exam: float
    image_share: float
    labels: dict[str, float]


def log_loss(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Binary cross-entropy, elementwise, of 0/1 truth and probabilities in [0, 1]."""
    probability = np.clip(np.asarray(probability, dtype=float), CLIP, 1 - CLIP)
    return -np.log(np.where(np.asarray(truth) > 0.5, probability, 1 - probability))


def contest_score(
    truth_exams: pd.DataFrame, truth_slices: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame
) -> Score:
    """Score predictions against the truth; the arguments are those of `contributions`."""
    return score_of(contributions(truth_exams, truth_slices, exams, slices))


def contributions(
    truth_exams: pd.DataFrame, truth_slices: pd.DataFrame, exams: pd.DataFrame, slices: pd.DataFrame
) -> pd.DataFrame:
    """Each exam's share of the metric's sums, so that resampling exams is a matter of adding rows.

    Args:
        truth_exams: StudyInstanceUID and the nine labels, a row an exam.
        truth_slices: StudyInstanceUID, SOPInstanceUID and pe_present_on_image, every slice of these exams.
        exams: StudyInstanceUID and nine probabilities; further exams are ignored.
        slices: SOPInstanceUID and `label`, the probability; further slices are ignored.

    Returns:
        Index StudyInstanceUID (order of `truth_exams`); columns `exam_loss`, `exam_weight`, `image_loss`,
        `image_weight` (numerators and denominators of the two parts) and each label's log loss.

    Raises:
        UserError: missing or repeated keys, NaN, or a probability outside [0, 1]; all at once.
    """
    faults: list[str] = []
    rows = _rows_of(exams, truth_exams, STUDY, list(EXAM_LABELS), "exam", faults)
    slice_rows = _rows_of(slices, truth_slices, SOP, ["label"], "slice", faults)
    found = arrow.index_in(_keys(truth_slices[STUDY]), value_set=_keys(truth_exams[STUDY]))
    exam_of_slice = found.fill_null(-1).to_numpy(zero_copy_only=False)
    if (exam_of_slice < 0).any():
        faults.append(f"{(exam_of_slice < 0).sum()} slices of the truth belong to no exam of the truth")
    if faults:
        raise UserError.listing("These predictions cannot be scored:", faults)
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
    """Add the contributions of any exams, drawn once or repeatedly, into a score."""
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
    """Totals of `resamples` draws of exams with replacement, (resamples,).

    The same seed and number of exams draw the same exams, so two candidates compare pairwise.
    """
    generator = np.random.default_rng(seed)
    loss = (parts["exam_loss"] + parts["image_loss"]).to_numpy()
    weight = (parts["exam_weight"] + parts["image_weight"]).to_numpy()
    drawn = generator.integers(0, len(parts), (resamples, len(parts)))
    return loss[drawn].sum(axis=1) / weight[drawn].sum(axis=1)


def _rows_of(
    predicted: pd.DataFrame, truth: pd.DataFrame, key: str, columns: list[str], what: str, faults: list[str]
) -> np.ndarray:
    """For every row of the truth, the row of the prediction with its key; faults are collected."""
    missing = [column for column in (key, *columns) if column not in predicted.columns]
    if missing:
        faults.append(f"the {what} predictions lack the columns {', '.join(missing)}")
        return np.empty(0, dtype=int)
    given, wanted = _keys(predicted[key]), _keys(truth[key])
    for name, table, keys in (("predictions", predicted, given), ("truth", truth, wanted)):
        if repeated := len(keys) - len(keys.unique()):
            example = table[key][table[key].duplicated()].iloc[0]
            faults.append(f"{repeated} repeated {what} keys in the {name}, e.g. {example}")
    rows = arrow.index_in(wanted, value_set=given).fill_null(-1).to_numpy(zero_copy_only=False)
    if (rows < 0).any():
        faults.append(f"{(rows < 0).sum()} {what}s have no prediction, e.g. {truth[key].to_numpy()[rows < 0][0]}")
    for column in columns:
        values = predicted[column].to_numpy(dtype=float)[rows[rows >= 0]]
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            faults.append(f"{bad.sum()} {what} values of {column} are not in [0, 1], e.g. {values[bad][0]}")
    return rows


def _keys(column: pd.Series) -> pa.Array:
    """UIDs as an Arrow array: its hash join takes a fraction of the time of a pandas index."""
    keys = pa.array(column.astype("str"))
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    return keys.cast(pa.large_string())
