"""Levels above easy: the contest's statistics, webs, dilated trunks; and properties that must not reveal PE."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from input.contest import CHRONIC, GTE_1, LEFT, LT_1, NEGATIVE
from input.phantom import physics
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.emboli import Clot, ClotPlacement, clot_tubes
from input.phantom.exam_generator import place_clots, sample_dilation, sample_grid, sample_rv_lv_ratio, streams
from input.phantom.labels import sample_q, sample_states
from input.phantom.patient import sample_patient
from input.phantom.raster import Grid, Tubes, tube_coverage
from input.phantom.synthetic_contest import plan_contest
from input.phantom.vessel_trees import LEFT_LUNG, Arteries, build_arteries
from pipeline.load_settings import load_settings

CONTEST = DIFFICULTIES["contest"]
#: Largest AUC of z, body size, scanner and noise for PE on slices, and on exams (0.5: chance; SD 0.03 at 400 exams).
SLICE_AUC, EXAM_AUC = 0.70, 0.59


def test_the_settings_file_has_the_contests_statistics() -> None:
    settings = load_settings("settings/contest_phantom.toml", overrides=["phantom.train_exams=7279"]).phantom
    assert (settings.difficulty, settings.rows, settings.slices) == ("contest", 512, 246)
    states = [state for _, split, _, state in plan_contest(settings) if split == "train"]
    positive = [state for state in states if state.positive]
    assert len(positive) / len(states) == pytest.approx(2211 / 7279, abs=0.001)
    rng = np.random.default_rng(0)
    q = np.array([sample_q(state.quartile, CONTEST, rng) for state in positive])
    assert np.median(q) == pytest.approx(0.144, abs=0.012)
    assert q.mean() * len(positive) / len(states) == pytest.approx(0.0539, abs=0.003)
    assert 0.8 < q.max() <= 0.87


@cache
def positive_exam_slices() -> pd.DataFrame:
    """Return the slices of 36 exams with PE at the contest level, without pixels: z, size, noise, positive."""
    states = [state for state in sample_states(120, 0.304, np.random.default_rng(1)) if state.positive]
    rows = []
    for index, state in enumerate(states):
        rng = streams(9, index)
        patient = sample_patient(rng["patient"], effusion_share=0.2, opacity_share=0.25)
        grid, fov = sample_grid(rng["patient"], patient, 224, 100)
        arteries = build_arteries(patient, rng["anatomy"], twigs=CONTEST.twigs)
        _, truth = place_clots(state, arteries, grid, CONTEST, rng["clots"])
        physics.sample_contrast(rng["physics"], poor=False)
        scanner = physics.sample_scanner(rng["physics"], CONTEST.noise_sd)
        rows.append(
            pd.DataFrame({
                "z": (grid.z - grid.z[0]) / (grid.z[-1] - grid.z[0]), "fov": fov, "height": patient.scale[2],
                "fat": patient.fat, "noise": scanner.noise_sd, "blur": scanner.blur_mm, "slices": len(grid.z),
                "exam": index, "positive": truth.area >= CONTEST.visible_mm2,
            })
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@pytest.mark.slow
def test_placed_clots_have_the_target_burden() -> None:
    q = positive_exam_slices().groupby("exam")["positive"].mean()
    assert 0.145 < q.mean() < 0.215
    assert 0.1 < q.median() < 0.19
    assert q.min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("columns", [["z"], ["z", "fov", "height", "fat", "noise", "blur", "slices"]])
def test_slices_are_not_predictable_without_looking_at_clots(columns: list[str]) -> None:
    table = positive_exam_slices()
    model = ExtraTreesClassifier(60, min_samples_leaf=40, random_state=0)
    predicted = cross_val_predict(
        model, table[columns], table["positive"], groups=table["exam"], cv=GroupKFold(4), method="predict_proba"
    )
    assert roc_auc_score(table["positive"], predicted[:, 1]) < SLICE_AUC


@cache
def exams() -> pd.DataFrame:
    """Return the sampled properties of 400 exams, half with PE, without clots or pixels."""
    rows = []
    for index, state in enumerate(sample_states(400, 0.5, np.random.default_rng(2))):
        rng = streams(10, index)
        patient = sample_patient(rng["patient"], effusion_share=0.2, opacity_share=0.25)
        grid, fov = sample_grid(rng["patient"], patient, 64, 100)
        ratio = sample_rv_lv_ratio(state.labels, rng["anatomy"])
        dilation = sample_dilation(state.labels, ratio, CONTEST, rng["strain"])
        contrast = physics.sample_contrast(rng["physics"], poor=False)
        scanner = physics.sample_scanner(rng["physics"], CONTEST.noise_sd)
        rows.append({
            "fov": fov, "slices": len(grid.z), "width": patient.scale[0], "height": patient.scale[2],
            "fat": patient.fat, "muscle": patient.muscle, "noise": scanner.noise_sd, "blur": scanner.blur_mm,
            "artery": contrast.artery, "ratio": ratio, "dilation": dilation, "lung": patient.lung_hu,
            "fluid": sum(patient.effusion), "positive": state.positive,
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_exams_are_not_predictable_from_body_noise_or_heart() -> None:
    table = exams()
    model = ExtraTreesClassifier(100, min_samples_leaf=8, random_state=0)
    predicted = cross_val_predict(
        model, table.drop(columns="positive"), table["positive"], cv=5, method="predict_proba"
    )
    assert roc_auc_score(table["positive"], predicted[:, 1]) < EXAM_AUC


def test_no_two_exams_share_sizes() -> None:
    assert not exams()[["fov", "width", "fat", "noise"]].round(6).duplicated().any()
    for column in ("width", "fat", "noise"):  # field of view and contrast are clipped
        assert exams()[column].nunique() > 350


def test_no_two_exams_share_arteries() -> None:
    coordinates = set()
    for index in range(24):
        rng = streams(11, index)
        patient = sample_patient(rng["patient"], effusion_share=0, opacity_share=0)
        coordinates.update(
            np.round(build_arteries(patient, rng["anatomy"], twigs=60).tubes.start[::7], 3).ravel().tolist()
        )
    assert len(coordinates) > 24 * 100


def test_a_web_crosses_the_lumen_as_a_thin_band() -> None:
    tubes = Tubes(np.array([[0, 0, -10.0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 10.0]]), *np.full((2, 2), 4.0))
    arteries = Arteries(tubes, np.zeros(2, int), np.array([-1]), np.array([LEFT_LUNG]))
    clot = Clot(np.arange(2), LEFT_LUNG, True, False, 0.25, np.array([1.0, 0, 0]), 90.0, web=True)
    axis = np.arange(-8, 8, 0.25)
    grid = Grid(axis, axis, np.arange(-3.0, 3.0), 1.0)
    box, cover = tube_coverage(grid, clot_tubes(clot, arteries))
    rows, columns = np.nonzero(cover[3] > 0.5)
    assert np.ptp(columns) * 0.25 == pytest.approx(8, abs=1)
    assert np.ptp(rows) * 0.25 == pytest.approx(2, abs=0.6)
    assert clot.as_row(arteries)["kind"] == "web"


def test_chronic_clots_include_webs_except_at_the_easy_level() -> None:
    rng = np.random.default_rng(0)
    patient = sample_patient(rng, effusion_share=0, opacity_share=0)
    grid, _ = sample_grid(rng, patient, 128, 100)
    arteries = build_arteries(patient, rng)
    web_share = {}
    for name in ("easy", "contest"):
        clots = [
            clot
            for _ in range(40)
            for clot in ClotPlacement(arteries, grid.z, grid.step, DIFFICULTIES[name], rng).place(
                frozenset({LT_1, LEFT, CHRONIC}), 0.1
            )
        ]
        web_share[name] = np.mean([clot.web for clot in clots])
    assert web_share["easy"] == 0
    assert web_share["contest"] == pytest.approx(CONTEST.web_share, abs=0.12)


def test_trunk_dilation_is_as_frequent_without_pe() -> None:
    rng = np.random.default_rng(3)

    def widths(labels: set[str], ratio: float) -> np.ndarray:
        return np.array([sample_dilation(frozenset(labels), ratio, CONTEST, rng) for _ in range(800)])

    assert widths({LT_1, LEFT}, 0.8).max() == 1
    assert 1.05 < widths({GTE_1, LEFT}, 1.2).mean() < 1.15
    assert widths({LT_1, LEFT, CHRONIC}, 0.8).mean() > 1.15
    without = [sample_dilation(frozenset({NEGATIVE}), 0.8, CONTEST, rng) > 1 for _ in range(3_000)]
    assert np.mean(without) == pytest.approx((292 + 145) / 2211, abs=0.03)
    patient = sample_patient(np.random.default_rng(1), effusion_share=0, opacity_share=0)
    plain, wide = (
        build_arteries(patient, np.random.default_rng(0), dilation=dilation).tubes.r0[0] for dilation in (1.0, 1.3)
    )
    assert wide == pytest.approx(1.3 * plain)
