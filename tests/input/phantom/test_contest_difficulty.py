"""The steps above easy: the contest's statistics, webs, wide trunks; and what must not give PE away."""

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
from input.phantom.emboli import Clot, Placement, clot_tubes
from input.phantom.exam_generator import draw_dilation, draw_grid, draw_ratio, place_clots, streams
from input.phantom.labels import draw_q, draw_states
from input.phantom.patient import draw_patient
from input.phantom.raster import Grid, Tubes, tube_coverage
from input.phantom.synthetic_contest import plan
from input.phantom.vessel_trees import LEFT_LUNG, Arteries, draw_arteries
from pipeline.settings import load_settings

CONTEST = DIFFICULTIES["contest"]
#: What z, body size, scanner and noise may tell of a slice, and of an exam (.5 is nothing; 400 exams: SD .03).
SLICE_AUC, EXAM_AUC = 0.70, 0.59


def test_the_settings_file_has_the_contests_statistics() -> None:
    settings = load_settings("settings/contest_phantom.toml", overrides=["phantom.train_exams=7279"]).phantom
    assert (settings.difficulty, settings.rows, settings.slices) == ("contest", 512, 246)
    states = [state for _, split, _, state in plan(settings) if split == "train"]
    positive = [state for state in states if state.positive]
    assert len(positive) / len(states) == pytest.approx(2211 / 7279, abs=0.001)
    rng = np.random.default_rng(0)
    q = np.array([draw_q(state.quartile, CONTEST, rng) for state in positive])
    assert np.median(q) == pytest.approx(0.144, abs=0.012)
    assert q.mean() * len(positive) / len(states) == pytest.approx(0.0539, abs=0.003)
    assert 0.8 < q.max() <= 0.87


@cache
def placed() -> pd.DataFrame:
    """Slices of 36 exams with PE at the contest step, drawn without pixels: z, size, noise, whether positive."""
    states = [state for state in draw_states(120, 0.304, np.random.default_rng(1)) if state.positive]
    rows = []
    for index, state in enumerate(states):
        rng = streams(9, index)
        patient = draw_patient(rng["patient"], effusion_share=0.2, opacity_share=0.25)
        grid, fov = draw_grid(rng["patient"], patient, 224, 100)
        arteries = draw_arteries(patient, rng["anatomy"], twigs=CONTEST.twigs)
        _, truth = place_clots(state, arteries, grid, CONTEST, rng["clots"])
        physics.draw_contrast(rng["physics"], poor=False)
        scanner = physics.draw_scanner(rng["physics"], CONTEST.noise_sd)
        rows.append(
            pd.DataFrame({
                "z": (grid.z - grid.z[0]) / (grid.z[-1] - grid.z[0]), "fov": fov, "height": patient.scale[2],
                "fat": patient.fat, "noise": scanner.noise_sd, "blur": scanner.blur_mm, "slices": len(grid.z),
                "exam": index, "positive": truth.area >= CONTEST.visible_mm2,
            })
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_what_is_drawn_has_the_wanted_burden() -> None:
    q = placed().groupby("exam")["positive"].mean()
    assert 0.145 < q.mean() < 0.215
    assert 0.1 < q.median() < 0.19
    assert q.min() > 0


@pytest.mark.parametrize("known", [["z"], ["z", "fov", "height", "fat", "noise", "blur", "slices"]])
def test_slices_are_not_predictable_without_looking_at_clots(known: list[str]) -> None:
    table = placed()
    model = ExtraTreesClassifier(60, min_samples_leaf=40, random_state=0)
    guess = cross_val_predict(
        model, table[known], table["positive"], groups=table["exam"], cv=GroupKFold(4), method="predict_proba"
    )
    assert roc_auc_score(table["positive"], guess[:, 1]) < SLICE_AUC


@cache
def exams() -> pd.DataFrame:
    """400 exams, half with PE, without clots or pixels: all that is drawn beside them."""
    rows = []
    for index, state in enumerate(draw_states(400, 0.5, np.random.default_rng(2))):
        rng = streams(10, index)
        patient = draw_patient(rng["patient"], effusion_share=0.2, opacity_share=0.25)
        grid, fov = draw_grid(rng["patient"], patient, 64, 100)
        ratio = draw_ratio(state.on, rng["anatomy"])
        dilation = draw_dilation(state.on, ratio, CONTEST, rng["strain"])
        contrast = physics.draw_contrast(rng["physics"], poor=False)
        scanner = physics.draw_scanner(rng["physics"], CONTEST.noise_sd)
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
    guess = cross_val_predict(model, table.drop(columns="positive"), table["positive"], cv=5, method="predict_proba")
    assert roc_auc_score(table["positive"], guess[:, 1]) < EXAM_AUC


def test_no_two_exams_share_sizes() -> None:
    assert not exams()[["fov", "width", "fat", "noise"]].round(6).duplicated().any()
    for column in ("width", "fat", "noise"):  # field of view and contrast are clipped
        assert exams()[column].nunique() > 350


def test_no_two_exams_share_arteries() -> None:
    seen = set()
    for index in range(24):
        rng = streams(11, index)
        patient = draw_patient(rng["patient"], effusion_share=0, opacity_share=0)
        seen.update(np.round(draw_arteries(patient, rng["anatomy"], twigs=60).tubes.start[::7], 3).ravel().tolist())
    assert len(seen) > 24 * 100


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


def test_webs_are_drawn_among_chronic_clots_but_not_at_the_easy_step() -> None:
    rng = np.random.default_rng(0)
    patient = draw_patient(rng, effusion_share=0, opacity_share=0)
    grid, _ = draw_grid(rng, patient, 128, 100)
    arteries = draw_arteries(patient, rng)
    kinds = {}
    for name in ("easy", "contest"):
        clots = [
            clot
            for _ in range(40)
            for clot in Placement(arteries, grid.z, grid.step, DIFFICULTIES[name], rng).place(
                frozenset({LT_1, LEFT, CHRONIC}), 0.1
            )
        ]
        kinds[name] = np.mean([clot.web for clot in clots])
    assert kinds["easy"] == 0
    assert kinds["contest"] == pytest.approx(CONTEST.web_share, abs=0.12)


def test_strain_and_chronic_disease_widen_the_trunk_as_often_without_pe() -> None:
    rng = np.random.default_rng(3)

    def widths(on: set[str], ratio: float) -> np.ndarray:
        return np.array([draw_dilation(frozenset(on), ratio, CONTEST, rng) for _ in range(800)])

    assert widths({LT_1, LEFT}, 0.8).max() == 1
    assert 1.05 < widths({GTE_1, LEFT}, 1.2).mean() < 1.15
    assert widths({LT_1, LEFT, CHRONIC}, 0.8).mean() > 1.15
    without = [draw_dilation(frozenset({NEGATIVE}), 0.8, CONTEST, rng) > 1 for _ in range(3_000)]
    assert np.mean(without) == pytest.approx((292 + 145) / 2211, abs=0.03)
    patient = draw_patient(np.random.default_rng(1), effusion_share=0, opacity_share=0)
    plain, wide = (
        draw_arteries(patient, np.random.default_rng(0), dilation=dilation).tubes.r0[0] for dilation in (1.0, 1.3)
    )
    assert wide == pytest.approx(1.3 * plain)
