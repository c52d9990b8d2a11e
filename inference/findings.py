"""Findings: regions where an exam shows PE, each with a range of slices, a key slice, a point, a side and a volume.

Computed from the networks' clot maps and the ensemble's slice probabilities. A finding is a peak of the clot map with
the cells around it; its key slice is that of the peak. Its probability expresses how likely the networks consider PE
there; it is not a radiologist's reading.

    maps = run_clot_maps(settings, studies, folds, role="test")
    findings = locate_findings(exams, slices, maps, measured.slices)
    print("\\n".join(describe_finding(finding) for finding in findings[study]))
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.segmentation import watershed

from inference.clot_maps import ClotMap
from inference.lung_vessels import CENTRAL_MM
from input.contest import SOP, STUDY
from submissions.score import pe_score

#: Standard deviation of the smoothing along z before regions are found.
SMOOTHING_MM = 3.0
#: A finding's highest probability is at least this; weaker findings are reported only if there is no other.
LEAST_PROBABILITY = 0.05
#: Cells of a finding have at least this share of its highest probability.
LEAST_SHARE = 0.25
#: Distance between the peaks of two findings, mm; cells where lengths are unknown.
SEPARATION_MM, SEPARATION_CELLS = 20.0, 2.0
#: Findings per exam, at most.
MAX_FINDINGS = 12
#: Share of a finding's volume on one side from which it counts as one-sided.
ONE_SIDED = 0.8
#: Cells about the strongest one whose centroid is the key point: half the side of the square.
POINT_REACH = 1
#: (plane, row, column) of a clot map.
Cell = tuple[int, int, int]
#: Column of the measured slices: z relative to the top of the lungs, negative below it.
FROM_TOP = "z_from_lung_top_mm"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding of an exam; slices are counted from the feet, 0 is the lowest.

    Attributes:
        first, last, key: the lowest and the highest slice of the region, and its key slice.
        slices: number of slices in the exam.
        sop: SOPInstanceUID of the key slice.
        probability: of PE on the key slice and its neighbours (the highest), times the map's value at the peak.
        volume_ml: expected clot volume; NaN where lengths are unknown, and of networks without clot masks.
        left_share: share of the volume on the patient's left.
        first_mm, last_mm, key_mm: z of these slices.
        below_top_mm: distance below the top of the lungs of (first, last, key); NaN where unknown.
        point: (y, x) of the key point in stored pixels of the key slice.
        point_left_mm: distance of the key point from the patient's midline, positive to the left; NaN where unknown.
    """

    first: int
    last: int
    key: int
    slices: int
    sop: str
    probability: float
    volume_ml: float
    left_share: float
    first_mm: float
    last_mm: float
    key_mm: float
    below_top_mm: tuple[float, float, float]
    point: tuple[float, float]
    point_left_mm: float

    @property
    def side(self) -> str:
        """`left`, `right` or `both`."""
        if min(self.left_share, 1 - self.left_share) > 1 - ONE_SIDED:
            return "both"
        return "left" if self.left_share > 0.5 else "right"

    @property
    def depth(self) -> str:
        """`central` or `peripheral`, by the key point's distance from the midline; empty where unknown."""
        if np.isnan(self.point_left_mm):
            return ""
        return "central" if abs(self.point_left_mm) < CENTRAL_MM else "peripheral"


def locate_findings(
    exams: pd.DataFrame, slices: pd.DataFrame, maps: Mapping[str, ClotMap], measured: pd.DataFrame | None = None
) -> dict[str, list[Finding]]:
    """Locate the findings of every exam.

    Args:
        exams: STUDY and the nine labels.
        slices: STUDY, SOP, z_mm (NaN where lost) and `label`, the probability of PE on the slice if its exam has PE.
        maps: study -> clot map, planes feet to head as in `slices`.
        measured: SOP and, where it was measured, z_from_lung_top_mm of stored slices.

    Returns:
        study -> its findings, likeliest first; at least one for every exam with a map, none for others.
    """
    pe = pd.Series(np.clip(pe_score(exams), 0, 1), index=exams[STUDY].to_numpy())
    table = slices.sort_values([STUDY, "z_mm"], kind="stable")
    table = table.assign(probability=table["label"].to_numpy(float) * pe.reindex(table[STUDY]).to_numpy(float))
    table["below_top_mm"] = np.nan
    if measured is not None and FROM_TOP in measured:
        table["below_top_mm"] = -measured.set_index(SOP)[FROM_TOP].reindex(table[SOP]).to_numpy(float)
    return {
        study: locate_exam_findings(rows.reset_index(drop=True), maps[study]) if study in maps else []
        for study, rows in table.groupby(STUDY, sort=False)
    }


def locate_exam_findings(rows: pd.DataFrame, clot: ClotMap) -> list[Finding]:
    """Locate the findings of one exam, likeliest first.

    Args:
        rows: its stored slices feet to head: SOP, z_mm, probability, below_top_mm.
        clot: its clot map.
    """
    smooth = _smoothed(clot)
    regions, peaks = find_regions(smooth, _cell_size(clot))
    boxes = ndimage.find_objects(regions)
    findings = [
        _finding(rows, clot, smooth, regions[boxes[number]] == number + 1, boxes[number], peak)
        for number, peak in enumerate(peaks)
    ]
    return sorted(findings, key=lambda finding: -finding.probability)[:MAX_FINDINGS]


def find_regions(probability: np.ndarray, cell_size: tuple[float, float, float]) -> tuple[np.ndarray, list[Cell]]:
    """Divide a clot map into the regions of its peaks.

    Args:
        probability: (z, rows, columns), smoothed.
        cell_size: (z, y, x) extent of a cell in units of the distance between peaks, SEPARATION_MM.

    Returns:
        int (z, rows, columns): number of the region from 1, 0 outside; and the peak of each region, highest first.
    """
    reach = [int(np.ceil(1 / size)) for size in cell_size]
    axes = np.ogrid[tuple(slice(-cells, cells + 1) for cells in reach)]
    ball = sum((axis * size) ** 2 for axis, size in zip(axes, cell_size, strict=True)) <= 1
    is_peak = (ndimage.maximum_filter(probability, footprint=ball) == probability) & (probability >= LEAST_PROBABILITY)
    order = np.argsort(-probability[is_peak], kind="stable")
    peaks = [_cell(cell) for cell in np.argwhere(is_peak)[order]]
    if not peaks:
        peaks = [_cell(np.argwhere(probability == probability.max())[0])]
    markers = np.zeros(probability.shape, np.int32)
    for number, peak in enumerate(peaks, start=1):
        markers[peak] = number
    regions = watershed(-probability, markers, connectivity=np.ones((3, 3, 3), bool))
    highest = np.array([0.0, *(probability[peak] for peak in peaks)])
    return np.where(probability >= LEAST_SHARE * highest[regions], regions, 0), peaks


def _cell(index: np.ndarray) -> Cell:
    z, row, column = (int(position) for position in index)
    return z, row, column


def _cell_size(clot: ClotMap) -> tuple[float, float, float]:
    """(z, y, x) extent of a cell in units of the least distance between peaks."""
    step = float(np.median(clot.thickness_mm))
    if not np.isfinite([step, clot.cell_mm]).all():
        return (1 / SEPARATION_CELLS,) * 3
    return step / SEPARATION_MM, clot.cell_mm / SEPARATION_MM, clot.cell_mm / SEPARATION_MM


def _smoothed(clot: ClotMap) -> np.ndarray:
    step = float(np.median(clot.thickness_mm)) if np.isfinite(clot.thickness_mm).all() else np.nan
    if not np.isfinite(step) or step <= 0 or len(clot.probability) < 2:
        return clot.probability
    return ndimage.gaussian_filter1d(clot.probability, SMOOTHING_MM / step, axis=0, mode="nearest")


def _finding(
    rows: pd.DataFrame, clot: ClotMap, smooth: np.ndarray, inside: np.ndarray, box: tuple[slice, ...], peak: Cell
) -> Finding:
    """Describe one region.

    Args:
        rows, clot: of the exam.
        smooth: the smoothed map.
        inside: bool, the cells of the region within `box`.
        box: where the region lies in the map.
        peak: its highest cell.
    """
    first, last, key = box[0].start, box[0].stop - 1, peak[0]
    row, column = _centroid(smooth[key], peak[1:])
    weight = np.where(inside, smooth[box], 0)
    left_share = float(weight.sum(axis=(0, 1)) @ (np.arange(box[2].start, box[2].stop) > clot.middle) / weight.sum())
    slice_probability = rows["probability"].to_numpy(float)
    z, below = rows["z_mm"].to_numpy(float), rows["below_top_mm"].to_numpy(float)
    return Finding(
        first=first, last=last, key=key, slices=len(rows), sop=str(rows[SOP].iat[key]),
        probability=float(slice_probability[max(0, key - 1) : key + 2].max() * smooth[peak]),
        volume_ml=float(clot.volumes_ml()[box][inside].sum()), left_share=left_share,
        first_mm=float(z[first]), last_mm=float(z[last]), key_mm=float(z[key]),
        below_top_mm=(float(below[first]), float(below[last]), float(below[key])),
        point=clot.stored_point(row, column), point_left_mm=float((column - clot.middle) * clot.cell_mm),
    )  # fmt: skip


def _centroid(plane: np.ndarray, cell: tuple[int, int]) -> tuple[float, float]:
    """(row, column) of the centroid of the cells about one of them."""
    top, left = max(0, cell[0] - POINT_REACH), max(0, cell[1] - POINT_REACH)
    weight = plane[top : cell[0] + POINT_REACH + 1, left : cell[1] + POINT_REACH + 1]
    rows, columns = np.indices(weight.shape)
    return top + float((rows * weight).sum() / weight.sum()), left + float((columns * weight).sum() / weight.sum())
