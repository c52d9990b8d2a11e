"""Findings: ranges of slices where an exam shows PE, each with a key slice, a side and a depth.

Computed from the ensemble's slice probabilities and the networks' outputs for the sides. A finding is a peak of the
smoothed slice probability, extended down to half of its height; its key slice is the peak. Its probability expresses
how likely the networks consider PE there; it is not a radiologist's reading.

    logits, calibration = side_logits(tables), fit_side_calibration(settings)
    findings = locate_findings(exams, slices, logits, calibration, measured.slices)
    findings, maps = add_key_points(settings, paths.store(), findings, folds)    # slower: runs the networks
    print("\\n".join(describe_finding(finding) for finding in findings[study]))
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ensemble.logistic import Logistic
from ensemble.segments import Segments
from inference.side_calibration import SIDES, side_probabilities
from input.contest import CENTRAL, LEFT, RIGHT, SOP, STUDY
from submissions.score import pe_score

SMOOTHING_MM = 4.0
#: A range ends where the probability falls below this share of its peak.
RANGE_SHARE = 0.5
#: Share of the exam's highest peak that a further peak must reach.
MIN_PEAK_SHARE = 0.2
#: Findings per exam, at most.
MAX_FINDINGS = 5
#: If the probabilities of left and right both exceed this, the finding is bilateral.
BILATERAL = 0.7
#: Column of the measured slices: z relative to the top of the lungs, negative below it.
FROM_TOP = "z_from_lung_top_mm"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding of an exam; slices are counted from the feet, 0 is the lowest.

    Attributes:
        first, last, key: the lowest and the highest slice of the range, and its key slice.
        slices: number of slices in the exam.
        sop: SOPInstanceUID of the key slice.
        probability: of PE on the key slice.
        left, right, central: probabilities that the PE is left-sided, right-sided, central; NaN where unknown.
        first_mm, last_mm, key_mm: z of these slices.
        below_top_mm: distance below the top of the lungs of (first, last, key); NaN where unknown.
        point: (y, x) of the key point in stored pixels of the key slice; None if it was not computed.
        point_left_mm: distance of the key point from the patient's midline, positive to the left; NaN without point.
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
        """`left`, `right` or `both`, by the probabilities; empty where unknown."""
        if np.isnan(self.left) or np.isnan(self.right):
            return ""
        if min(self.left, self.right) > BILATERAL:
            return "both"
        return "left" if self.left > self.right else "right"

    @property
    def depth(self) -> str:
        """`central` or `peripheral`; empty where unknown."""
        if np.isnan(self.central):
            return ""
        return "central" if self.central > 0.5 else "peripheral"


def locate_findings(
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    logits: pd.DataFrame,
    calibration: Mapping[str, Logistic],
    measured: pd.DataFrame | None = None,
) -> dict[str, list[Finding]]:
    """Locate the findings of every exam.

    Args:
        exams: STUDY and the nine labels.
        slices: STUDY, SOP, z_mm (NaN where lost) and `label`, the probability of PE on the slice if its exam has PE.
        logits: the networks' logits of the sides, from `inference.side_calibration.side_logits`.
        calibration: of the sides, from `inference.side_calibration.fit_side_calibration`.
        measured: SOP and, where it was measured, z_from_lung_top_mm of stored slices.

    Returns:
        study -> its findings, likeliest first; at least one for every exam with slices.
    """
    pe = pd.Series(np.clip(pe_score(exams), 0, 1), index=exams[STUDY].to_numpy())
    table = slices.sort_values([STUDY, "z_mm"], kind="stable")
    table = table.assign(probability=table["label"].to_numpy(float) * pe.reindex(table[STUDY]).to_numpy(float))
    table[list(SIDES)] = logits.reindex(table[SOP]).to_numpy(float)
    table["below_top_mm"] = np.nan
    if measured is not None and FROM_TOP in measured:
        table["below_top_mm"] = -measured.set_index(SOP)[FROM_TOP].reindex(table[SOP]).to_numpy(float)
    return {
        study: locate_exam_findings(rows.reset_index(drop=True), calibration)
        for study, rows in table.groupby(STUDY, sort=False)
    }


def locate_exam_findings(rows: pd.DataFrame, calibration: Mapping[str, Logistic]) -> list[Finding]:
    """Locate the findings of one exam, likeliest first.

    Args:
        rows: its slices feet to head: SOP, z_mm, probability, one column of logits per side, below_top_mm.
        calibration: of the sides.
    """
    segments = Segments(np.array([0, len(rows)]), rows["z_mm"].to_numpy(float))
    smooth = segments.smooth(rows["probability"].to_numpy(float), SMOOTHING_MM)
    return [_finding(rows, smooth, calibration, *peak) for peak in peaks(smooth)]


def peaks(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Find the peaks of a curve and the ranges down to half of their height.

    Ranges do not overlap. The shoulder that is left where a higher peak's range was cut off is not a peak.

    Args:
        values: (n,) non-negative.

    Returns:
        (first, last, key) of each peak, highest first.
    """
    free = np.ones(len(values), bool)
    ranges: list[tuple[int, int, int]] = []
    for candidate in np.argsort(-values, kind="stable"):
        key = int(candidate)
        if ranges and values[key] < MIN_PEAK_SHARE * values[ranges[0][2]] or len(ranges) == MAX_FINDINGS:
            break
        higher_neighbours = [values[n] > values[key] for n in (key - 1, key + 1) if 0 <= n < len(values)]
        if not free[key] or any(higher_neighbours):
            continue
        first = last = key
        while first > 0 and free[first - 1] and values[first - 1] >= RANGE_SHARE * values[key]:
            first -= 1
        while last + 1 < len(values) and free[last + 1] and values[last + 1] >= RANGE_SHARE * values[key]:
            last += 1
        free[first : last + 1] = False
        ranges.append((first, last, key))
    return ranges


def _finding(
    rows: pd.DataFrame, smooth: np.ndarray, calibration: Mapping[str, Logistic], first: int, last: int, key: int
) -> Finding:
    inside = slice(first, last + 1)
    sides = side_probabilities(rows.iloc[inside], smooth[inside] + 1e-9, calibration)
    z, below = rows["z_mm"].to_numpy(float), rows["below_top_mm"].to_numpy(float)
    return Finding(
        first=first,
        last=last,
        key=key,
        slices=len(rows),
        sop=str(rows[SOP].iat[key]),
        probability=float(smooth[key]),
        left=sides[LEFT],
        right=sides[RIGHT],
        central=sides[CENTRAL],
        first_mm=float(z[first]),
        last_mm=float(z[last]),
        key_mm=float(z[key]),
        below_top_mm=(float(below[first]), float(below[last]), float(below[key])),
    )
