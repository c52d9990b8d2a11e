"""Measurements on synthetic planes with known values; left is the patient's left."""

import numpy as np
import pytest
from scipy import ndimage

from features.exam_measurements import slice_depth_mm, summarise_exam
from features.ingest import store_planes
from features.masks import between_first_and_last, close_gaps, grow, shrink
from features.slice_measurements import dark_in_bright, measure_slices, vessel_threshold
from features.store import open_exam
from pipeline.settings import FeaturesSettings
from tests.support.synthetic_thorax import BLOOD, ellipse, make_thorax


def measured(directory, hu, step_mm=5.0, pixel_mm=3.0):
    """Return (slice measurements, exam measurements) of planes stored at 2 mm."""
    store_planes(
        directory, FeaturesSettings(spacing_mm=2.0), study="a1", series="b1", hu=hu, z_mm=np.arange(len(hu)) * step_mm,
        spacing_mm=(pixel_mm, pixel_mm), sop_uids=tuple(f"s{index}" for index in range(len(hu))), quarantine={},
    )  # fmt: skip
    exam = open_exam(directory, "a1")
    slices = measure_slices(exam)
    return slices, summarise_exam(exam, slices)


def test_masks_agree_with_scipy():
    mask = np.random.default_rng(0).random((2, 30, 31)) > 0.9
    square = np.ones((1, 5, 5), bool)
    np.testing.assert_array_equal(grow(mask, 2), ndimage.binary_dilation(mask, square))
    np.testing.assert_array_equal(shrink(mask, 1), ndimage.binary_erosion(mask, np.ones((1, 3, 3)), border_value=1))
    assert (close_gaps(mask, 2) | ~mask).all()


def test_between_first_and_last_fills_rows():
    mask = np.array([[[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]], bool)
    assert between_first_and_last(mask)[0].astype(int).tolist() == [[0, 1, 1, 1, 0], [0] * 5, [0, 0, 1, 0, 0]]


def test_z_is_relative_to_the_lungs(tmp_path):
    slices, exam = measured(tmp_path, make_thorax(12))
    assert exam["lung_height_mm"] == 35.0
    assert slices["relative_z"].iloc[[2, 9]].tolist() == [0.0, 1.0]
    assert slices["z_from_lung_top_mm"].iloc[[2, 9, 11]].tolist() == [-35.0, 0.0, 10.0]


def test_lung_areas_and_hu_match_the_synthetic_thorax(tmp_path):
    slices, exam = measured(tmp_path, make_thorax(12))
    ellipse_cm2 = np.pi * 8 * 5
    assert slices["lung_area_right_cm2"][5] == pytest.approx(ellipse_cm2, rel=0.08)
    assert slices["lung_area_left_cm2"][5] == pytest.approx(ellipse_cm2, rel=0.08)
    assert slices["lung_area_right_cm2"][0] < 3
    assert exam["lung_hu"] == pytest.approx(-850, abs=15)
    assert exam["lung_left_ml"] == pytest.approx(ellipse_cm2 * 4.0, rel=0.15)


def test_the_right_lung_is_on_the_left_of_the_image(tmp_path):
    slices, _ = measured(tmp_path, make_thorax(12, right=False))
    assert slices["lung_area_left_cm2"][5] > 50 * max(slices["lung_area_right_cm2"][5], 0.1)


@pytest.mark.parametrize("noise", [8.0, 25.0])
def test_noise_and_vessel_hu_match_the_synthetic_thorax(tmp_path, noise):
    # The pixels have the store's spacing: resampling only crops and leaves the noise unchanged.
    _, exam = measured(tmp_path, make_thorax(12, pixel_mm=2.0, side=180, noise=noise), pixel_mm=2.0)
    assert exam["noise_hu"] == pytest.approx(noise, rel=0.25)
    assert exam["vessel_hu"] == pytest.approx(BLOOD, abs=45)


def test_heart_width_is_the_gap_between_the_lungs(tmp_path):
    _, exam = measured(tmp_path, make_thorax(12))
    assert exam["heart_width_mm"] == pytest.approx(64, abs=10)  # 30 mm either side on the middle row, more beside it


def test_a_dark_core_in_a_bright_vessel_is_a_candidate():
    hu = np.full((1, 60, 60), -100, np.int16)
    hu[0, ellipse((60, 60), (1.6, 1.6), (0, 0), (20, 20))] = BLOOD
    core = ellipse((60, 60), (1.6, 1.6), (0, 0), (4, 4))
    hu[0, core] = 50
    dark, candidates = dark_in_bright(hu, hu >= 200, 1.6)
    np.testing.assert_array_equal(dark[0], core)
    np.testing.assert_array_equal(candidates[0], core)


def test_a_vessel_without_clot_has_no_candidate():
    hu = np.full((1, 60, 60), -100, np.int16)
    hu[0, ellipse((60, 60), (1.6, 1.6), (0, 0), (20, 20))] = BLOOD
    assert not dark_in_bright(hu, hu >= 200, 1.6)[1].any()


def test_a_clot_on_the_left_counts_on_the_left(tmp_path):
    hu = make_thorax(12, side=180, pixel_mm=2.0, noise=5.0)
    grid = (180, 180), (2.0, 2.0)
    vessel, clot = ellipse(*grid, (0, 70), (14, 14)), ellipse(*grid, (0, 70), (4, 4))
    hu[4:9, vessel] = BLOOD
    hu[4:9, clot] = 50
    _, exam = measured(tmp_path, hu, pixel_mm=2.0)
    assert exam["clot_candidate_left_ml"] == pytest.approx(np.pi * 0.4**2 * 2.5, rel=0.5)
    assert exam["clot_candidate_right_ml"] == 0


def test_flicker_grows_when_slices_shake(tmp_path):
    still = make_thorax(12)
    shaken = still.copy()
    shaken[1::2] = np.roll(shaken[1::2], 3, axis=1)
    assert measured(tmp_path / "still", still)[1]["motion_edge_flicker"] < 0.1
    assert measured(tmp_path / "shaken", shaken)[1]["motion_edge_flicker"] > 0.5


def test_measurements_do_not_depend_on_the_block_size(tmp_path, monkeypatch):
    # Every sum is exact: HU and counts are integers, and offsets are multiples of 1/2 mm. So the order of the terms,
    # which matrix kernels choose by the number of rows, does not matter.
    hu = make_thorax(12)
    whole, _ = measured(tmp_path, hu)
    monkeypatch.setattr("features.slice_measurements.BLOCK", 5)
    np.testing.assert_array_equal(measured(tmp_path, hu)[0].to_numpy(), whole.to_numpy())


def test_one_slice_without_lungs_has_numbers_or_nan(tmp_path):
    slices, exam = measured(tmp_path, make_thorax(1, right=False, left=False))
    assert exam["lungs_found"] == 0
    assert np.isnan(exam["slice_step_mm"])
    assert slices["relative_z"].tolist() == [0.5]
    assert slices["lung_share"][0] < 0.01


def test_the_threshold_is_halfway_between_muscle_and_vessel():
    assert vessel_threshold(np.array([350.0, np.nan])) == 200
    assert vessel_threshold(np.array([np.nan])) == 130


def test_slice_depths_sum_to_the_length_of_the_series():
    assert slice_depth_mm(np.array([0.0, 1.0, 3.0])).tolist() == [1.0, 1.5, 2.0]
    assert slice_depth_mm(np.array([0.0, 0.0, 2.0])).tolist() == [0.0, 1.0, 2.0]
