"""What the slices of an exam say about the exam: one row an exam, a column a number.

Every slice stream (each network, and the mean of all) is described by its distribution and its shape
along z, in mm wherever a count would depend on the slice thickness. Opinions on the exam labels are
averaged with the slice probability as weight: where the clot seems to be, its side can be read.
"""

import numpy as np
import pandas as pd

from ensemble.logistic import expit
from ensemble.predictions import View
from ensemble.segments import Segments
from features.heart_and_vessels import PLACES
from input.contest import CENTRAL, GTE_1, LEFT, RIGHT

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
QUANTILES = (0.3, 0.5, 0.75, 0.9, 0.95)
TOP_MM = (6.0, 20.0, 50.0, 100.0)
SMOOTH_MM = 6.0


def exam_table(view: View) -> pd.DataFrame:
    """Numbers of every exam of a view, rows in the order of `view.studies`.

    Columns are `<stream>.<number>` for slice streams, `<label>.<stream>.<number>` for opinions on exam labels,
    and `measured.<name>`. Missing numbers are NaN. The table is kept in the view's cache.
    """
    if "exams" not in view.cache:
        view.cache["exams"] = _exam_table(view)
    return view.cache["exams"]


def _exam_table(view: View) -> pd.DataFrame:
    streams = {**view.logits, "mean": view.mean_logit()} if len(view.logits) > 1 else {"mean": view.mean_logit()}
    columns: dict[str, np.ndarray] = {}
    for name, values in streams.items():
        columns |= {f"{name}.{key}": value for key, value in stream_numbers(view.segments, values).items()}
    attention = slice_attention(view.segments, view.mean_logit())
    for label in view.heads:
        for name, values in {**view.heads[label], "mean": view.mean_head(label)}.items():
            if len(view.heads[label]) == 1 and name != "mean":
                continue
            numbers = opinion_numbers(view.segments, values, attention)
            columns |= {f"{label}.{name}.{key}": value for key, value in numbers.items()}
    columns |= _side_numbers(view, attention)
    numbers = view.exam_numbers.drop(columns=list(PLACES), errors="ignore")  # where a line lies tells nothing
    columns |= {f"measured.{name}": numbers[name].to_numpy(float) for name in numbers}
    for name in view.slice_numbers:
        columns |= _measured_numbers(view.segments, name, view.slice_numbers[name].to_numpy(float), attention)
    columns["length_mm"] = view.segments.sum(view.segments.thickness)
    columns["slices"] = view.segments.sizes.astype(float)
    return pd.DataFrame(columns)


def stream_numbers(segments: Segments, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Distribution and shape along z of one slice stream: name -> (e,)."""
    smooth = segments.smooth(logits, SMOOTH_MM)
    probability = expit(logits)
    numbers = {"max": segments.max(logits), "smooth_max": segments.max(smooth), "mean": segments.mean(logits)}
    top = segments.top_mm(logits, TOP_MM)
    numbers |= {f"top_{length:.0f}mm": top[:, i] for i, length in enumerate(TOP_MM)}
    levels = segments.quantiles(logits, QUANTILES)
    numbers |= {f"p{level * 100:.0f}": levels[:, i] for i, level in enumerate(QUANTILES)}
    # A network that calls every slice of an exam suspicious says less than one that singles some out.
    numbers["contrast"] = numbers["top_20mm"] - levels[:, QUANTILES.index(0.3)]
    numbers["spread"] = np.sqrt(np.maximum(segments.mean(logits**2) - numbers["mean"] ** 2, 0))
    numbers["expected_mm"] = segments.sum(probability * segments.thickness)
    numbers["expected_q"] = segments.mean(probability)
    for threshold in THRESHOLDS:
        on = probability > threshold
        numbers[f"mm_above_{threshold}"] = segments.sum(on * segments.thickness)
    for threshold in (0.3, 0.5, 0.7):
        on = expit(smooth) > threshold
        numbers[f"run_mm_{threshold}"] = segments.longest_run(on)
        numbers[f"extent_mm_{threshold}"] = segments.extent(on)
    weight = probability * segments.thickness
    centre = segments.mean(segments.relative_z, weight)
    numbers["centre_z"] = centre
    numbers["spread_z"] = np.sqrt(segments.mean((segments.relative_z - centre[segments.owner]) ** 2, weight))
    return numbers


def slice_attention(segments: Segments, logits: np.ndarray) -> np.ndarray:
    """Weight of each slice when an exam label is read from slices, (n,): odds of PE, smoothed, relative to the top.

    Relative to the exam's own top, so that an exam whose probabilities are all low is still read at its likeliest
    slices.
    """
    smooth = segments.smooth(logits, SMOOTH_MM)
    return np.exp(smooth - segments.max(smooth)[segments.owner]) * segments.thickness


def opinion_numbers(segments: Segments, logits: np.ndarray, attention: np.ndarray) -> dict[str, np.ndarray]:
    """An exam label's opinions pooled over slices: name -> (e,), in logits."""
    numbers = {"attended": segments.mean(logits, attention), "mean": segments.mean(logits)}
    numbers["top_20mm"] = segments.top_mm(logits, (20.0,))[:, 0]
    for name, low, high in (("lower", 0.0, 0.34), ("middle", 0.33, 0.67), ("upper", 0.66, 1.0)):
        inside = (segments.relative_z >= low) & (segments.relative_z <= high)
        numbers[name] = segments.mean(logits, inside * segments.thickness + 1e-9)
    return numbers


def _side_numbers(view: View, attention: np.ndarray) -> dict[str, np.ndarray]:
    """Expected mm of clot on each side and in the centre, and left against right."""
    present = expit(view.mean_logit()) * view.segments.thickness
    numbers = {}
    for label in (LEFT, RIGHT, CENTRAL, GTE_1):
        opinion = view.mean_head(label)
        if opinion is not None:
            numbers[f"{label}.mass_mm"] = view.segments.sum(expit(opinion) * present)
            numbers[f"{label}.top"] = view.segments.max(np.log(expit(opinion) * present + 1e-6))
    left, right = view.mean_head(LEFT), view.mean_head(RIGHT)
    if left is not None and right is not None:
        numbers["left_minus_right"] = view.segments.mean(left - right, attention)
    return numbers


def _measured_numbers(
    segments: Segments, name: str, values: np.ndarray, attention: np.ndarray
) -> dict[str, np.ndarray]:
    """A slice's measured number over its exam: mean, highest 20 mm, and where PE is suspected.

    A number that is unknown on every slice of an exam is missing there (NaN), never 0.
    """
    known = np.isfinite(values)
    mean = segments.mean(np.where(known, values, 0.0), known * segments.thickness + 1e-9)
    mean = np.where(segments.max(known), mean, np.nan)
    filled = np.where(known, values, mean[segments.owner])
    return {
        f"measured.{name}.mean": mean,
        f"measured.{name}.top_20mm": segments.top_mm(filled, (20.0,))[:, 0],
        f"measured.{name}.attended": segments.mean(filled, attention),
    }
