"""Measurements of heart and vessels against the ground truth of small synthetic exams."""

import numpy as np
import pytest

from benchmarks.simulated_predictions import simulate
from ensemble.exam_table import exam_table
from ensemble.predictions import Measured, oof_view
from features.heart_and_vessels import DRAWING_COLUMNS, LENGTHS, LINES, MEASUREMENTS, measure_anatomy
from features.ingest import store_planes
from features.measured_line import Line
from features.slice_measurements import measure_slices
from features.store import open_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam
from input.phantom.labels import ExamState
from pipeline.settings import FeaturesSettings
from tests.support.synthetic_thorax import make_thorax


def store_and_measure(directory, hu, z_mm, pixel_mm, spacing_mm=1.4):
    """Return (stored exam, its measured anatomy)."""
    store_planes(
        directory, FeaturesSettings(spacing_mm=spacing_mm), study="a1", series="b1", hu=hu, z_mm=z_mm,
        spacing_mm=(pixel_mm, pixel_mm), sop_uids=tuple(f"s{index}" for index in range(len(hu))), quarantine={},
    )  # fmt: skip
    exam = open_exam(directory, "a1")
    return exam, measure_anatomy(exam, measure_slices(exam))


@pytest.fixture(scope="module")
def synthetic():
    """A synthetic exam without PE at low resolution."""
    state = ExamState(frozenset({"negative_exam_for_pe"}), 0)
    return generate_exam(state, difficulty_named("easy"), seed=5, index=3, rows=224, slices=44)


@pytest.fixture(scope="module")
def measured(synthetic, tmp_path_factory):
    return store_and_measure(tmp_path_factory.mktemp("store"), synthetic.hu, synthetic.grid.z, synthetic.grid.pixel)


def test_every_column_is_present_even_without_a_heart(tmp_path):
    _, numbers = store_and_measure(tmp_path, make_thorax(12), np.arange(12) * 5.0, 3.0)
    assert list(numbers) == [*MEASUREMENTS, *DRAWING_COLUMNS]
    assert np.isnan(numbers["rv_lv_ratio_measured"])


@pytest.mark.parametrize(("slices", "step_mm"), [(1, 5.0), (5, 0.6), (9, 0.5)])
def test_an_exam_with_too_few_slices_for_the_grid_has_no_measurements(tmp_path, slices, step_mm):
    exam, numbers = store_and_measure(tmp_path, make_thorax(slices), np.arange(slices) * step_mm, 3.0)
    assert exam.box.found
    assert np.isnan(list(numbers.values())).all()


def test_a_line_names_its_columns():
    assert Line(3, 1, 2, 4, 6).columns("rv") == {"rv_plane": 3, "rv_y0": 1, "rv_x0": 2, "rv_y1": 4, "rv_x1": 6}


def test_ventricle_diameters_match_the_ground_truth(synthetic, measured):
    _, numbers = measured
    assert numbers["rv_mm"] == pytest.approx(synthetic.heart.rv_mm, abs=5)
    assert numbers["lv_mm"] == pytest.approx(synthetic.heart.lv_mm, abs=5)
    assert numbers["rv_lv_ratio_measured"] == pytest.approx(synthetic.heart.ratio, abs=0.12)
    assert numbers["rv_lv_confidence"] > 0.5
    assert numbers["heart_first_plane"] < numbers["heart_last_plane"] < numbers["trunk_plane"]


def test_without_spacing_lengths_are_missing_and_the_ratio_is_kept(synthetic, measured, tmp_path):
    exam, known = measured
    store_planes(
        tmp_path, FeaturesSettings(), study="a1", series="b1", hu=synthetic.hu, z_mm=synthetic.grid.z,
        spacing_mm=(np.nan, np.nan), sop_uids=exam.sop_uids, quarantine={},
    )  # fmt: skip
    without_spacing = open_exam(tmp_path, "a1")
    numbers = measure_anatomy(without_spacing, measure_slices(without_spacing))
    assert np.isnan([numbers[name] for name in LENGTHS]).all()
    assert numbers["rv_lv_ratio_measured"] == pytest.approx(known["rv_lv_ratio_measured"], abs=0.12)
    assert np.isfinite(numbers["rv_plane"])


def test_no_heart_is_found_in_planes_that_are_upside_down(synthetic, tmp_path):
    _, numbers = store_and_measure(
        tmp_path, np.ascontiguousarray(synthetic.hu[:, ::-1]), synthetic.grid.z, synthetic.grid.pixel
    )
    assert np.isnan(numbers["rv_lv_ratio_measured"])


def test_a_coarse_store_is_measured_or_missing_but_never_fails(synthetic, tmp_path):
    _, numbers = store_and_measure(
        tmp_path, synthetic.hu[::2], synthetic.grid.z[::2], synthetic.grid.pixel, spacing_mm=4.0
    )
    ratio = numbers["rv_lv_ratio_measured"]
    assert np.isnan(ratio) or ratio == pytest.approx(synthetic.heart.ratio, abs=0.35)


def test_drawing_columns_are_not_inputs_of_the_stack():
    contest = simulate(train=12, test=4, slices=8)
    exams = contest.measured.exams.assign(**dict.fromkeys(DRAWING_COLUMNS, 1.0), rv_lv_ratio_measured=0.9)
    view = oof_view(contest.networks, contest.exams, contest.slices, Measured(contest.measured.slices, exams))
    columns = set(exam_table(view))
    assert "measured.rv_lv_ratio_measured" in columns
    assert not {f"measured.{name}" for name in DRAWING_COLUMNS} & columns


def test_vessel_diameters_and_hu_match_the_ground_truth(synthetic, measured):
    _, numbers = measured
    assert numbers["pulmonary_trunk_mm"] == pytest.approx(synthetic.trunk_mm, abs=4)
    assert numbers["ascending_aorta_mm"] == pytest.approx(31.8 * synthetic.patient.vessel, abs=3)
    assert numbers["pulmonary_artery_hu"] == pytest.approx(synthetic.contrast.artery, abs=12)
    assert numbers["left_atrium_hu"] == pytest.approx(synthetic.contrast.left_heart, abs=20)


@pytest.mark.parametrize("name", LINES)
def test_a_line_has_the_length_of_its_diameter(measured, name):
    exam, numbers = measured
    length = {"rv": "rv_mm", "lv": "lv_mm", "trunk": "pulmonary_trunk_mm", "aorta": "ascending_aorta_mm"}[name]
    pixels = np.hypot(numbers[f"{name}_y1"] - numbers[f"{name}_y0"], numbers[f"{name}_x1"] - numbers[f"{name}_x0"])
    assert pixels * exam.spacing_mm[0] == pytest.approx(numbers[length], abs=3)
    assert 0 <= numbers[f"{name}_plane"] < len(exam)
