"""HU windows with fixed bounds, and 2.5-D stacks whose neighbours repeat at the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.slices25d import neighbours_by_distance, stack_slice
from features.windows import WINDOWS, apply_window, window_channels


def test_a_window_maps_its_bounds_to_zero_and_one():
    hu = np.array([-251, -250, 100, 450, 451], np.int16)
    assert apply_window(hu, 100, 700).tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_a_window_does_not_depend_on_the_other_pixels():
    alone = apply_window(np.array([40], np.int16), *WINDOWS["mediastinal"])
    with_others = apply_window(np.array([40, -1024, 3071], np.int16), *WINDOWS["mediastinal"])
    assert alone[0] == with_others[0] == 0.5


@given(st.integers(-1024, 3071), st.integers(-1024, 3071))
def test_a_brighter_pixel_is_never_shown_darker(a, b):
    low, high = apply_window(np.array([min(a, b), max(a, b)], np.int16), -600, 1500)
    assert 0 <= low <= high <= 1


def test_a_window_without_width_is_rejected():
    with pytest.raises(ValueError, match="width"):
        apply_window(np.zeros(1), 40, 0)


def test_window_channels_come_last_in_the_given_order():
    channels = window_channels(np.full((2, 3), 100, np.int16), (WINDOWS["pe"], WINDOWS["lung"]))
    assert channels.shape == (2, 3, 2)
    assert channels.dtype == np.float32
    assert channels[0, 0].tolist() == pytest.approx([0.5, (100 + 1350) / 1500])


def test_neighbours_by_distance_keep_the_depth():
    z = np.arange(0, 10, 1.0)
    assert neighbours_by_distance(z, 3.0)[5].tolist() == [2, 5, 8]
    assert neighbours_by_distance(z, 3.0)[0].tolist() == [0, 0, 3]


def test_slices_at_one_position_are_their_own_neighbours():
    z = np.array([0.0, 0.0, 5.0, 5.0])
    assert neighbours_by_distance(z, 5.0)[:, 1].tolist() == [0, 1, 2, 3]


def test_without_a_distance_a_slice_is_its_own_neighbour():
    z = np.array([0.0, 0.0, 5.0])
    assert neighbours_by_distance(z, 0.0).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_a_single_slice_is_every_neighbour():
    assert neighbours_by_distance(np.array([7.0]), 5.0).tolist() == [[0, 0, 0]]


def test_descending_positions_are_rejected():
    with pytest.raises(ValueError, match="ascending"):
        neighbours_by_distance(np.array([1.0, 0.0]), 1.0)


def test_a_stack_has_the_neighbours_as_channels():
    hu = np.arange(3, dtype=np.int16)[:, None, None] * np.ones((1, 2, 4), np.int16)
    stack = stack_slice(hu, np.array([0, 0, 1]))
    assert stack.shape == (2, 4, 3)
    assert stack[1, 2].tolist() == [0, 0, 1]
