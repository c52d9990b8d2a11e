"""A case becomes what the template shows: rows, charts and texts, with the pictures apart."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from features.store import StoredExam, is_stored, open_exam
from inference.evidence.exam_cases import Case
from inference.evidence.reliability import Reliability
from inference.evidence.slice_images import Pictures, draw_activation, draw_exam, key_planes
from inference.evidence.svg_charts import bar, signed_bar, slice_curve
from inference.findings import WORTH_TELLING, describe_location
from inference.key_slice_maps import Maps
from input.contest import EXAM_LABELS, SOP

#: Measured structures: (part of the column names, what it is, the column with its length).
LINES = (
    ("rv", "right ventricle", "rv_mm"),
    ("lv", "left ventricle", "lv_mm"),
    ("trunk", "pulmonary trunk", "pulmonary_trunk_mm"),
    ("aorta", "ascending aorta", "ascending_aorta_mm"),
)
RATIOS = (
    ("rv_lv_ratio_measured", "RV / LV", "rv_lv_confidence"),
    ("trunk_aorta_ratio", "pulmonary trunk / aorta", ""),
)
#: Numbers on the series' quality: column, words, unit.
QUALITY = (
    ("vessel_hu", "contrast in the vessels", "HU"),
    ("noise_hu", "noise", "HU"),
    ("contrast_to_noise", "contrast to noise", ""),
    ("motion_edge_flicker", "motion of the lungs' edge", ""),
    ("slice_step_mm", "slice distance", "mm"),
    ("lung_height_mm", "height of the lungs", "mm"),
)
UNUSUAL = (0.02, 0.98)  # outside these quantiles of the training exams a number is called unusual
STRONGEST = 8
KEYS = 5  # key slices, beside those with a measured line or an activation map
SUSPECT = 0.5  # of a slice probability: what counts as a suspicious slice


@dataclasses.dataclass(frozen=True)
class ExamPage:
    """What the template needs of one exam; `data` is for the script, `pictures` may be missing."""

    number: int
    case: Case
    rank_text: str
    labels: list[dict[str, Any]]
    chips: list[str]
    summary: str
    places: list[dict[str, Any]]
    curve: Markup
    measured: list[dict[str, str]]
    quality: list[dict[str, Any]]
    moved: list[dict[str, Any]]
    pictures: Pictures | None
    data: dict[str, Any]
    search: str

    @property
    def key(self) -> str:
        """The page's hash."""
        return f"exam-{self.number}"


@dataclasses.dataclass(frozen=True)
class Context:
    """What all exam pages share.

    Attributes:
        store: where the pixels are.
        reliability: of every label, out of fold.
        training: measured numbers of the training exams.
        budget: characters that an exam's pictures may take.
        activations: name -> store row -> activation map (y, x) in [0, 1].
    """

    store: Path
    reliability: Reliability
    training: pd.DataFrame
    budget: float
    activations: Maps = dataclasses.field(default_factory=dict)


def exam_page(number: int, case: Case, context: Context) -> ExamPage:
    """Gather one page and draw its pictures."""
    exam = _opened(context.store, case)
    slices = _stored_slices(case, exam)
    probability = slices["label"].to_numpy(float)
    lines = _lines(case.numbers)
    overlays = context.activations.get(case.name, {})
    keys = sorted({*_keys(slices), *overlays})
    drawn = sorted({*keys, *(each["plane"] for each in lines if each["plane"] < len(slices))})
    pictures = draw_exam(exam, drawn, context.budget) if exam else None
    quality = _quality(case.numbers, context.training)
    chips = [*case.flags, *(f"unusual: {each['name']}" for each in quality if each["unusual"])]
    lost = int((case.slices["quarantine"] != "").sum())
    chips += [f"{lost} unreadable slices"] if lost else []
    chips += ["lungs not found"] if case.numbers.get("lungs_found") == 0 else []
    chips += ["no pixels stored"] if exam is None else []
    data = {
        "planes": pictures.planes if pictures else [],
        "keys": keys,
        "z": [round(float(each), 1) if np.isfinite(each) else None for each in slices["z_mm"]],
        "p": [round(float(each), 4) if np.isfinite(each) else None for each in probability],
        "sop": slices[SOP].tolist(),
        "lines": lines,
        "images": pictures.images if pictures else [],
        "overlays": {str(plane): draw_activation(each) for plane, each in overlays.items()},
        "start": int(np.nanargmax(probability)) if np.isfinite(probability).any() else 0,
    }
    truth = slices["truth"].to_numpy(float) > 0.5 if "truth" in slices else None
    return ExamPage(
        number=number,
        case=case,
        rank_text=f"{case.risk:.3f}",
        labels=_labels(case, context.reliability),
        chips=chips,
        summary=range_text(probability, slices["z_mm"].to_numpy(float)),
        places=_places(case, slices),
        curve=slice_curve(probability, keys, truth),
        measured=_measured(case.numbers, lines),
        quality=quality,
        moved=_moved(case),
        pictures=pictures,
        data=data,
        search=" ".join([case.title, case.role, *chips, *(name for name in EXAM_LABELS if case.labels[name] > 0.5)]),
    )


def key_rows(store: Path, case: Case, count: int) -> list[int]:
    """Rows in the store of a case's likeliest key slices; none where it is not stored."""
    exam = _opened(store, case)
    return _keys(_stored_slices(case, exam), count) if exam else []


def _opened(store: Path, case: Case) -> StoredExam | None:
    return open_exam(store, case.name) if is_stored(store, case.name) else None


def _keys(slices: pd.DataFrame, count: int = KEYS) -> list[int]:
    z_mm = slices["z_mm"].to_numpy(float)
    known = np.isfinite(z_mm).all()
    z_mm = z_mm if known else np.arange(len(z_mm), dtype=float)
    return key_planes(slices["label"].to_numpy(float), z_mm, count=count)


def _stored_slices(case: Case, exam: StoredExam | None) -> pd.DataFrame:
    """The case's slices in the order of the stored planes; of an exam that is not stored, all of them.

    Where the source has lost the lengths, z is a rank: no mm are told.
    """
    if exam is None:
        return case.slices.reset_index(drop=True)
    slices = case.slices.set_index(SOP).reindex(list(exam.sop_uids)).rename_axis(SOP).reset_index()
    return slices if exam.has_spacing else slices.assign(z_mm=np.nan)


def _labels(case: Case, found: Reliability) -> list[dict[str, Any]]:
    rows = []
    for label in EXAM_LABELS:
        probability = case.labels[label]
        similar = found.similar(label, probability, case.name)
        rows.append(
            {
                "name": label,
                "probability": probability,
                "yes": probability > 0.5,
                "heat": round(10 * min(1.0, max(0.0, probability))),
                "bar": bar(probability),
                "similar": similar,
                "truth": None if case.truth is None else case.truth[label],
            }
        )
    return rows


def range_text(probability: np.ndarray, z_mm: np.ndarray) -> str:
    """Runs of neighbouring suspicious slices as a sentence: slice numbers from the feet, and z."""
    suspect = np.nan_to_num(probability, nan=0.0) > SUSPECT
    edges = np.flatnonzero(np.diff(np.r_[0, suspect.astype(int), 0]))
    runs = list(zip(edges[::2], edges[1::2] - 1, strict=True))
    if not runs:
        return f"No slice has a probability of PE above {SUSPECT:g}."
    total = int(suspect.sum())
    parts = [_run(int(first), int(last), z_mm) for first, last in runs]
    shown = "; ".join(parts[:6]) + (f"; and {len(parts) - 6} shorter stretches" if len(parts) > 6 else "")
    return f"{total} of {len(suspect)} slices above {SUSPECT:g}, counted from the feet: {shown}."


def _run(first: int, last: int, z_mm: np.ndarray) -> str:
    numbers = f"slice {first + 1}" if first == last else f"slices {first + 1} to {last + 1}"
    if not np.isfinite(z_mm[[first, last]]).all():
        return numbers
    return (
        f"{numbers} (z {z_mm[first]:.0f} mm)"
        if first == last
        else f"{numbers} (z {z_mm[first]:.0f} to {z_mm[last]:.0f} mm)"
    )


def _places(case: Case, slices: pd.DataFrame) -> list[dict[str, Any]]:
    """The case's places that are worth telling, with the row of each key slice among the stored ones."""
    row_of = {sop: row for row, sop in enumerate(slices[SOP])}
    told = [each for each in case.places if each.probability >= WORTH_TELLING]
    return [{"text": describe_location(each), "plane": row_of.get(each.sop)} for each in told]


def _lines(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Measured diameters as lines in stored pixels; what was not measured has none."""
    found = []
    for part, name, column in LINES:
        place = [_finite(numbers.get(f"{part}_{each}")) for each in ("plane", "y0", "x0", "y1", "x1")]
        length = _finite(numbers.get(column))
        if None not in place and place[0] >= 0:
            text = f"{name} {length:.0f} mm" if length is not None else name
            found.append(
                {"part": part, "name": text, "plane": int(place[0]), "points": [round(p, 1) for p in place[1:]]}
            )
    return found


def _measured(numbers: dict[str, Any], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    plane_of = {each["part"]: each["plane"] for each in lines}
    rows = []
    for part, name, column in LINES:
        length = _finite(numbers.get(column))
        if length is not None:
            rows.append({"name": name, "value": f"{length:.1f} mm", "plane": plane_of.get(part), "part": part})
    for column, name, sure in RATIOS:
        ratio = _finite(numbers.get(column))
        if ratio is not None:
            confidence = _finite(numbers.get(sure)) if sure else None
            value = f"{ratio:.2f}" + (f" (confidence {confidence:.2f})" if confidence is not None else "")
            rows.append({"name": name, "value": value, "plane": None, "part": ""})
    return rows


def _quality(numbers: dict[str, Any], training: pd.DataFrame) -> list[dict[str, Any]]:
    """Each number beside its place among the training exams."""
    rows = []
    for column, name, unit in QUALITY:
        value = _finite(numbers.get(column))
        if value is None:
            continue
        known = training[column].dropna().to_numpy(float) if column in training else np.zeros(0)
        place = float(np.mean(known < value) + np.mean(known == value) / 2) if len(known) else None
        rows.append(
            {
                "name": name,
                "value": f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:.0f} {unit}".strip(),
                "place": None if place is None else round(100 * place),
                "unusual": place is not None and not UNUSUAL[0] <= place <= UNUSUAL[1],
            }
        )
    return rows


def _moved(case: Case) -> list[dict[str, Any]]:
    if case.contributions is None:
        return []
    strongest = case.contributions.strongest(STRONGEST)
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
