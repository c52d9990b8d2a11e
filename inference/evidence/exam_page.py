"""One exam's page as values for the template: rows, charts, texts, and the data that the page's script reads."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from features.store import StoredExam, is_stored, open_exam
from inference.evidence.exam_cases import ExamCase
from inference.evidence.exam_tables import (
    contribution_rows,
    diameter_lines,
    finding_rows,
    label_rows,
    measurement_rows,
    quality_rows,
)
from inference.evidence.reliability import Reliability
from inference.evidence.slice_images import SliceImages, draw_clot_map, draw_slices, key_planes
from inference.evidence.svg_charts import slice_curve
from inference.finding_text import REPORT_THRESHOLD, describe_burden
from inference.study_text import flag_words
from input.contest import EXAM_LABELS, LABEL_TITLES, SOP

#: Key slices, in addition to those with a diameter or a clot map.
KEY_SLICES = 5
#: Slices with a higher probability are counted in the summary.
SUSPICIOUS = 0.5
#: Ranges of suspicious slices that the summary lists.
LISTED_RANGES = 6


@dataclasses.dataclass(frozen=True)
class ExamPage:
    """Values for the template; `images` is None if no pixels are stored, `data` is read by the script.

    `warnings` are dictionaries with `text` and `alert`, which is false for the reader's own flags.
    """

    number: int
    case: ExamCase
    risk_text: str
    labels: list[dict[str, Any]]
    warnings: list[dict[str, Any]]
    summary: str
    findings: list[dict[str, Any]]
    burden: str
    curve: Markup
    measurements: list[dict[str, Any]]
    quality: list[dict[str, Any]]
    contributions: list[dict[str, Any]]
    images: SliceImages | None
    data: dict[str, Any]
    search: str

    @property
    def key(self) -> str:
        """The page's URL fragment."""
        return f"exam-{self.number}"


@dataclasses.dataclass(frozen=True)
class Context:
    """What all exam pages share.

    Attributes:
        store: the pixel store.
        reliability: of every label, out of fold.
        training: measured numbers of the training exams.
        characters_per_exam: size limit of an exam's images, in characters of base64.
        mapped_slices: key slices of an exam that show its clot map, besides those of its findings.
    """

    store: Path
    reliability: Reliability
    training: pd.DataFrame
    characters_per_exam: float
    mapped_slices: int


def exam_page(number: int, case: ExamCase, context: Context) -> ExamPage:
    """Build one exam's page and draw its images.

    Args:
        number: position in the list of exams, from 1.
        case: the exam.
        context: what all pages share.
    """
    exam = _open_if_stored(context.store, case)
    slices = _stored_slices(case, exam)
    probability = slices["label"].to_numpy(float)
    lines = diameter_lines(case.numbers)
    keys = _key_rows(slices)
    maps = _plane_maps(case, exam, slices, _key_rows(slices, context.mapped_slices))
    keys = sorted({*keys, *maps})
    full_size = sorted({*keys, *(line["plane"] for line in lines if line["plane"] < len(slices))})
    images = draw_slices(exam, full_size, context.characters_per_exam) if exam else None
    quality = quality_rows(case.numbers, context.training)
    warnings = _warnings(case, quality, is_stored=exam is not None)
    truth = slices["truth"].to_numpy(float) > 0.5 if "truth" in slices else None
    return ExamPage(
        number=number,
        case=case,
        risk_text=f"{case.risk:.3f}",
        labels=label_rows(case, context.reliability),
        warnings=warnings,
        summary=describe_suspicious_slices(probability, slices["z_mm"].to_numpy(float)),
        findings=finding_rows(case, slices),
        burden=describe_burden(case.clot) if case.clot else "",
        curve=slice_curve(probability, keys, truth),
        measurements=measurement_rows(case.numbers, lines),
        quality=quality,
        contributions=contribution_rows(case.contributions),
        images=images,
        data=_viewer_data(slices, images, keys, lines, maps),
        search=_search_text(case, [warning["text"] for warning in warnings]),
    )


def _plane_maps(
    case: ExamCase, exam: StoredExam | None, slices: pd.DataFrame, planes: list[int]
) -> dict[int, np.ndarray]:
    """Clot probabilities (y, x) on the stored pixels of some planes and of the findings' key slices."""
    if exam is None or case.clot is None:
        return {}
    row_of = {sop: row for row, sop in enumerate(slices[SOP])}
    shown = [finding for finding in case.findings if finding.probability >= REPORT_THRESHOLD]
    rows = sorted({*planes, *(row_of[finding.sop] for finding in shown)})
    return {row: case.clot.on_stored_plane(row, exam.hu.shape[1:]) for row in rows}


def _open_if_stored(store: Path, case: ExamCase) -> StoredExam | None:
    return open_exam(store, case.name) if is_stored(store, case.name) else None


def _key_rows(slices: pd.DataFrame, count: int = KEY_SLICES) -> list[int]:
    z_mm = slices["z_mm"].to_numpy(float)
    positions = z_mm if np.isfinite(z_mm).all() else np.arange(len(z_mm), dtype=float)
    return key_planes(slices["label"].to_numpy(float), positions, count=count)


def _stored_slices(case: ExamCase, exam: StoredExam | None) -> pd.DataFrame:
    """The exam's slices in the order of the stored planes; all of its slices if it is not stored.

    If the source has lost its spacing, z is only a rank; z_mm is then NaN, so that no millimetres are shown.
    """
    if exam is None:
        return case.slices.reset_index(drop=True)
    slices = case.slices.set_index(SOP).reindex(list(exam.sop_uids)).rename_axis(SOP).reset_index()
    return slices if exam.has_spacing else slices.assign(z_mm=np.nan)


def _warnings(case: ExamCase, quality: list[dict[str, Any]], *, is_stored: bool) -> list[dict[str, Any]]:
    unreadable = int((case.slices["quarantine"] != "").sum())
    alerts = [str(case.acceptance.outcome)] if case.acceptance.reasons else []
    alerts += [f"unusual: {row['title']}" for row in quality if row["unusual"]]
    alerts += [f"{unreadable} unreadable slices"] if unreadable else []
    alerts += ["lungs not found"] if case.numbers.get("lungs_found") == 0 else []
    alerts += [] if is_stored else ["no pixels stored"]
    return [
        *({"text": flag_words(flag), "alert": False} for flag in case.flags),
        *({"text": text, "alert": True} for text in alerts),
    ]


def _viewer_data(
    slices: pd.DataFrame,
    images: SliceImages | None,
    keys: list[int],
    lines: list[dict[str, Any]],
    maps: dict[int, np.ndarray],
) -> dict[str, Any]:
    """JSON values for the script; rows count stored slices from the feet."""
    probability = slices["label"].to_numpy(float)
    return {
        "planes": images.planes if images else [],
        "keys": keys,
        "z": [round(float(z), 1) if np.isfinite(z) else None for z in slices["z_mm"]],
        "p": [round(float(p), 4) if np.isfinite(p) else None for p in probability],
        "sop": slices[SOP].tolist(),
        "lines": lines,
        "images": images.images if images else [],
        "overlays": {str(plane): draw_clot_map(clot) for plane, clot in maps.items()},
        "start": int(np.nanargmax(probability)) if np.isfinite(probability).any() else 0,
    }


def _search_text(case: ExamCase, warnings: list[str]) -> str:
    """Text that the filter of the exam list searches: title, role, warnings, and names of the labels above 0.5."""
    positive = [label for label in EXAM_LABELS if case.labels[label] > 0.5]
    names = [name for label in positive for name in (LABEL_TITLES[label], label.replace("_", " "))]
    return " ".join([case.title, case.role, *warnings, *names])


def describe_suspicious_slices(probability: np.ndarray, z_mm: np.ndarray) -> str:
    """Describe the ranges of neighbouring suspicious slices in a sentence.

    Args:
        probability: (n,) of PE, feet to head; NaN where a slice has none.
        z_mm: (n,) positions; NaN where unknown.
    """
    suspicious = np.nan_to_num(probability, nan=0.0) > SUSPICIOUS
    edges = np.flatnonzero(np.diff(np.r_[0, suspicious.astype(int), 0]))
    ranges = list(zip(edges[::2], edges[1::2] - 1, strict=True))
    if not ranges:
        return f"No slice has a probability of PE above {SUSPICIOUS:g}."
    parts = [_range_text(int(first), int(last), z_mm) for first, last in ranges[:LISTED_RANGES]]
    more = len(ranges) - LISTED_RANGES
    parts += [f"and {more} more ranges"] if more > 0 else []
    return (
        f"{int(suspicious.sum())} of {len(suspicious)} slices have a probability of PE above {SUSPICIOUS:g} "
        f"(counted from the feet): {'; '.join(parts)}."
    )


def _range_text(first: int, last: int, z_mm: np.ndarray) -> str:
    numbers = f"slice {first + 1}" if first == last else f"slices {first + 1} to {last + 1}"
    if not np.isfinite(z_mm[[first, last]]).all():
        return numbers
    if first == last:
        return f"{numbers} (z {z_mm[first]:.0f} mm)"
    return f"{numbers} (z {z_mm[first]:.0f} to {z_mm[last]:.0f} mm)"
