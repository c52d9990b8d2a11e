"""Left stays left: slices of every orientation are brought to radiological display orientation."""

import numpy as np
import pytest

from input.slice_file import read_header, read_pixels
from tests.support.dicom_files import body_hu, write_slice

#: Name -> ImageOrientationPatient, and how the slice in display orientation was transmitted.
TRANSMITTED = {
    "supine": ((1, 0, 0, 0, 1, 0), lambda hu: hu),
    "prone": ((-1, 0, 0, 0, -1, 0), lambda hu: hu[::-1, ::-1]),
    "mirrored": ((-1, 0, 0, 0, 1, 0), lambda hu: hu[:, ::-1]),
    "upside down": ((1, 0, 0, 0, -1, 0), lambda hu: hu[::-1]),
    "transposed": ((0, 1, 0, 1, 0, 0), lambda hu: hu.T),
    "quarter turn": ((0, 1, 0, -1, 0, 0), lambda hu: hu.T[::-1]),
    "other quarter turn": ((0, -1, 0, 1, 0, 0), lambda hu: hu.T[:, ::-1]),
    "transposed half turn": ((0, -1, 0, -1, 0, 0), lambda hu: hu.T[::-1, ::-1]),
}


@pytest.mark.parametrize("name", TRANSMITTED)
def test_every_orientation_is_brought_to_display_orientation(tmp_path, name):
    orientation, transmit = TRANSMITTED[name]
    path = write_slice(tmp_path / "s.dcm", transmit(body_hu()), ImageOrientationPatient=list(orientation))
    np.testing.assert_array_equal(read_pixels(path), body_hu())


@pytest.mark.parametrize("name", TRANSMITTED)
def test_z_increases_to_the_head_in_every_orientation(tmp_path, name):
    path = write_slice(tmp_path / "s.dcm", z=-123.5, ImageOrientationPatient=list(TRANSMITTED[name][0]))
    assert read_header(path).z_mm == -123.5


def test_spacing_and_shape_of_a_transposed_slice_are_swapped(tmp_path):
    hu = np.zeros((64, 80), np.int16)
    path = write_slice(tmp_path / "s.dcm", hu, ImageOrientationPatient=[0, 1, 0, 1, 0, 0], PixelSpacing=[0.5, 0.8])
    header = read_header(path)
    assert header.shape == (80, 64) == read_pixels(path).shape
    assert header.spacing_mm == (0.8, 0.5)


def test_only_rotated_slices_are_flagged(tmp_path):
    assert read_header(write_slice(tmp_path / "s.dcm")).flags == ()
    rotated = write_slice(tmp_path / "t.dcm", ImageOrientationPatient=[-1, 0, 0, 0, -1, 0], PatientPosition="HFP")
    assert set(read_header(rotated).flags) == {"prone", "not_display_orientation"}


def test_a_slice_of_a_tilted_gantry_is_axial(tmp_path):
    tilt = np.deg2rad(25)
    orientation = [1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
    header = read_header(write_slice(tmp_path / "s.dcm", z=10.0, ImageOrientationPatient=orientation))
    assert header.z_mm == pytest.approx(10 * np.cos(tilt) - 20 * np.sin(tilt))
