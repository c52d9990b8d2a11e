"""Rasterization of tubes and ellipsoids: volumes and partial volume."""

import numpy as np
import pytest

from input.phantom import raster
from input.phantom.raster import Grid, Tubes, ellipsoid_coverage, polyline, tube_coverage


def grid(pixel: float = 1.0, step: float = 1.0, reach: float = 20.0) -> Grid:
    axis = np.arange(-reach, reach + pixel / 2, pixel)
    return Grid(axis, axis, np.arange(-reach, reach + step / 2, step), step)


def tube(start: tuple, end: tuple, radius: float) -> Tubes:
    return Tubes(np.array([start], float), np.array([end], float), np.array([radius]), np.array([radius]))


@pytest.mark.parametrize("step", [1.0, 5.0])
@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_a_tube_fills_its_volume_at_any_slice_thickness(radius: float, step: float) -> None:
    voxels = grid(step=step)
    _, cover = tube_coverage(voxels, tube((-10, 0, 0), (10, 0, 0), radius))
    volume = float(cover.sum()) * voxels.pixel**2 * step
    assert volume == pytest.approx(np.pi * radius**2 * 20 + 4 / 3 * np.pi * radius**3, rel=0.06)


def test_a_vessel_thinner_than_a_slice_is_averaged() -> None:
    voxels = grid(step=5.0)
    box, cover = tube_coverage(voxels, tube((-10, 0, 0), (10, 0, 0), 1.0))
    middle = cover[np.argmin(np.abs(voxels.z[box[0]])), np.argmin(np.abs(voxels.y[box[1]])), len(voxels.x[box[2]]) // 2]
    assert 0.2 < middle < 0.7


def test_pieces_join_without_seams() -> None:
    voxels = grid()
    _, whole = tube_coverage(voxels, tube((-12, 0, 0), (12, 0, 0), 4.0))
    _, pieces = tube_coverage(voxels, polyline([(-12, 0, 0), (0, 0, 0), (12, 0, 0)], 4.0, spacing=2.0))
    assert np.abs(whole - pieces).max() < 1e-4


@pytest.mark.parametrize("pixel", [0.7, 1.5])
def test_no_voxel_is_missed_beside_the_rows_that_a_piece_can_reach(
    pixel: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oblique, axis-parallel and degenerate pieces, tapered, some of them partly outside."""
    random = np.random.default_rng(0)
    start = random.uniform(-25, 25, (60, 3))
    end = start + random.normal(0, 8, (60, 3))
    for axis in range(3):  # parallel to one axis
        end[axis * 10 : (axis + 1) * 10] = start[axis * 10 : (axis + 1) * 10]
        end[axis * 10 : (axis + 1) * 10, axis] += random.uniform(-12, 12, 10)
    end[30:33] = start[30:33]  # without length
    tubes = Tubes(start, end, random.uniform(0.5, 5, 60), random.uniform(0.5, 5, 60))
    voxels = grid(pixel, 3.0)
    box, cover = tube_coverage(voxels, tubes)

    def whole_rows(axes: tuple, tubes: Tubes, piece: np.ndarray, *_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(piece), int), np.full(len(piece), len(axes[0]))

    monkeypatch.setattr(raster, "_row_bounds", whole_rows)
    expected_box, expected = tube_coverage(voxels, tubes)
    assert box == expected_box and expected.max() == 1
    np.testing.assert_array_equal(cover, expected)


def test_tubes_outside_the_grid_have_no_coverage() -> None:
    box, cover = tube_coverage(grid(), tube((100, 100, 100), (110, 100, 100), 3.0))
    assert cover.size == 0
    assert all(part.start == part.stop for part in box)


def test_an_ellipsoid_fills_its_volume() -> None:
    _, cover = ellipsoid_coverage(grid(), np.zeros(3), np.eye(3), np.array([8.0, 10.0, 6.0]))
    assert float(cover.sum()) == pytest.approx(4 / 3 * np.pi * 480, rel=0.06)
