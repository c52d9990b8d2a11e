"""Measured numbers: true on drawn planes, with left on the patient's left."""

import numpy as np
import pytest
from scipy import ndimage

from features.exam_measurements import slice_depth_mm, summarise_exam
from features.ingest import store_planes
from features.masks import between_first_and_last, close_gaps, grow, shrink
from features.slice_measurements import dark_in_bright, measure_slices, vessel_threshold
from features.store import open_exam
from pipeline.settings import FeaturesSettings
from tests.support.synthetic_thorax import BLOOD, draw_thorax, ellipse


def measured(directory, hu, step_mm=5.0, pixel_mm=3.0):
    """(slice numbers, exam numbers) of planes as read, stored at 2 mm."""
    store_planes(
        directory, FeaturesSettings(spacing_mm=2.0), study="a1", series="b1", hu=hu, z_mm=np.arange(len(hu)) * step_mm,
        spacing_mm=(pixel_mm, pixel_mm), sop_uids=tuple(f"s{each}" for each in range(len(hu))), quarantine={},
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


def test_z_is_told_relative_to_the_lungs(tmp_path):
    slices, exam = measured(tmp_path, draw_thorax(12))
    assert exam["lung_height_mm"] == 35.0
    assert slices["relative_z"].iloc[[2, 9]].tolist() == [0.0, 1.0]
    assert slices["z_from_lung_top_mm"].iloc[[2, 9, 11]].tolist() == [-35.0, 0.0, 10.0]


def test_lung_areas_and_levels_are_those_drawn(tmp_path):
    slices, exam = measured(tmp_path, draw_thorax(12))
    ellipse_cm2 = np.pi * 8 * 5
    assert slices["lung_area_right_cm2"][5] == pytest.approx(ellipse_cm2, rel=0.08)
    assert slices["lung_area_left_cm2"][5] == pytest.approx(ellipse_cm2, rel=0.08)
    assert slices["lung_area_right_cm2"][0] < 3
    assert exam["lung_hu"] == pytest.approx(-850, abs=15)
    assert exam["lung_left_ml"] == pytest.approx(ellipse_cm2 * 4.0, rel=0.15)


def test_the_right_lung_is_on_the_pictures_left(tmp_path):
    slices, _ = measured(tmp_path, draw_thorax(12, right=False))
    assert slices["lung_area_left_cm2"][5] > 50 * max(slices["lung_area_right_cm2"][5], 0.1)


@pytest.mark.parametrize("noise", [8.0, 25.0])
def test_noise_and_vessel_level_are_those_drawn(tmp_path, noise):
    # Pixels as large as the store's: resampling only crops, so the noise stays as drawn.
    _, exam = measured(tmp_path, draw_thorax(12, pixel_mm=2.0, side=180, noise=noise), pixel_mm=2.0)
    assert exam["noise_hu"] == pytest.approx(noise, rel=0.25)
    assert exam["vessel_hu"] == pytest.approx(BLOOD, abs=45)


def test_heart_width_is_the_gap_between_the_lungs(tmp_path):
    _, exam = measured(tmp_path, draw_thorax(12))
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
    hu = draw_thorax(12, side=180, pixel_mm=2.0, noise=5.0)
    place = (180, 180), (2.0, 2.0)
    vessel, clot = ellipse(*place, (0, 70), (14, 14)), ellipse(*place, (0, 70), (4, 4))
    hu[4:9, vessel] = BLOOD
    hu[4:9, clot] = 50
    _, exam = measured(tmp_path, hu, pixel_mm=2.0)
    assert exam["clot_candidate_left_ml"] == pytest.approx(np.pi * 0.4**2 * 2.5, rel=0.5)
    assert exam["clot_candidate_right_ml"] == 0


def test_flicker_grows_when_slices_shake(tmp_path):
    still = draw_thorax(12)
    shaken = still.copy()
    shaken[1::2] = np.roll(shaken[1::2], 3, axis=1)
    assert measured(tmp_path / "still", still)[1]["motion_edge_flicker"] < 0.1
    assert measured(tmp_path / "shaken", shaken)[1]["motion_edge_flicker"] > 0.5


def test_blocks_do_not_change_the_numbers(tmp_path, monkeypatch):
    hu = draw_thorax(12)
    whole, _ = measured(tmp_path, hu)
    monkeypatch.setattr("features.slice_measurements.BLOCK", 5)
    np.testing.assert_array_equal(measured(tmp_path, hu)[0].to_numpy(), whole.to_numpy())


def test_one_slice_without_lungs_has_numbers_or_nan(tmp_path):
    slices, exam = measured(tmp_path, draw_thorax(1, right=False, left=False))
    assert exam["lungs_found"] == 0
    assert np.isnan(exam["slice_step_mm"])
    assert slices["relative_z"].tolist() == [0.5]
    assert slices["lung_share"][0] < 0.01


def test_the_threshold_lies_between_muscle_and_vessel():
    assert vessel_threshold(np.array([350.0, np.nan])) == 200
    assert vessel_threshold(np.array([np.nan])) == 130


def test_slices_share_the_length_of_the_series():
    assert slice_depth_mm(np.array([0.0, 1.0, 3.0])).tolist() == [1.0, 1.5, 2.0]
    assert slice_depth_mm(np.array([0.0, 0.0, 2.0])).tolist() == [0.0, 1.0, 2.0]
