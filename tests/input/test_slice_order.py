"""Anatomical slice order, and flags of irregular series."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.slice_file import read_header
from input.slice_order import order_series, slice_step_mm, split_by_geometry
from tests.support.dicom_files import write_slice


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    return read_header(write_slice(tmp_path_factory.mktemp("order") / "s.dcm"))


def series(header, z_mm, numbers=None):
    numbers = numbers or range(1, len(z_mm) + 1)
    return [
        dataclasses.replace(header, z_mm=float(z), instance_number=number, sop_uid=f"1.{index}")
        for index, (z, number) in enumerate(zip(z_mm, numbers, strict=True))
    ]


def test_slices_ascend_to_the_head_even_if_instance_numbers_descend(header):
    ordered, flags = order_series(series(header, [5, 3.75, 2.5], [1, 2, 3]))
    assert [header.z_mm for header in ordered] == [2.5, 3.75, 5]
    assert flags == ()


def test_wrong_instance_numbers_are_flagged_and_ignored(header):
    ordered, flags = order_series(series(header, [0, 1, 2, 3], [2, 4, 1, 3]))
    assert [header.z_mm for header in ordered] == [0, 1, 2, 3]
    assert flags == ("instance_order_differs",)


def test_two_passes_at_the_same_positions_keep_every_slice(header):
    ordered, flags = order_series(series(header, [0, 1, 2, 0.0002, 1.0002, 2.0002], [1, 2, 3, 4, 5, 6]))
    assert [header.instance_number for header in ordered] == [1, 4, 2, 5, 3, 6]
    assert "duplicate_positions" in flags


def test_ties_are_broken_by_the_sop_instance_uid(header):
    ordered, _ = order_series(series(header, [0, 0, 0], [1, 1, 1])[::-1])
    assert [header.sop_uid for header in ordered] == ["1.0", "1.1", "1.2"]


def test_a_gap_is_flagged(header):
    assert order_series(series(header, [0, 1, 2, 4, 5]))[1] == ("gaps",)
    assert order_series(series(header, [0, 1, 2, 3, 4.4]))[1] == ()


def test_a_single_slice_is_flagged(header):
    ordered, flags = order_series(series(header, [7]))
    assert len(ordered) == 1 and flags == ("single_slice",)
    assert math.isnan(slice_step_mm([7.0]))


def test_two_orientations_are_flagged(header):
    first, second = series(header, [0, 1])
    second = dataclasses.replace(second, row_direction=(-1.0, 0.0, 0.0))
    assert "two_orientations" in order_series([first, second])[1]


def test_the_step_ignores_duplicate_positions():
    assert slice_step_mm([0, 0, 1.25, 1.25, 2.5, 2.5]) == 1.25


@given(st.permutations(range(12)))
def test_file_order_does_not_matter(header, permutation):
    slices = series(header, [0, 1, 1, 2, 3, 4, 4, 5, 9, 10, 11, 12])
    assert order_series([slices[index] for index in permutation]) == order_series(slices)


def test_a_slice_of_another_size_is_rejected_with_the_reason(header):
    slices = series(header, [0, 1, 2])
    slices[1] = dataclasses.replace(slices[1], shape=(128, 128))
    kept, rejected = split_by_geometry(slices)
    assert [header.z_mm for header in kept] == [0, 2]
    assert rejected == [(slices[1], "128 x 128 pixels of 0.7 x 0.7 mm in a series of 64 x 64 pixels of 0.7 x 0.7 mm")]


def test_all_slices_are_rejected_without_a_common_geometry(header):
    slices = [dataclasses.replace(other, shape=(64 + 8 * n, 64)) for n, other in enumerate(series(header, [0, 1, 2]))]
    kept, rejected = split_by_geometry(slices)
    assert kept == [] and len(rejected) == 3
    assert rejected[0][1] == "geometry lost: no shape and spacing is shared by half of the 3 slices"


def test_all_slices_are_rejected_when_they_share_one_position(header):
    kept, rejected = split_by_geometry(series(header, [4, 4, 4]))
    assert kept == [] and rejected[0][1] == "geometry lost: all 3 slices are at z = 4 mm"
