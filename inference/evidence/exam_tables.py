"""The tables of an exam's page as rows for the template: labels, findings, measurements, quality, contributions."""

from typing import Any

import numpy as np
import pandas as pd

from inference.evidence.exam_cases import ExamCase
from inference.evidence.feature_contributions import Contributions
from inference.evidence.reliability import Reliability
from inference.evidence.svg_charts import bar, signed_bar
from inference.finding_text import REPORT_THRESHOLD, describe_finding
from inference.measurement_titles import MEASUREMENT_TITLES
from input.contest import EXAM_LABELS, LABEL_TITLES, SOP

#: Prefix of a structure's columns with the end points of its diameter -> the column with the diameter.
DIAMETERS = {"rv": "rv_mm", "lv": "lv_mm", "trunk": "pulmonary_trunk_mm", "aorta": "ascending_aorta_mm"}
#: Ratio's column -> the column with its confidence, if there is one.
RATIOS = {"rv_lv_ratio_measured": "rv_lv_confidence", "trunk_aorta_ratio": ""}
#: Numbers on the quality of the series: column, title, unit.
QUALITY = (
    ("vessel_hu", "vessel enhancement", "HU"),
    ("noise_hu", "noise", "HU"),
    ("contrast_to_noise", "contrast-to-noise ratio", ""),
    ("motion_edge_flicker", "motion of the lung edges", ""),
    ("slice_step_mm", "slice spacing", "mm"),
    ("lung_height_mm", "lung height", "mm"),
)
#: A number outside these quantiles of the training exams is unusual.
UNUSUAL = (0.02, 0.98)
#: Feature contributions that are listed.
STRONGEST = 8


def label_rows(case: ExamCase, reliability: Reliability) -> list[dict[str, Any]]:
    """One row per exam label: probability, truth where known, and the outcome of similar out-of-fold exams."""
    rows = []
    for label in EXAM_LABELS:
        probability = case.labels[label]
        rows.append(
            {
                "title": LABEL_TITLES[label],
                "probability": probability,
                "yes": probability > 0.5,
                "heat": round(10 * min(1.0, max(0.0, probability))),
                "bar": bar(probability),
                "similar": reliability.similar(label, probability, case.name),
                "truth": None if case.truth is None else case.truth[label],
            }
        )
    return rows


def finding_rows(case: ExamCase, slices: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per finding above the report threshold, with the row of its key slice among the stored ones.

    Args:
        case: the exam.
        slices: its stored slices, in the order of the store.
    """
    row_of = {sop: row for row, sop in enumerate(slices[SOP])}
    return [
        {"text": describe_finding(finding), "plane": row_of.get(finding.sop)}
        for finding in case.findings
        if finding.probability >= REPORT_THRESHOLD
    ]


def diameter_lines(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Measured diameters as lines for the viewer, in stored pixels; structures that were not measured are omitted."""
    lines = []
    for part, column in DIAMETERS.items():
        plane, *points = (_finite(numbers.get(f"{part}_{name}")) for name in ("plane", "y0", "x0", "y1", "x1"))
        known_points = [round(point, 1) for point in points if point is not None]
        if plane is None or plane < 0 or len(known_points) < len(points):
            continue
        length, title = _finite(numbers.get(column)), MEASUREMENT_TITLES[column]
        text = title if length is None else f"{title} {length:.0f} mm"
        lines.append({"part": part, "name": text, "plane": int(plane), "points": known_points})
    return lines


def measurement_rows(numbers: dict[str, Any], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per measured diameter and ratio.

    Args:
        numbers: the exam's row of the store's exam table.
        lines: from `diameter_lines`.
    """
    plane_of = {line["part"]: line["plane"] for line in lines}
    rows = []
    for part, column in DIAMETERS.items():
        length = _finite(numbers.get(column))
        if length is not None:
            title = MEASUREMENT_TITLES[column]
            rows.append({"title": title, "value": f"{length:.1f} mm", "plane": plane_of.get(part)})
    for column, confidence_column in RATIOS.items():
        ratio = _finite(numbers.get(column))
        if ratio is not None:
            confidence = _finite(numbers.get(confidence_column))
            value = f"{ratio:.2f}" + (f" (confidence {confidence:.2f})" if confidence is not None else "")
            rows.append({"title": MEASUREMENT_TITLES[column], "value": value, "plane": None})
    return rows


def quality_rows(numbers: dict[str, Any], training: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per quality number, with its percentile among the training exams.

    Args:
        numbers: the exam's row of the store's exam table.
        training: the same numbers of the training exams.
    """
    rows = []
    for column, title, unit in QUALITY:
        value = _finite(numbers.get(column))
        if value is None:
            continue
        known = training[column].dropna().to_numpy(float) if column in training else np.zeros(0)
        quantile = float(np.mean(known < value) + np.mean(known == value) / 2) if len(known) else None
        rows.append(
            {
                "title": title,
                "value": f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:.0f} {unit}".strip(),
                "percentile": None if quantile is None else round(100 * quantile),
                "unusual": quantile is not None and not UNUSUAL[0] <= quantile <= UNUSUAL[1],
            }
        )
    return rows


def contribution_rows(contributions: Contributions | None) -> list[dict[str, Any]]:
    """One row per strong feature contribution; none for candidates without features."""
    if contributions is None:
        return []
    strongest = contributions.strongest(STRONGEST)
    largest = max((abs(part) for _, part, _ in strongest), default=0.0)
    return [
        {"name": name, "part": part, "value": value, "bar": signed_bar(part, largest)}
        for name, part, value in strongest
    ]


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
