"""Vectorised reductions against the same values computed exam by exam."""

import numpy as np
import pytest

from ensemble.exam_table import _measured_features
from ensemble.segments import Segments

SIZES = (1, 5, 2, 9)
Layout = tuple[Segments, np.ndarray, list[slice]]


@pytest.fixture
def layout() -> Layout:
    generator = np.random.default_rng(3)
    starts = np.concatenate([[0], np.cumsum(SIZES)])
    z = np.concatenate([np.sort(generator.uniform(-200, 200, size)) for size in SIZES])
    parts = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return Segments(starts, z), generator.normal(size=len(z)), parts


def test_quantiles_and_sums_match_numpy(layout: Layout) -> None:
    segments, values, parts = layout
    expected = np.array([np.quantile(values[part], (0.1, 0.5, 0.9)) for part in parts])
    np.testing.assert_allclose(segments.quantiles(values, (0.1, 0.5, 0.9)), expected)
    np.testing.assert_allclose(segments.sum(values), [values[part].sum() for part in parts])
    np.testing.assert_allclose(segments.max(values), [values[part].max() for part in parts])


def test_thickness_is_half_the_distance_between_neighbours() -> None:
    segments = Segments(np.array([0, 4, 5]), np.array([0.0, 2.0, 6.0, 7.0, 3.0]))
    np.testing.assert_allclose(segments.thickness, [2.0, 3.0, 2.5, 1.0, 1.0])


def test_top_mm_includes_part_of_the_last_slice() -> None:
    segments = Segments(np.array([0, 3]), np.array([0.0, 2.0, 4.0]))
    values = np.array([1.0, 5.0, 3.0])
    np.testing.assert_allclose(segments.top_mm(values, (2.0, 3.0, 100.0)), [[5.0, (5 * 2 + 3) / 3, 3.0]])


def test_longest_run_and_extent_do_not_cross_exams() -> None:
    segments = Segments(np.array([0, 4, 7]), np.array([0.0, 1, 2, 3, 0, 1, 2]))
    mask = np.array([True, False, True, True, True, False, False])
    np.testing.assert_allclose(segments.longest_run(mask), [2.0, 1.0])
    np.testing.assert_allclose(segments.extent(mask), [4.0, 1.0])
    np.testing.assert_allclose(segments.extent(np.zeros(7, bool)), [0.0, 0.0])


def test_rolling_values_and_smoothing_match_loops(layout: Layout) -> None:
    segments, values, parts = layout
    for half in (0.5, 40.0, 1000.0):
        low, high, smooth = [], [], []
        for part in parts:
            z, v, t = segments.z[part], values[part], segments.thickness[part]
            for position in z:
                near = np.abs(z - position) <= half
                low.append(np.average(v[near], weights=t[near]))
                high.append(v[near].max())
                distance = np.abs(z - position)
                kernel = t * np.exp(-0.5 * (distance / half) ** 2) * (distance <= 3 * half)
                smooth.append(np.average(v, weights=kernel))
        np.testing.assert_allclose(segments.rolling_mean(values, half), low)
        np.testing.assert_allclose(segments.rolling_max(values, half), high)
        np.testing.assert_allclose(segments.smooth(values, half), smooth)


def test_offsets_are_in_mm_and_constant_beyond_the_ends() -> None:
    segments = Segments(np.array([0, 3, 5]), np.array([0.0, 10.0, 30.0, 0.0, 10.0]))
    values = np.array([0.0, 1.0, 5.0, 100.0, 200.0])
    np.testing.assert_allclose(segments.at_offset(values, 5.0), [0.5, 2.0, 5.0, 150.0, 200.0])
    np.testing.assert_allclose(segments.at_offset(values, -20.0), [0.0, 0.0, 1.0, 100.0, 100.0])


def test_an_exam_with_an_unknown_z_uses_slice_numbers() -> None:
    segments = Segments(np.array([0, 3]), np.array([np.nan, 4.0, 5.0]))
    np.testing.assert_allclose(segments.z, [0.0, 1.0, 2.0])


def test_a_measurement_missing_on_every_slice_is_missing_not_zero() -> None:
    segments = Segments(np.array([0, 2, 4]), np.array([0.0, 1, 0, 1]))
    values, attention = np.array([np.nan, np.nan, 7.0, np.nan]), np.ones(4)
    for feature in _measured_features(segments, "noise", values, attention).values():
        assert np.isnan(feature[0]) and feature[1] == pytest.approx(7.0)


def test_ascending_sorts_within_exams_with_signs_infinities_and_nan() -> None:
    segments = Segments(np.array([0, 5, 9]), np.arange(9.0))
    values = np.array([3.5, -0.25, -np.inf, 0.0, -7.0, np.nan, 1e30, -1e30, np.inf])
    assert segments.ascending(values).tolist() == [2, 4, 1, 3, 0, 7, 6, 8, 5]
