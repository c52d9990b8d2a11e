"""The lung box: exact on a synthetic thorax, independent of objects around the patient, flagged without lungs."""

import numpy as np
import pytest

from features.lung_box import find_lung_box
from tests.support.synthetic_thorax import AIR, MUSCLE, ellipse, make_thorax

PIXEL = 3.0
CENTRE = 63.5 * PIXEL


def in_mm(box):
    """(y0, y1, x0, x1) in mm from the image's centre; the edges of a box are pixel edges."""
    return [edge * PIXEL - PIXEL / 2 - CENTRE for edge in (box.y0, box.y1, box.x0, box.x1)]


def test_the_box_encloses_the_lungs_with_the_margin():
    box = find_lung_box(make_thorax(), (PIXEL, PIXEL), margin_mm=10)
    assert box.found
    assert in_mm(box) == pytest.approx([-90, 90, -140, 140], abs=6)
    assert (box.z0, box.z1) == (2, 10)


def test_the_midline_follows_the_patient():
    box = find_lung_box(make_thorax(shift_mm=18.0), (PIXEL, PIXEL))
    assert box.middle_x * PIXEL - CENTRE == pytest.approx(18, abs=6)


def test_one_slice_is_enough():
    box = find_lung_box(make_thorax(1), (PIXEL, PIXEL))
    assert box.found
    assert (box.z0, box.z1) == (0, 1)
    assert in_mm(box) == pytest.approx([-90, 90, -140, 140], abs=6)


def test_table_arms_and_bowel_gas_do_not_move_the_box():
    hu = make_thorax()
    expected = find_lung_box(hu, (PIXEL, PIXEL))
    hu[:, 108:111, 4:124] = MUSCLE  # table
    for side in (-178, 178):
        hu[:, ellipse((128, 128), (PIXEL, PIXEL), (60, side), (18, 10))] = MUSCLE
    hu[:2, ellipse((128, 128), (PIXEL, PIXEL), (-85, 30), (12, 20))] = AIR
    assert find_lung_box(hu, (PIXEL, PIXEL)) == expected


def test_hazy_air_around_the_patient_is_not_lung():
    hu = make_thorax()
    expected = find_lung_box(hu, (PIXEL, PIXEL))
    hu[hu < -930] += 60  # blankets and poor calibration: emptier than lung, denser than air
    assert find_lung_box(hu, (PIXEL, PIXEL)) == expected


def test_a_prone_patient_has_the_same_box():
    box = find_lung_box(make_thorax()[:, ::-1], (PIXEL, PIXEL))
    assert in_mm(box) == pytest.approx([-90, 90, -140, 140], abs=6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_consolidated_lung_stays_in_the_box(side):
    box = find_lung_box(make_thorax(**{side: False}), (PIXEL, PIXEL))
    edges = in_mm(box)
    assert box.found
    assert edges[2] < -100
    assert edges[3] > 100


def test_without_lungs_the_box_is_the_body_and_is_flagged():
    box = find_lung_box(make_thorax(right=False, left=False), (PIXEL, PIXEL), margin_mm=0)
    assert not box.found
    assert in_mm(box) == pytest.approx([-115, 115, -165, 165], abs=8)


@pytest.mark.parametrize("value", [-1024, 40])
def test_an_empty_image_gives_a_valid_box(value):
    box = find_lung_box(np.full((2, 64, 64), value, np.int16), (PIXEL, PIXEL))
    assert not box.found
    assert 0 <= box.y0 < box.y1 <= 64
    assert 0 <= box.x0 < box.x1 <= 64
    assert 0 <= box.z0 < box.z1 <= 2


def test_noise_does_not_hide_the_lungs():
    box = find_lung_box(make_thorax(noise=60.0), (PIXEL, PIXEL))
    assert box.found
    assert in_mm(box) == pytest.approx([-90, 90, -140, 140], abs=9)


def test_a_long_side_is_clipped_about_its_centre():
    box = find_lung_box(make_thorax(), (PIXEL, PIXEL), max_box_mm=150)
    assert (box.x1 - box.x0) * PIXEL == pytest.approx(150, abs=PIXEL)
    assert (box.x0 + box.x1) / 2 == pytest.approx(64, abs=1)
