"""In-plane resampling: means and positions are preserved, noise is averaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.resample import axis_weights, resample_box


@given(st.integers(0, 20), st.integers(1, 40), st.floats(0.3, 2.0), st.floats(0.3, 5.0))
@settings(max_examples=50, deadline=None)
def test_weights_are_non_negative_and_sum_to_one(start, length, pixel_mm, spacing_mm):
    weights = axis_weights(start, start + length, 64, pixel_mm, spacing_mm)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


def test_the_same_spacing_only_crops():
    hu = np.random.default_rng(0).integers(-1024, 3071, (2, 20, 24)).astype(np.int16)
    np.testing.assert_array_equal(resample_box(hu, (3, 15, 4, 20), (0.8, 0.8), 0.8), hu[:, 3:15, 4:20])


def test_shrinking_by_two_averages_four_pixels():
    hu = np.array([[[0, 10, 100, 110], [20, 30, 120, 130]]], np.int16)
    assert resample_box(hu, (0, 2, 0, 4), (1.0, 1.0), 2.0).tolist() == [[[15, 115]]]


def test_shrinking_averages_noise():
    hu = np.random.default_rng(0).normal(0, 100, (1, 200, 200)).astype(np.int16)
    assert resample_box(hu, (0, 200, 0, 200), (0.5, 0.5), 2.0).std() == pytest.approx(25, rel=0.1)


def test_enlarging_interpolates_linearly():
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.int16), (1, 16, 1))
    larger = resample_box(ramp, (0, 16, 0, 16), (1.0, 1.0), 0.5)
    assert larger.shape == (1, 32, 32)
    # Output pixel 10 spans 5.0-5.5 mm: a quarter pixel left of the centre of input pixel 5.
    np.testing.assert_allclose(larger[0, 5, 10:14], [47.5, 52.5, 57.5, 62.5], atol=0.5)


def test_a_blob_keeps_its_position_in_mm():
    hu = np.full((1, 100, 100), -1000, np.int16)
    hu[0, 40:50, 60:70] = 1000  # centre at (45, 65) pixels of 0.7 mm
    small = resample_box(hu, (10, 90, 20, 95), (0.7, 0.7), 1.6).astype(float) + 1000
    y, x = (np.indices(small.shape[1:]) * small).sum(axis=(1, 2)) / small.sum()
    box_y_mm, box_x_mm = (10 + 90) / 2 * 0.7, (20 + 95) / 2 * 0.7
    assert box_y_mm + (y - (small.shape[1] - 1) / 2) * 1.6 == pytest.approx(45 * 0.7, abs=0.1)
    assert box_x_mm + (x - (small.shape[2] - 1) / 2) * 1.6 == pytest.approx(65 * 0.7, abs=0.1)


def test_unequal_pixels_become_square():
    assert resample_box(np.zeros((1, 50, 100), np.int16), (0, 50, 0, 100), (2.0, 1.0), 2.0).shape == (1, 50, 50)


@pytest.mark.parametrize(("pixel_mm", "spacing_mm"), [(0.625, 0.75), (0.9, 0.75), (0.7, 1.4)])
def test_grey_levels_are_those_of_exact_products(pixel_mm, spacing_mm):
    hu = np.random.default_rng(0).integers(-1024, 3072, (2, 96, 110)).astype(np.int16)
    down = axis_weights(7, 93, 96, pixel_mm, spacing_mm)
    across = axis_weights(3, 101, 110, pixel_mm, spacing_mm)
    exact, bound = product_and_error_bound(down, hu, across)
    assert bound.max() < 0.01  # so a level is determined unless the product is almost exactly between two integers
    levels = resample_box(hu, (7, 93, 3, 101), (pixel_mm, pixel_mm), spacing_mm)
    assert (np.rint(exact - bound) <= levels).all()
    assert (levels <= np.rint(exact + bound)).all()


def product_and_error_bound(down, hu, across):
    """The product down @ plane @ across.T in float64, and a bound on the error of computing it in float32.

    A float32 sum of n products, in any order and with or without fused operations, errs by at most
    n u / (1 - n u) times the sum of the products' magnitudes, where u = 2 ** -24 (Higham 2002, Accuracy and Stability
    of Numerical Algorithms, section 3.1). A sum of n1 products over
    sums of n2 products has the bound of n = n1 + n2. Terms with weight 0 are
    exact and do not count.

    Args:
        down: float32 (y', y) weights.
        hu: int16 (z, y, x), exact in float32.
        across: float32 (x', x) weights.

    Returns:
        float64 (z, y', x') product and bound.
    """
    down, planes, across = (array.astype(np.float64) for array in (down, hu, across))
    terms = sum(np.count_nonzero(weights, axis=1).max() for weights in (down, across))
    unit = np.finfo(np.float32).eps / 2
    relative = terms * unit / (1 - terms * unit)
    return down @ planes @ across.T, relative * (np.abs(down) @ np.abs(planes) @ np.abs(across).T)
