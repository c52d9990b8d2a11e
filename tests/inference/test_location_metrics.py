"""Location metrics: hits, free-response ROC, volumes, AUCs among exams with PE."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from inference.clot_maps import ClotMap
from inference.location_metrics import (
    ExamLocation,
    _lesions,
    compare_exam,
    found_by_volume,
    free_response,
    label_aucs,
    location_summary,
)
from input.contest import CENTRAL, EXAM_LABELS, LEFT, NEGATIVE, STUDY


def exam_location(scores: list[float], distances: list[float], detected: list[set[int]], lesions: int) -> ExamLocation:
    """One compared exam."""
    sets = tuple(frozenset(lesion) for lesion in detected)
    on_clot = bool(distances and distances[0] == 0)
    volumes = np.linspace(0.5, 1, lesions)
    return ExamLocation("a", lesions, np.array(scores), np.array(distances), sets, on_clot, 1.0, 2.0, volumes)


def test_a_point_is_measured_against_the_clots_in_three_dimensions() -> None:
    mask = np.zeros((5, 20, 30), bool)
    mask[1, 5, 5] = mask[4, 15, 25] = True
    exam = SimpleNamespace(
        study="a", spacing_mm=(2.0, 2.0), z_mm=5.0 * np.arange(5), sop_uids=tuple(f"s{i}" for i in range(5))
    )
    clot = ClotMap(np.zeros((5, 2, 3), np.float32), np.eye(2, 3), 16.0, np.full(5, 5.0), 1.0)
    findings = [
        SimpleNamespace(sop="s1", point=(5.0, 8.0), probability=0.9),
        SimpleNamespace(sop="s0", point=(15.0, 25.0), probability=0.5),
    ]
    compared = compare_exam(exam, mask, findings, clot)
    assert compared.lesions == 2
    assert compared.distance_mm.tolist() == pytest.approx([6.0, 20.0])
    assert [len(lesions) for lesions in compared.detected] == [1, 0]
    assert compared.first_on_clot
    assert compared.true_volume_ml == pytest.approx(2 * 4 * 5 / 1000)
    assert compared.lesion_ml == pytest.approx([4 * 5 / 1000] * 2)
    assert compared.found(0.9).tolist() == [True, False]


def test_occluded_shares_are_compared_with_the_true_arteries_outside_the_centre() -> None:
    arteries = np.zeros((3, 4, 100), bool)
    arteries[:, :, [5, 50, 90]] = True  # right, central, left; 2 mm pixels, midline at column 50
    mask = np.zeros_like(arteries)
    mask[0, :, 90] = mask[:, :, 50] = True
    exam = SimpleNamespace(
        study="a", spacing_mm=(2.0, 2.0), z_mm=5.0 * np.arange(3), sop_uids=("s0", "s1", "s2"), hu=mask,
        middle_column=50.0,
    )  # fmt: skip
    clot = ClotMap(np.zeros((3, 1, 10), np.float32), np.eye(2, 3), 20.0, np.full(3, 5.0), 5.0, vessel_ml=(1.0, 1.0))
    compared = compare_exam(exam, mask, [], clot, arteries=arteries)
    assert compared.true_occluded == pytest.approx((1 / 3, 0.0))
    assert compared.occluded == (0.0, 0.0)
    assert np.isnan(compare_exam(exam, mask, [], clot).true_occluded).all()


def test_errors_of_occluded_shares_count_the_lungs_with_clot_only() -> None:
    exam = exam_location([0.9], [0.0], [{1}], lesions=1)
    pairs = [((0.1, 0.3), (0.2, 0.0)), ((0.3, np.nan), (0.35, 0.5)), ((0.5, 0.6), (0.4, 0.7))]
    exams = [
        dataclasses.replace(exam, volume_ml=number, true_volume_ml=number + 1.0, occluded=measured, true_occluded=true)
        for number, (measured, true) in enumerate(pairs)
    ]
    summary = location_summary(exams)
    assert summary["occluded_share_lungs"] == 4
    assert summary["occluded_share_rank_correlation"] == pytest.approx(1)
    assert summary["occluded_share_median_error"] == pytest.approx(0.1)
    assert summary["occluded_share_mean_bias"] == pytest.approx(-0.0375)
    assert summary["occluded_share_without_clot_p90"] == pytest.approx(0.3)
    assert "occluded_share_lungs" not in location_summary([exam])


def test_sensitivity_counts_lesions_and_false_findings_count_over_all_exams() -> None:
    exams = [
        exam_location([0.9, 0.4], [0.0, 3.0], [{1}, {1, 2}], lesions=2),
        exam_location([0.6], [np.inf], [set()], lesions=0),
    ]
    curve = free_response(exams)
    assert curve["threshold"].tolist() == [0.9, 0.6, 0.4]
    assert curve["sensitivity"].tolist() == [0.5, 0.5, 1.0]
    assert curve["false_per_exam"].tolist() == [0.0, 0.5, 0.5]
    summary = location_summary(exams)
    assert summary["first_finding_key_slice_on_clot"]["value"] == 1
    assert summary["false_findings_per_exam_at_sensitivity_0.85"] == 0.5
    assert summary["exams_with_pe"] == 1
    assert summary["lesions_found_by_volume"] == [
        {"from_ml": 0.4, "below_ml": 0.8, "lesions": 1, "found": 1.0},
        {"from_ml": 0.8, "below_ml": None, "lesions": 1, "found": 1.0},
    ]
    assert [group["found"] for group in found_by_volume(exams, 0.5)] == [1.0, 0.0]


def test_auc_given_pe_does_not_reward_detecting_pe() -> None:
    truth = pd.DataFrame([{STUDY: str(i), **dict.fromkeys(EXAM_LABELS, 0)} for i in range(4)])
    truth.loc[[0, 1], LEFT] = 1
    truth.loc[[2, 3], CENTRAL] = 1
    p_pe = np.array([0.2, 0.3, 0.9, 0.8])  # PE of the left-sided exams is nearly missed
    predicted = truth[[STUDY]].assign(**dict.fromkeys(EXAM_LABELS, 0.0) | {NEGATIVE: 1 - p_pe})
    predicted[LEFT] = p_pe * [0.9, 0.9, 0.4, 0.4]
    row = label_aucs(truth, {"stack": predicted}).set_index("label").loc["Left-sided PE"]
    assert row["positive"] == 2
    assert row["auc"].value == 1
    assert row["auc_unconditional"].value == 0


@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
def test_lesions_are_the_parts_of_the_whole_mask(share: float) -> None:
    mask = np.zeros((9, 40, 50), bool)
    mask[2:8, 5:30, 10:45] = np.random.default_rng(0).random((6, 25, 35)) < share
    voxels = np.argwhere(mask)
    owner, count = _lesions(mask, voxels)
    whole, expected = ndimage.label(ndimage.binary_dilation(mask, np.ones((3, 3, 3), bool)))
    assert count == expected > 0
    np.testing.assert_array_equal(owner, whole[tuple(voxels.T)])
    assert _lesions(np.zeros_like(mask), np.zeros((0, 3), int))[1] == 0
