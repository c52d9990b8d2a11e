"""Anatomy of synthetic exams: attenuation of tissues, vessels, heart diameters, variation between exams."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from input.contest import GTE_1, INDETERMINATE, LEFT, LT_1, NEGATIVE, QA_CONTRAST, QA_MOTION
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.exam_generator import SyntheticExam, generate_exam, sample_rv_lv_ratio, streams
from input.phantom.heart_anatomy import Ellipsoid, build_heart, paint_heart, right_ventricle_distance, widest_extent
from input.phantom.labels import ExamState
from input.phantom.patient import Patient, sample_patient, to_patient
from input.phantom.raster import Grid, ellipsoid_distance
from input.phantom.thorax import lung_points, point_margin
from input.phantom.vessel_trees import CENTRAL_REGIONS, LEFT_LUNG, RIGHT_LUNG, build_arteries, build_veins


@cache
def synthetic_exam(index: int, *labels: str) -> SyntheticExam:
    labels = labels or (NEGATIVE,)
    state = ExamState(frozenset(labels), -1 if NEGATIVE in labels or INDETERMINATE in labels else 1)
    return generate_exam(state, DIFFICULTIES["medium"], seed=3, index=index, rows=128, slices=30)


def patient(index: int = 0) -> Patient:
    return sample_patient(streams(3, index)["patient"], effusion_share=0.0, opacity_share=0.0)


def around(exam: SyntheticExam, reference: tuple[float, float, float], radius: float = 4.0) -> np.ndarray:
    """Return HU within `radius` mm in the axial plane around a point of the reference anatomy."""
    x, y, z = to_patient(exam.patient, [reference])[0]
    plane = exam.hu[np.argmin(np.abs(exam.grid.z - z))]
    near = np.hypot(exam.grid.x[None, :] - x, exam.grid.y[:, None] - y) < radius
    return plane[near]


@pytest.mark.parametrize(
    ("tissue", "point", "low", "high"),
    [
        ("trachea", (0.5, 15, 45), -1024, -900),
        ("descending aorta", (26, 41, -25), 230, 430),
        ("lung", (-85, -20, 0), -960, -700),
        ("liver", (-60, -10, -136), 55, 95),
        ("left ventricle", (8, -22, -76), 230, 440),
        ("pulmonary trunk", (20, -28, -24), 270, 560),
        ("superior vena cava", (-31, -18, -10), 280, 1350),
        ("oesophagus", (5, 31, 0), 10, 70),
        ("vertebra", (0, 57, -10), 80, 500),
    ],
)
def test_tissues_have_their_attenuation(tissue: str, point: tuple, low: float, high: float) -> None:
    values = [np.median(around(synthetic_exam(index), point)) for index in (1, 2, 3)]
    assert low < np.median(values) < high, f"{tissue}: {values}"


def test_arteries_are_enhanced_in_a_good_contrast_phase_only() -> None:
    for exam, low, high in ((synthetic_exam(1), 270, 560), (synthetic_exam(4, INDETERMINATE, QA_CONTRAST), 60, 200)):
        wide = exam.artery & (np.cumsum(exam.artery, axis=2) > 3)
        assert low < np.median(exam.hu[wide]) < high


def test_ventricular_walls_have_the_attenuation_of_myocardium() -> None:
    exam = synthetic_exam(1)
    left, right = exam.heart.left_ventricle, exam.heart.right_ventricle
    near = exam.grid.box(left.centre - 60, left.centre + 60)
    part = exam.grid.part(near)

    def distance(shape: Ellipsoid) -> np.ndarray:
        return ellipsoid_distance(part, shape.centre, shape.axes, shape.semi)

    middle = (np.abs(part.z - left.centre[2]) < 16)[:, None, None]
    wall = middle & (distance(left) > 3) & (distance(left) < 6) & (distance(right) > 3)
    assert wall.sum() > 50
    assert 35 < np.median(exam.hu[near][wall]) < 110


def test_clots_have_the_attenuation_of_their_kind() -> None:
    for name, difficulty in DIFFICULTIES.items():
        assert 30 <= difficulty.acute_hu[0] < difficulty.acute_hu[1] <= 70, name
        assert 70 <= difficulty.chronic_hu[0] < difficulty.chronic_hu[1] <= 105, name
    for label, low, high in (("central_pe", 30, 70), ("chronic_pe", 70, 105)):
        state = ExamState(frozenset({"central_pe", LEFT, LT_1, label}), 3)
        exam = generate_exam(state, DIFFICULTIES["medium"], seed=3, index=3, rows=160, slices=40)
        assert all(low <= clot["hu"] <= high for clot in exam.clots)
        central = np.isin(exam.clot % 8, CENTRAL_REGIONS)
        core = binary_erosion(central, np.ones((1, 3, 3)))
        expected = np.median([clot["hu"] for clot in exam.clots if clot["region"] in CENTRAL_REGIONS])
        assert core.sum() > 10
        assert np.median(exam.hu[core]) == pytest.approx(expected, abs=30)


def test_exams_contain_air_fat_and_bone() -> None:
    exam = synthetic_exam(1)
    assert np.median(exam.hu[:, :3]) < -950
    assert 0.01 < np.mean(exam.hu > 350) < 0.2
    fat = (exam.hu > -140) & (exam.hu < -60)
    assert fat.mean() > 0.03


def test_the_dependent_lung_is_denser() -> None:
    person = patient()
    points = to_patient(person, lung_points(person, 400, np.random.default_rng(0), margin=10.0))
    exam = generate_exam(
        ExamState(frozenset({NEGATIVE}), -1), DIFFICULTIES["easy"], seed=3, index=0, rows=96, slices=24
    )
    axes = (exam.grid.x, exam.grid.y, exam.grid.z)
    index = [np.abs(axis[None, :] - points[:, i, None]).argmin(axis=1) for i, axis in enumerate(axes)]
    values = exam.hu[index[2], index[1], index[0]]
    inside = values < -700
    slope = np.polyfit(points[inside, 1], values[inside], 1)[0]
    assert (slope > 0.1) != exam.patient.prone


def test_noise_has_the_level_of_the_scanner() -> None:
    exam = synthetic_exam(1)
    liver = around(exam, (-60, -10, -136), radius=14)
    assert 0.5 * exam.scanner.noise_sd < liver.std() < 1.8 * exam.scanner.noise_sd


def test_breathing_motion_is_visible() -> None:
    still, moved = synthetic_exam(6), synthetic_exam(6, INDETERMINATE, QA_MOTION)
    sharpness = [np.mean(np.abs(np.diff(exam.hu.astype(float), axis=1))) for exam in (still, moved)]
    assert sharpness[1] < 0.85 * sharpness[0]


@pytest.mark.parametrize("ratio", [0.7, 0.85, 0.95, 1.05, 1.3, 1.6])
def test_heart_diameters_have_the_requested_ratio(ratio: float) -> None:
    assert build_heart(patient(), ratio).ratio == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("ratio", [0.8, 1.3])
def test_diameters_measured_on_the_rendered_volume_agree(ratio: float) -> None:
    heart = build_heart(patient(), ratio)
    axis = np.arange(-110, 110, 1.0)
    grid = Grid(axis, axis, np.arange(-115, -45, 4.0), 4.0)
    hu = {"fat": -80.0, "muscle": 62.0, "rv": 380.0, "ra": 300.0, "lv": 380.0, "la": 380.0}
    volume = np.zeros(grid.shape, np.float32)
    lumina = paint_heart(volume, heart, grid, hu)
    measured = widest_extent(lumina["rv"], grid, heart.across) / widest_extent(lumina["lv"], grid, heart.across)
    assert measured == pytest.approx(ratio, rel=0.04)
    assert (measured >= 1) == (ratio >= 1)
    inner = right_ventricle_distance(heart, grid) < -3
    assert np.median(volume[inner]) == pytest.approx(380, abs=5)


def test_rv_lv_ratio_without_pe_is_a_mixture() -> None:
    rng = np.random.default_rng(0)
    ratios = np.array([sample_rv_lv_ratio(frozenset({NEGATIVE}), rng) for _ in range(2_000)])
    assert np.mean(ratios >= 1) == pytest.approx(940 / 2211, abs=0.03)
    assert min(sample_rv_lv_ratio(frozenset({GTE_1, LEFT}), rng) for _ in range(500)) >= 1.05
    assert max(sample_rv_lv_ratio(frozenset({LT_1, LEFT}), rng) for _ in range(500)) <= 0.95


def test_arteries_narrow_from_the_trunk_to_the_periphery_of_both_lungs() -> None:
    person = patient()
    arteries = build_arteries(person, np.random.default_rng(0))
    tubes, segment = arteries.tubes, arteries.segment
    assert 24 < 2 * tubes.r0[0] < 33
    first = np.array([np.flatnonzero(segment == s)[0] for s in range(len(arteries.parent))])
    grown = np.flatnonzero(arteries.parent >= 11)
    assert np.all(tubes.r1[first[grown]] <= tubes.r0[first[arteries.parent[grown]]] + 1e-9)
    for region, side in ((RIGHT_LUNG, -1), (LEFT_LUNG, 1)):
        ends = tubes.end[arteries.region[segment] == region]
        assert np.all(np.sign(np.median(ends[:, 0])) == side)
        assert np.ptp(ends[:, 2]) > 180
        depth = point_margin(person, (ends - person.shift) / person.scale)
        assert np.quantile(depth, 0.1) < 10, "twigs reach the pleura"


def test_veins_and_arteries_keep_apart() -> None:
    person = patient()
    rng = np.random.default_rng(0)
    arteries, veins = build_arteries(person, rng).tubes, build_veins(person, rng)
    small_arteries, small_veins = arteries.end[arteries.r0 < 2][::5], veins.end[veins.r0 < 2][::5]
    nearest = np.linalg.norm(small_arteries[:, None] - small_veins[None], axis=2).min(axis=1)
    assert np.median(nearest) > 3


def test_no_two_exams_share_anatomy() -> None:
    first, second = synthetic_exam(1), synthetic_exam(2)
    count = min(len(first.artery), len(second.artery))
    a, b = first.artery[:count], second.artery[:count]
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert dice < 0.6
    assert first.fov_mm != second.fov_mm
