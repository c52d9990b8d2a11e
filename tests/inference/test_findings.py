"""Findings from clot maps: regions, key slices, points, sides, volumes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from inference.clot_maps import VOLUME_THRESHOLD, ClotMap
from inference.finding_text import describe_burden, describe_finding, describe_findings
from inference.findings import find_regions, locate_findings
from inference.lung_vessels import LUMEN_PER_VESSEL
from input.contest import EXAM_LABELS, NEGATIVE, SOP, STUDY

CELL_MM, STEP_MM = 10.0, 5.0


def clot_map(probability: np.ndarray, *, known: bool = True) -> ClotMap:
    """A map of cells of 8 stored pixels, the midline between its two halves."""
    length = CELL_MM if known else np.nan
    to_stored = np.array([[8.0, 0, 3.5], [0, 8.0, 3.5]])
    middle = (probability.shape[2] - 1) / 2
    thickness = np.full(len(probability), STEP_MM if known else np.nan)
    return ClotMap(probability.astype(np.float32), to_stored, length, thickness, middle)


def tables(count: int, p_negative: float = 0.0, label: float = 0.8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Exam and slice tables of one exam."""
    exams = pd.DataFrame([{STUDY: "a", **dict.fromkeys(EXAM_LABELS, 0.0), NEGATIVE: p_negative}])
    slices = pd.DataFrame({STUDY: "a", SOP: [f"s{i}" for i in range(count)], "z_mm": STEP_MM * np.arange(count)})
    return exams, slices.assign(label=label)


def two_clots() -> np.ndarray:
    """A large clot on the patient's left in slices 2 to 4, a small one on the right in slice 8."""
    probability = np.zeros((10, 6, 8))
    probability[2:5, 2, 6] = [0.6, 0.9, 0.6]
    probability[8, 4, 1] = 0.5
    return probability


def test_every_connected_region_is_a_finding_with_key_slice_side_and_point() -> None:
    exams, slices = tables(10)
    first, second = locate_findings(exams, slices, {"a": clot_map(two_clots())})["a"]
    assert (first.key, first.sop, first.side) == (3, "s3", "left")
    assert first.first <= 2 and first.last >= 4
    assert first.point == pytest.approx((2 * 8 + 3.5, 6 * 8 + 3.5))
    assert first.point_left_mm == pytest.approx(25)
    assert (second.key, second.side) == (8, "right")
    assert first.probability > second.probability
    assert 0.3 < first.probability < 0.8 * 0.9  # the map is smoothed along z


def test_the_volume_is_the_sum_of_the_cells() -> None:
    exams, slices = tables(10)
    probability = two_clots()
    probability[6, 0, 0] = VOLUME_THRESHOLD / 2  # cells that are nearly empty do not count
    first, _ = locate_findings(exams, slices, {"a": clot_map(probability)})["a"]
    assert first.volume_ml == pytest.approx(2.1 * CELL_MM**2 / 2 * STEP_MM / 1000, rel=1e-3)
    assert describe_burden(clot_map(probability)) == "clot burden: 0.7 ml (left 0.5, right 0.1)"


def test_the_burden_line_has_the_occluded_share_of_each_lung_where_it_is_known() -> None:
    probability = np.zeros((4, 2, 12))
    probability[1, 0, 11], probability[1, 0, 7] = 0.8, 0.4  # 55 mm and 15 mm left of the midline
    clot = dataclasses.replace(clot_map(probability), vessel_ml=(20.0, np.nan))
    left, right = clot.occluded_shares()
    assert left == pytest.approx(0.2 / (0.2 + 20 * LUMEN_PER_VESSEL)) and np.isnan(right)
    assert describe_burden(clot) == "clot burden: 0.3 ml; left 0.3 ml (1 % of the arteries in the lung), right 0.0 ml"
    both = describe_burden(dataclasses.replace(clot, vessel_ml=(2.0, 2.0)))
    assert both == "clot burden: 0.3 ml; left 0.3 ml (6 % of the arteries in the lung), right 0.0 ml (0 %)"
    assert np.isnan(dataclasses.replace(clot, has_volumes=False).occluded_shares()).all()
    assert np.isnan(dataclasses.replace(clot, cell_mm=np.nan).occluded_shares()).all()


def test_an_exam_without_likely_clot_still_has_one_finding_but_no_text() -> None:
    exams, slices = tables(6, p_negative=0.97)
    findings = locate_findings(exams, slices, {"a": clot_map(np.full((6, 4, 4), 0.01))})["a"]
    assert len(findings) == 1
    assert describe_findings(findings) == ["no slice has a probability of PE of 0.1 or more"]


def test_peaks_that_are_far_enough_apart_divide_a_region() -> None:
    probability = np.array([[[0.02, 0.8, 0.9, 0.5, 0.6, 0.7, 0.02]]])
    regions, peaks = find_regions(probability, (1.0, 0.5, 0.5))
    assert peaks == [(0, 0, 2), (0, 0, 5)]
    assert regions[0, 0].tolist() in ([0, 1, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 2, 0])
    _, (peak,) = find_regions(probability, (1.0, 0.3, 0.3))
    assert peak == (0, 0, 2)


def test_an_exam_without_a_map_has_no_findings() -> None:
    assert locate_findings(*tables(3), {}) == {"a": []}


def test_unknown_lengths_leave_out_millimetres() -> None:
    exams, slices = tables(10)
    finding = locate_findings(exams, slices.assign(z_mm=np.nan), {"a": clot_map(two_clots(), known=False)})["a"][0]
    text = describe_finding(finding)
    assert "mm" not in text and "ml" not in text
    assert np.isnan(finding.volume_ml)
    assert describe_burden(clot_map(two_clots(), known=False)).endswith("spacing is unknown")
