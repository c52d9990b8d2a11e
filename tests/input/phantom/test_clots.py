"""Clots match the labels, and only clots distinguish a positive exam from a negative one."""

from functools import cache

import numpy as np
import pytest

from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, LEFT, LT_1, NEGATIVE, RIGHT
from input.phantom import vessel_trees as vessels
from input.phantom.difficulty import DIFFICULTIES, difficulty_named
from input.phantom.exam_generator import SyntheticExam, generate_exam, place_clots, sample_grid, streams
from input.phantom.labels import ExamState, sample_states
from input.phantom.patient import sample_patient
from input.phantom.vessel_trees import CENTRAL_REGIONS, LEFT_REGIONS, RIGHT_REGIONS
from pipeline.errors import UserError

MEDIUM = DIFFICULTIES["medium"]


@cache
def placed_exams(count: int) -> list[tuple]:
    """Place the clots of `count` states with PE: (state, grid, clots, truth) per exam."""
    states = [state for state in sample_states(2 * count, 0.5, np.random.default_rng(8)) if state.positive][:count]
    exams = []
    for index, state in enumerate(states):
        rng = streams(8, index)
        patient = sample_patient(rng["patient"], effusion_share=0.0, opacity_share=0.0)
        grid, _ = sample_grid(rng["patient"], patient, 128, 44)
        arteries = vessels.build_arteries(patient, rng["anatomy"])
        exams.append((state, grid, *place_clots(state, arteries, grid, MEDIUM, rng["clots"])))
    return exams


@pytest.mark.slow
def test_clots_are_in_the_labelled_regions_only() -> None:
    for state, _, _, truth in placed_exams(40):
        regions = set((truth.mask[truth.mask > 0] % 8).tolist())
        assert bool(regions & set(CENTRAL_REGIONS)) == (CENTRAL in state.labels)
        assert bool(regions & set(LEFT_REGIONS)) == (LEFT in state.labels)
        assert bool(regions & set(RIGHT_REGIONS)) == (RIGHT in state.labels)


def test_clots_are_of_the_labelled_kind_only() -> None:
    for state, _, clots, truth in placed_exams(40):
        chronic = {bool(code >= 8) for code in np.unique(truth.mask[truth.mask > 0]).tolist()}
        expected = (
            {True} if CHRONIC in state.labels else {True, False} if ACUTE_AND_CHRONIC in state.labels else {False}
        )
        assert {clot.chronic for clot in clots} == expected
        assert chronic <= expected


def test_the_share_of_positive_slices_follows_the_quartile() -> None:
    by_quartile: dict[int, list[float]] = {0: [], 1: [], 2: [], 3: []}
    for state, _, _, truth in placed_exams(40):
        by_quartile[state.quartile].append(float(np.mean(truth.area >= MEDIUM.visible_mm2)))
    medians = [np.median(by_quartile[quartile]) for quartile in range(4)]
    assert medians == sorted(medians)
    assert 0.02 < medians[0] < 0.15
    assert 0.3 < medians[3] < 0.8


def test_slice_position_alone_hardly_predicts_clots() -> None:
    relative, positive = [], []
    for _, grid, _, truth in placed_exams(40):
        relative.append((grid.z - grid.z[0]) / (grid.z[-1] - grid.z[0]))
        positive.append(truth.area >= MEDIUM.visible_mm2)
    z, y = np.concatenate(relative), np.concatenate(positive)
    bins = np.minimum((z * 8).astype(int), 7)
    score = np.array([y[bins == k].mean() for k in range(8)])[bins]
    auc = (score[y][:, None] > score[~y][None]).mean() + 0.5 * (score[y][:, None] == score[~y][None]).mean()
    assert auc < 0.78


def test_most_clots_are_in_wide_arteries() -> None:
    widths = [clot["artery_mm"] for index in range(2) for clot in positive_exam(index).clots]
    assert min(widths) > MEDIUM.small_artery_mm
    assert np.median(widths) >= 4


@cache
def positive_exam(index: int) -> SyntheticExam:
    state = ExamState(frozenset({GTE_1, CENTRAL, LEFT, RIGHT}), 3)
    return generate_exam(state, MEDIUM, seed=4, index=index, rows=160, slices=40)


def test_clot_is_darker_than_the_blood_around_it() -> None:
    exam = positive_exam(0)
    assert exam.labels == {GTE_1, CENTRAL, LEFT, RIGHT}
    clot = np.median(exam.hu[exam.clot > 0])
    blood = np.median(exam.hu[exam.artery & (exam.clot == 0)])
    assert clot < 200 < blood


def test_positive_slices_are_those_with_visible_clot() -> None:
    exam = positive_exam(0)
    assert np.array_equal(exam.pe_present, exam.clot_area_mm2 >= MEDIUM.visible_mm2)
    assert np.all(exam.clot_area_mm2[(exam.clot > 0).any(axis=(1, 2))] > 0)


def test_an_exam_differs_from_its_negative_twin_only_where_the_clots_are() -> None:
    """With the same seed and index all other properties are equal, so none can reveal the label."""
    with_clot = generate_exam(ExamState(frozenset({LT_1, LEFT}), 0), MEDIUM, seed=4, index=7, rows=128, slices=30)
    without = generate_exam(ExamState(frozenset({NEGATIVE}), -1), MEDIUM, seed=4, index=7, rows=128, slices=30)
    assert with_clot.grid.z.tolist() == without.grid.z.tolist()
    assert (with_clot.fov_mm, with_clot.scanner, with_clot.contrast) == (
        without.fov_mm,
        without.scanner,
        without.contrast,
    )
    unaffected = ~((with_clot.clot > 0).any(axis=(1, 2)))
    unaffected[: len(unaffected) // 2] = False  # the RV/LV ratio may differ
    same = with_clot.hu[unaffected] == without.hu[unaffected]
    assert same.mean() > 0.98


def test_a_negative_exam_has_no_clot() -> None:
    exam = generate_exam(ExamState(frozenset({NEGATIVE}), -1), MEDIUM, seed=4, index=9, rows=96, slices=20)
    assert not exam.clot.any()
    assert not exam.pe_present.any()
    assert exam.clots == []


def test_an_unknown_difficulty_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="easy, medium, contest"):
        difficulty_named("hard")
