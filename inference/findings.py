"""Where an exam shows PE, for people: ranges of slices, their key slices, side, central or peripheral, a point.

From the slices' probabilities (`ensemble`), the networks' opinions on the sides at each slice, and, for the point,
their activation maps. A range is a peak of the smoothed slice probability down to half of its height; its key slice
is the peak. What is told is how likely a network finds a place, not what a radiologist would say.

    locations = locate_exams(exams, slices, opinions(tables), fit_sides(settings), measured.slices)
    locations, _ = with_points(settings, paths.store(), locations, folds)   # slower: runs the networks
    print("\\n".join(describe_location(each) for each in locations[study]))
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.logistic import Logistic
from ensemble.segments import Segments
from features.store import is_stored, open_exam
from inference.key_point import clot_like, strongest_point
from inference.key_slice_maps import Maps, activation_maps
from inference.side_calibration import SIDES, side_probabilities
from input.contest import SOP, STUDY
from pipeline.settings import Settings
from submissions.score import pe_score

SMOOTH_MM = 4.0
HALF = 0.5  # a range ends where the probability falls below this share of its peak's
LEAST = 0.2  # share of the exam's highest peak that a further peak must reach
MOST = 5  # locations an exam
BOTH = 0.7  # probability of either side from which a range counts as both-sided
TOP = "z_from_lung_top_mm"  # column of measured slices
WORTH_TELLING = 0.1  # probability of a location from which text speaks of it


@dataclasses.dataclass(frozen=True)
class Location:
    """One place of an exam; slices count from the feet, 0 is the lowest.

    Attributes:
        first, last, key: slices of the range, and its likeliest one.
        slices: of the exam.
        sop: SOPInstanceUID of the key slice.
        probability: of PE on the key slice.
        left, right, central: probabilities that PE there is on the side, and central; NaN where no network tells.
        first_mm, last_mm, key_mm: z.
        below_top_mm: (first, last, key) below the lungs' top; NaN where unknown.
        point: (y, x) of the key slice in stored pixels, where it was looked for.
        point_left_mm: how far the point lies from the patient's middle, positive to the left; NaN without point.
    """

    first: int
    last: int
    key: int
    slices: int
    sop: str
    probability: float
    left: float
    right: float
    central: float
    first_mm: float
    last_mm: float
    key_mm: float
    below_top_mm: tuple[float, float, float]
    point: tuple[float, float] | None = None
    point_left_mm: float = np.nan

    @property
    def side(self) -> str:
        """`left`, `right` or `both`, as the probabilities say; empty where unknown."""
        if np.isnan(self.left) or np.isnan(self.right):
            return ""
        if min(self.left, self.right) > BOTH:
            return "both"
        return "left" if self.left > self.right else "right"

    @property
    def depth(self) -> str:
        """`central` or `peripheral`; empty where unknown."""
        return "" if np.isnan(self.central) else "central" if self.central > 0.5 else "peripheral"


def locate_exams(
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    said: pd.DataFrame,
    fitted: Mapping[str, Logistic],
    measured: pd.DataFrame | None = None,
) -> dict[str, list[Location]]:
    """The locations of every exam, likeliest first; at least one an exam with slices.

    Args:
        exams: STUDY and the nine labels.
        slices: STUDY, SOP, z_mm (NaN where lost) and `label`, the probability of PE on the slice if its exam has PE.
        said, fitted: the networks' opinions on the sides and their calibration (`inference.side_calibration`).
        measured: SOP and, where it was measured, z_from_lung_top_mm of stored slices.
    """
    pe = pd.Series(np.clip(pe_score(exams), 0, 1), index=exams[STUDY].to_numpy())
    table = slices.sort_values([STUDY, "z_mm"], kind="stable")
    table = table.assign(probability=table["label"].to_numpy(float) * pe.reindex(table[STUDY]).to_numpy(float))
    table[list(SIDES)] = said.reindex(table[SOP]).to_numpy(float)
    known = measured is not None and TOP in measured
    table["below_top_mm"] = -measured.set_index(SOP)[TOP].reindex(table[SOP]).to_numpy(float) if known else np.nan
    return {study: locate(rows.reset_index(drop=True), fitted) for study, rows in table.groupby(STUDY, sort=False)}


def locate(rows: pd.DataFrame, fitted: Mapping[str, Logistic]) -> list[Location]:
    """The locations of one exam, likeliest first.

    Args:
        rows: its slices feet to head: SOP, z_mm, probability, a logit a side, below_top_mm.
        fitted: the calibration of the sides.
    """
    segments = Segments(np.array([0, len(rows)]), rows["z_mm"].to_numpy(float))
    smooth = segments.smooth(rows["probability"].to_numpy(float), SMOOTH_MM)
    return [_location(rows, smooth, fitted, *each) for each in peaks(smooth)]


def peaks(values: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, last, key) of the peaks of a curve, highest first, each down to half of its height.

    Ranges do not overlap; a peak that only begins where a higher one was cut off is none of its own.
    """
    free = np.ones(len(values), bool)
    found: list[tuple[int, int, int]] = []
    for key in np.argsort(-values, kind="stable"):
        if found and values[key] < LEAST * values[found[0][2]] or len(found) == MOST:
            break
        rises = [values[n] > values[key] for n in (key - 1, key + 1) if 0 <= n < len(values)]
        if not free[key] or any(rises):
            continue
        first = last = int(key)
        while first > 0 and free[first - 1] and values[first - 1] >= HALF * values[key]:
            first -= 1
        while last + 1 < len(values) and free[last + 1] and values[last + 1] >= HALF * values[key]:
            last += 1
        free[first : last + 1] = False
        found.append((first, last, int(key)))
    return found


def _location(
    rows: pd.DataFrame, smooth: np.ndarray, fitted: Mapping[str, Logistic], first: int, last: int, key: int
) -> Location:
    inside = slice(first, last + 1)
    sides = side_probabilities(rows.iloc[inside], smooth[inside] + 1e-9, fitted)
    z, below = rows["z_mm"].to_numpy(float), rows["below_top_mm"].to_numpy(float)
    return Location(
        first, last, key, len(rows), str(rows[SOP].iat[key]), float(smooth[key]), *(sides[side] for side in SIDES),
        float(z[first]), float(z[last]), float(z[key]), (float(below[first]), float(below[last]), float(below[key])),
    )  # fmt: skip


def describe_location(location: Location) -> str:
    """A location as a line of text: where, how likely, which side."""
    low, high, key = location.below_top_mm
    where = f"slices {location.first + 1}-{location.last + 1} of {location.slices} from the feet"
    if location.first == location.last:
        where = f"slice {location.key + 1} of {location.slices} from the feet"
    if np.isfinite([low, high, key]).all():
        # The first slice is the lowest: farthest below the top.
        depth = f"{high:.0f} to {low:.0f}" if low - high >= 1 else f"{key:.0f}"
        where += f" ({depth} mm below the lungs' top)"
    named = {"left": location.left, "right": location.right, "central": location.central}
    sides = ", ".join(f"{name} {value:.2f}" for name, value in named.items() if np.isfinite(value))
    words = ", ".join(word for word in (location.side, location.depth) if word)
    parts = [f"{where}: probability {location.probability:.2f}", words, f"({sides})" if sides else ""]
    text = ", ".join(part for part in parts[:2] if part) + (f" {parts[2]}" if sides else "")
    text += f"; key slice {location.key + 1}" if location.first != location.last else ""
    if np.isfinite(location.point_left_mm):
        text += f", strongest on the patient's {'left' if location.point_left_mm > 0 else 'right'}"
    return text


def describe_locations(locations: Sequence[Location]) -> list[str]:
    """Lines for a study: its locations that are worth telling, or that there is none."""
    lines = [f"place {rank}: {describe_location(each)}" for rank, each in enumerate(locations, 1)]
    kept = [line for line, each in zip(lines, locations, strict=True) if each.probability >= WORTH_TELLING]
    return kept or [f"no slice with a probability of PE of {WORTH_TELLING:g} or more"]


def with_points(
    settings: Settings, store: Path, locations: Mapping[str, Sequence[Location]], folds: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[Location]], Maps]:
    """The same locations with a point in each key slice: where the activation maps are strongest.

    Args:
        settings: of the finished run.
        store: the pixel store with the exams.
        locations: from `locate_exams`; those whose key slice is not stored stay without point.
        folds: exam -> folds whose networks are asked.

    Returns:
        The locations, and the maps of their key slices: exam -> row in the store -> map.
    """
    exams = {study: open_exam(store, study) for study in locations if is_stored(store, study)}
    rows = {study: {sop: row for row, sop in enumerate(exam.sop_uids)} for study, exam in exams.items()}
    planes = {
        study: sorted({rows[study][each.sop] for each in locations[study] if each.sop in rows[study]})
        for study in exams
    }
    maps = activation_maps(settings, store, planes, folds)
    result = {study: list(found) for study, found in locations.items()}
    for study, of_planes in maps.items():
        exam = exams[study]
        candidates = clot_like(exam, planes[study])
        for index, each in enumerate(result[study]):
            row = rows[study].get(each.sop)
            if row in of_planes:
                y, x = strongest_point(of_planes[row], candidates.get(row), exam.hu.shape[1:])
                pixel_mm = exam.spacing_mm[1] if exam.has_spacing else np.nan
                aside = (x + 0.5 - exam.middle_column) * pixel_mm
                result[study][index] = dataclasses.replace(each, point=(y, x), point_left_mm=float(aside))
    return result, maps
