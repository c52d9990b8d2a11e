"""Measured heart and vessels against the truth of small drawn exams."""

import numpy as np
import pytest

from ensemble.exam_table import exam_table
from ensemble.predictions import Measured, oof_view
from features.heart_and_vessels import LENGTHS, LINES, NUMBERS, PLACES, measure_anatomy
from features.ingest import store_planes
from features.measured_line import Line
from features.slice_measurements import measure_slices
from features.store import open_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import draw_exam
from input.phantom.labels import ExamState
from pipeline.settings import FeaturesSettings
from tests.support.simulated_predictions import simulate
from tests.support.synthetic_thorax import draw_thorax


def stored(directory, hu, z_mm, pixel_mm, spacing_mm=1.4):
    """The stored exam and its anatomy."""
    store_planes(
        directory, FeaturesSettings(spacing_mm=spacing_mm), study="a1", series="b1", hu=hu, z_mm=z_mm,
        spacing_mm=(pixel_mm, pixel_mm), sop_uids=tuple(f"s{each}" for each in range(len(hu))), quarantine={},
    )  # fmt: skip
    exam = open_exam(directory, "a1")
    return exam, measure_anatomy(exam, measure_slices(exam))


@pytest.fixture(scope="module")
def drawn():
    """An exam without PE, drawn coarsely."""
    state = ExamState(frozenset({"negative_exam_for_pe"}), 0)
    return draw_exam(state, difficulty_named("easy"), seed=5, index=3, rows=224, slices=44)


@pytest.fixture(scope="module")
def measured(drawn, tmp_path_factory):
    return stored(tmp_path_factory.mktemp("store"), drawn.hu, drawn.grid.z, drawn.grid.pixel)


def test_every_column_is_there_even_without_a_heart(tmp_path):
    _, numbers = stored(tmp_path, draw_thorax(12), np.arange(12) * 5.0, 3.0)
    assert list(numbers) == [*NUMBERS, *PLACES]
    assert np.isnan(numbers["rv_lv_ratio_measured"])


@pytest.mark.parametrize(("slices", "step_mm"), [(1, 5.0), (5, 0.6), (9, 0.5)])
def test_slices_that_fill_no_block_leave_the_numbers_missing(tmp_path, slices, step_mm):
    exam, numbers = stored(tmp_path, draw_thorax(slices), np.arange(slices) * step_mm, 3.0)
    assert exam.box.found
    assert np.isnan(list(numbers.values())).all()


def test_a_line_names_its_columns():
    assert Line(3, 1, 2, 4, 6).columns("rv") == {"rv_plane": 3, "rv_y0": 1, "rv_x0": 2, "rv_y1": 4, "rv_x1": 6}


def test_ventricles_have_their_drawn_diameters(drawn, measured):
    _, numbers = measured
    assert numbers["rv_mm"] == pytest.approx(drawn.heart.rv_mm, abs=5)
    assert numbers["lv_mm"] == pytest.approx(drawn.heart.lv_mm, abs=5)
    assert numbers["rv_lv_ratio_measured"] == pytest.approx(drawn.heart.ratio, abs=0.12)
    assert numbers["rv_lv_confidence"] > 0.5
    assert numbers["heart_first_plane"] < numbers["heart_last_plane"] < numbers["trunk_plane"]


def test_without_spacing_lengths_are_missing_and_the_ratio_stays(drawn, measured, tmp_path):
    exam, known = measured
    store_planes(
        tmp_path, FeaturesSettings(), study="a1", series="b1", hu=drawn.hu, z_mm=drawn.grid.z,
        spacing_mm=(np.nan, np.nan), sop_uids=exam.sop_uids, quarantine={},
    )  # fmt: skip
    blind = open_exam(tmp_path, "a1")
    numbers = measure_anatomy(blind, measure_slices(blind))
    assert np.isnan([numbers[name] for name in LENGTHS]).all()
    assert numbers["rv_lv_ratio_measured"] == pytest.approx(known["rv_lv_ratio_measured"], abs=0.12)
    assert np.isfinite(numbers["rv_plane"])


def test_turning_the_picture_upside_down_hides_the_heart(drawn, tmp_path):
    _, numbers = stored(tmp_path, np.ascontiguousarray(drawn.hu[:, ::-1]), drawn.grid.z, drawn.grid.pixel)
    assert np.isnan(numbers["rv_lv_ratio_measured"])


def test_a_coarse_store_is_measured_or_missing_but_never_fails(drawn, tmp_path):
    _, numbers = stored(tmp_path, drawn.hu[::2], drawn.grid.z[::2], drawn.grid.pixel, spacing_mm=4.0)
    ratio = numbers["rv_lv_ratio_measured"]
    assert np.isnan(ratio) or ratio == pytest.approx(drawn.heart.ratio, abs=0.35)


def test_places_are_no_inputs_of_the_stack():
    contest = simulate(train=12, test=4, slices=8)
    exams = contest.measured.exams.assign(**dict.fromkeys(PLACES, 1.0), rv_lv_ratio_measured=0.9)
    view = oof_view(contest.networks, contest.exams, contest.slices, Measured(contest.measured.slices, exams))
    columns = set(exam_table(view))
    assert "measured.rv_lv_ratio_measured" in columns
    assert not {f"measured.{name}" for name in PLACES} & columns


def test_vessels_have_their_drawn_width_and_level(drawn, measured):
    _, numbers = measured
    assert numbers["pulmonary_trunk_mm"] == pytest.approx(drawn.trunk_mm, abs=4)
    assert numbers["ascending_aorta_mm"] == pytest.approx(31.8 * drawn.patient.vessel, abs=3)
    assert numbers["pulmonary_artery_hu"] == pytest.approx(drawn.contrast.artery, abs=12)
    assert numbers["left_atrium_hu"] == pytest.approx(drawn.contrast.left_heart, abs=20)


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_as_long_as_its_diameter(measured, name):
    exam, numbers = measured
    length = {"rv": "rv_mm", "lv": "lv_mm", "trunk": "pulmonary_trunk_mm", "aorta": "ascending_aorta_mm"}[name]
    drawn_mm = np.hypot(numbers[f"{name}_y1"] - numbers[f"{name}_y0"], numbers[f"{name}_x1"] - numbers[f"{name}_x0"])
    assert drawn_mm * exam.spacing_mm[0] == pytest.approx(numbers[length], abs=3)
    assert 0 <= numbers[f"{name}_plane"] < len(exam)
