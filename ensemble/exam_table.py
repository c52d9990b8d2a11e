"""Features of an exam from its slices: one row per exam, one column per feature.

Every slice stream (the logits of each network, and their mean) is described by its distribution and its shape along
z, in mm wherever a count would depend on the slice thickness. The auxiliary outputs on exam labels are averaged with
the slice probability as weight: the side of a clot can be read where the clot seems to be.
"""

import warnings

import numpy as np
import pandas as pd

from ensemble.logistic import expit
from ensemble.segments import Segments
from ensemble.view import View
from features.heart_and_vessels import DRAWING_COLUMNS
from input.contest import CENTRAL, GTE_1, LEFT, RIGHT
from models.clot_columns import AREAS, BLOOD_HU, CLOT_HU, OFFSET_MM, PEAK

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
QUANTILES = (0.3, 0.5, 0.75, 0.9, 0.95)
TOP_MM = (6.0, 20.0, 50.0, 100.0)
SMOOTH_MM = 6.0
#: Added to volumes and areas before the logarithm: less clot cannot be seen.
LEAST_MM3, LEAST_MM2 = 30.0, 5.0


def exam_table(view: View) -> pd.DataFrame:
    """Features of every exam of a view, rows in the order of `view.studies`.

    Columns are `<stream>.<feature>` for slice streams, `<label>.<stream>.<feature>` for auxiliary outputs on exam
    labels, `clot.<stream>.<feature>` for the clot maps, and `measured.<name>`. Missing values are NaN. The table is
    kept in the view's cache.
    """
    if "exams" not in view.cache:
        view.cache["exams"] = _exam_table(view)
    return view.cache["exams"]


def _exam_table(view: View) -> pd.DataFrame:
    mean_logit = view.mean_logit()
    streams = {**view.logits, "mean": mean_logit} if len(view.logits) > 1 else {"mean": mean_logit}
    columns: dict[str, np.ndarray] = {}
    for name, logits in streams.items():
        columns |= {f"{name}.{key}": value for key, value in stream_features(view.segments, logits).items()}
    attention = slice_attention(view.segments, mean_logit)
    for label, heads in view.heads.items():
        mean_head = np.mean(list(heads.values()), axis=0)
        for name, logits in {**(heads if len(heads) > 1 else {}), "mean": mean_head}.items():
            features = head_features(view.segments, logits, attention)
            columns |= {f"{label}.{name}.{key}": value for key, value in features.items()}
    columns |= _side_features(view, attention)
    columns |= clot_features(view)
    measured = view.exam_numbers.drop(columns=list(DRAWING_COLUMNS), errors="ignore")  # coordinates, not predictive
    columns |= {f"measured.{name}": measured[name].to_numpy(float) for name in measured}
    for name in view.slice_numbers:
        columns |= _measured_features(view.segments, name, view.slice_numbers[name].to_numpy(float), attention)
    columns["length_mm"] = view.segments.sum(view.segments.thickness)
    columns["slices"] = view.segments.sizes.astype(float)
    return pd.DataFrame(columns)


def clot_features(view: View) -> dict[str, np.ndarray]:
    """Features of the clot maps: `clot.<stream>.<feature>` -> (e,), for every network with a map and for their mean.

    Volumes are logarithms of mm3: burdens differ by orders of magnitude. Slices count for attenuation and offset with
    their area of clot.
    """
    if PEAK not in view.clot:
        return {}
    networks = list(view.clot[PEAK])
    streams = {name: {column: view.clot[column][name] for column in view.clot} for name in networks}
    means = {column: np.mean([view.clot[column][name] for name in networks], axis=0) for column in (*AREAS, PEAK)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a slice without clot has no attenuation
        means |= {
            column: np.nanmean([view.clot[column][name] for name in networks], axis=0)
            for column in (CLOT_HU, BLOOD_HU, OFFSET_MM)
        }
    streams = {**(streams if len(networks) > 1 else {}), "mean": means}
    features: dict[str, np.ndarray] = {}
    for stream, values in streams.items():
        features |= {f"clot.{stream}.{name}": column for name, column in _clot_stream(view.segments, values).items()}
    return features


def _clot_stream(segments: Segments, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    left, right, central, chronic = (values[column].astype(float) for column in AREAS)
    both = left + right
    features: dict[str, np.ndarray] = {}
    for name, area in (("all", both), ("left", left), ("right", right), ("central", central)):
        features[f"{name}_volume"] = np.log(segments.sum(area * segments.thickness) + LEAST_MM3)
        features[f"{name}_area"] = np.log(segments.top_mm(area, (10.0,))[:, 0] + LEAST_MM2)
    features["left_to_right"] = features["left_volume"] - features["right_volume"]
    features["central_share"] = segments.mean(central / (both + LEAST_MM2), both * segments.thickness + 1e-9)
    features["chronic_share"] = segments.mean(chronic / (both + LEAST_MM2), both * segments.thickness + 1e-9)
    features["peak"] = segments.top_mm(values[PEAK].astype(float), (10.0,))[:, 0]
    features["extent_mm"] = segments.extent(values[PEAK] > 0.3)
    for name, column in (("hu", values[CLOT_HU]), ("below_blood", values[BLOOD_HU] - values[CLOT_HU]),
                         ("offset_mm", values[OFFSET_MM])):  # fmt: skip
        known = np.isfinite(column)
        weight = known * (both + LEAST_MM2) * segments.thickness
        mean = segments.mean(np.where(known, column, 0.0), weight + 1e-9)
        features[name] = np.where(segments.max(known.astype(float)) > 0, mean, np.nan)
    return features


def stream_features(segments: Segments, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Distribution and shape along z of one slice stream (n,): name -> (e,)."""
    smooth = segments.smooth(logits, SMOOTH_MM)
    probability = expit(logits)
    features = {"max": segments.max(logits), "smooth_max": segments.max(smooth), "mean": segments.mean(logits)}
    top = segments.top_mm(logits, TOP_MM)
    features |= {f"top_{length:.0f}mm": top[:, i] for i, length in enumerate(TOP_MM)}
    levels = segments.quantiles(logits, QUANTILES)
    features |= {f"p{level * 100:.0f}": levels[:, i] for i, level in enumerate(QUANTILES)}
    # High logits on every slice of an exam are weaker evidence than high logits on a few slices.
    features["contrast"] = features["top_20mm"] - levels[:, QUANTILES.index(0.3)]
    features["spread"] = np.sqrt(np.maximum(segments.mean(logits**2) - features["mean"] ** 2, 0))
    features["expected_mm"] = segments.sum(probability * segments.thickness)
    features["expected_q"] = segments.mean(probability)
    for threshold in THRESHOLDS:
        on = probability > threshold
        features[f"mm_above_{threshold}"] = segments.sum(on * segments.thickness)
    for threshold in (0.3, 0.5, 0.7):
        on = expit(smooth) > threshold
        features[f"run_mm_{threshold}"] = segments.longest_run(on)
        features[f"extent_mm_{threshold}"] = segments.extent(on)
    weight = probability * segments.thickness
    centre = segments.mean(segments.relative_z, weight)
    features["centre_z"] = centre
    features["spread_z"] = np.sqrt(segments.mean((segments.relative_z - centre[segments.owner]) ** 2, weight))
    return features


def slice_attention(segments: Segments, logits: np.ndarray) -> np.ndarray:
    """Weight of each slice for the exam labels, (n,): smoothed odds of PE relative to the exam's highest.

    The weights are relative to the exam's own maximum, so an exam whose probabilities are all low is still read at
    its most suspicious slices.
    """
    smooth = segments.smooth(logits, SMOOTH_MM)
    return np.exp(smooth - segments.max(smooth)[segments.owner]) * segments.thickness


def head_features(segments: Segments, logits: np.ndarray, attention: np.ndarray) -> dict[str, np.ndarray]:
    """Auxiliary output on one exam label, pooled over slices.

    Args:
        segments: n slices of e exams.
        logits: (n,) the auxiliary output.
        attention: (n,) from `slice_attention`.

    Returns:
        name -> (e,), in logits.
    """
    features = {"attended": segments.mean(logits, attention), "mean": segments.mean(logits)}
    features["top_20mm"] = segments.top_mm(logits, (20.0,))[:, 0]
    for name, low, high in (("lower", 0.0, 0.34), ("middle", 0.33, 0.67), ("upper", 0.66, 1.0)):
        inside = (segments.relative_z >= low) & (segments.relative_z <= high)
        features[name] = segments.mean(logits, inside * segments.thickness + 1e-9)
    return features


def _side_features(view: View, attention: np.ndarray) -> dict[str, np.ndarray]:
    """Expected mm of clot on each side and in the centre, and left against right."""
    present = expit(view.mean_logit()) * view.segments.thickness
    features = {}
    for label in (LEFT, RIGHT, CENTRAL, GTE_1):
        logits = view.mean_head(label)
        if logits is not None:
            features[f"{label}.mass_mm"] = view.segments.sum(expit(logits) * present)
            features[f"{label}.top"] = view.segments.max(np.log(expit(logits) * present + 1e-6))
    left, right = view.mean_head(LEFT), view.mean_head(RIGHT)
    if left is not None and right is not None:
        features["left_minus_right"] = view.segments.mean(left - right, attention)
    return features


def _measured_features(
    segments: Segments, name: str, values: np.ndarray, attention: np.ndarray
) -> dict[str, np.ndarray]:
    """A measured number of slices over the exam: mean, highest 20 mm, and mean where PE is suspected.

    A number that is unknown on every slice of an exam is missing for the exam (NaN), never 0.
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
