"""Features of a slice from its neighbourhood and its exam: one row per slice, one column per feature.

Neighbours are taken by distance in mm, so the features mean the same at any slice thickness.
"""

import numpy as np
import pandas as pd

from ensemble.logistic import expit
from ensemble.view import View

#: Offsets of the neighbours on the mean of all networks; each network's own logits get the nearest ones only.
OFFSETS_MM = (-30.0, -15.0, -7.0, -3.5, 3.5, 7.0, 15.0, 30.0)
NEAR_MM = (-7.0, 7.0)
HALF_WINDOWS_MM = (5.0, 10.0, 20.0, 40.0)


def slice_table(view: View, base: np.ndarray) -> pd.DataFrame:
    """Features of every slice of a view, float32, rows in the view's order.

    Args:
        view: n slices.
        base: (n,) the base model's logit of each slice.
    """
    segments, mean = view.segments, view.mean_logit()
    columns = {
        "base": base,
        "mean": mean,
        "relative_z": segments.relative_z,
        "exam_mm": segments.sum(segments.thickness)[view.owner],
    }
    for offset in OFFSETS_MM:
        columns[f"mean.at{offset:+g}"] = segments.at_offset(mean, offset)
    for half in HALF_WINDOWS_MM:
        columns[f"mean.rolling_mean_{half:g}"] = segments.rolling_mean(mean, half)
        columns[f"mean.rolling_max_{half:g}"] = segments.rolling_max(mean, half)
    columns |= _exam_context(view, mean)
    if len(view.logits) > 1:
        for name, values in view.logits.items():
            columns[name] = values
            columns |= {f"{name}.at{offset:+g}": segments.at_offset(values, offset) for offset in NEAR_MM}
        columns["disagreement"] = np.std(list(view.logits.values()), axis=0)
    columns |= {label: view.mean_head(label) for label in view.heads}
    columns |= {f"measured.{name}": view.slice_numbers[name].to_numpy() for name in view.slice_numbers}
    return pd.DataFrame({name: np.asarray(values, np.float32) for name, values in columns.items()})


def _exam_context(view: View, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Summary of the exam, repeated on its slices, and the slice relative to it."""
    segments = view.segments
    top = segments.top_mm(mean, (6.0, 50.0))
    middle = segments.quantiles(mean, (0.5,))[:, 0]
    rank = np.empty(len(mean))
    rank[segments.ascending(mean)] = np.arange(len(mean))
    rank = (rank - segments.first[view.owner] + 0.5) / segments.sizes[view.owner]
    return {
        "exam.top_6mm": top[view.owner, 0],
        "exam.top_50mm": top[view.owner, 1],
        "exam.median": middle[view.owner],
        "exam.expected_q": segments.mean(expit(mean))[view.owner],
        "below_top": mean - top[view.owner, 0],
        "above_median": mean - middle[view.owner],
        "rank": rank,
    }
