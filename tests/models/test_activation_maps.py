"""Activation maps: values of the occlusion maps and their position on the stored slice."""

import dataclasses

import numpy as np
import pytest

from benchmarks.activation import peak_on_stored_slice
from features.lung_box import Box
from features.store import write_exam
from models.activation_maps import load_activation_maps, on_stored_slice
from models.feature_grid import FeatureGrid
from models.occlusion import OcclusionMaps, occlusion_maps
from models.slice_targets import TARGETS
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.errors import UserError
from tests.support.finished_networks import IMAGES, REQUESTED_TARGETS, SETTINGS, SMALL, write_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_runs(patch, tmp_path_factory.mktemp("root"))


@pytest.fixture
def views(tmp_path):
    """Views of one exam of three planes, 40 x 60 stored pixels of 2 mm; plane 1 has one bright pixel at (24, 46)."""
    hu = np.full((3, 40, 60), -250, np.int16)
    hu[1, 24, 46] = 450
    write_exam(
        tmp_path, "exam", "s", hu, z_mm=np.arange(3) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=("a", "b", "c"), box=Box(0, 80, 0, 120, 0, 3, 60.0, True),
    )  # fmt: skip
    return SliceViews(tmp_path, dataclasses.replace(SMALL, height=49, width=65, pixel_mm=1.5))


def test_stored_pixel_view_cell_and_overlay_have_the_same_position(views):
    matrix = views.matrix("exam")
    x, y = matrix @ [46, 24, 1]
    view = views.view("exam", 1)[:, :, 1]
    assert np.unravel_index(view.argmax(), view.shape) == (round(y), round(x))
    grid = FeatureGrid((8.0, 8.0), (y - 16, x - 24))  # the centre of cell (2, 3)
    activation = np.zeros((5, 6), np.float32)
    activation[2, 3] = 1.5
    assert peak_on_stored_slice(activation, grid, matrix) == pytest.approx((24, 46), abs=1e-3)
    overlay = on_stored_slice(activation, grid, matrix, (40, 60))
    assert np.unravel_index(overlay.argmax(), overlay.shape) == (24, 46)
    assert overlay[24, 46] == pytest.approx(1.5, abs=0.05)
    half = round(4 * 1.5 / 2)  # half the way to the next cell: 4 input pixels of 1.5 mm, 3 stored pixels of 2 mm
    assert overlay[24, 46 + half] == pytest.approx(0.75, abs=0.05)


def test_an_occlusion_map_is_the_fall_of_the_logit_per_square():
    left = TARGETS.index("leftsided_pe")

    def logits(images):  # depend only on the brightest pixel of the upper right quarter
        values = np.zeros((len(images), len(TARGETS)))
        values[:, left] = 3 * images[:, :12, 20:].max(axis=(1, 2, 3))
        return values

    image = np.zeros((1, 24, 40, 3), np.float32)
    image[0, 5, 30] = 1.0
    image[0, 20, 3] = 1.0
    maps = OcclusionMaps(logits, ("leftsided_pe", "rightsided_pe"), (24, 40), square=8, step=8)
    computed = maps(image)
    expected = np.zeros((1, 2, 3, 5))
    expected[0, 0, 0, 3] = 3 * (1 - 1 / 64)  # the covered square keeps its mean
    np.testing.assert_allclose(computed, expected, atol=1e-6)
    assert maps.grid == FeatureGrid((8.0, 8.0), (3.5, 3.5))
    assert image.sum() == 6  # the caller's image is unchanged


def test_occlusion_squares_have_a_fixed_size_in_mm():
    for pixel_mm, square, step in ((1.4, 24, 16), (0.75, 44, 29), (0.0, 6, 4)):
        maps = occlusion_maps(None, dataclasses.replace(SMALL, pixel_mm=pixel_mm), REQUESTED_TARGETS)
        assert (maps.square, maps.step) == (square, step)
    assert occlusion_maps(None, SMALL, REQUESTED_TARGETS, fineness=3).step == 8


def test_the_exported_graph_and_keras_give_the_same_occlusion_maps(run):
    exported, plain = (load_activation_maps(SETTINGS, "tiny", fold, targets=REQUESTED_TARGETS) for fold in range(2))
    exported_maps = exported(IMAGES[:1])
    assert exported_maps.shape == (1, 2, 2, 3)
    assert np.abs(exported_maps).max() > 1e-4
    np.testing.assert_allclose(exported_maps, plain(IMAGES[:1]), atol=1e-5)


def test_an_unknown_target_and_a_changed_file_are_errors(run):
    with pytest.raises(UserError, match="Expected some of pe_present_on_image.* got clot"):
        load_activation_maps(SETTINGS, "tiny", 0, targets=("clot",))
    file = paths.model_run("tiny", 1) / "weights.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="weights.npz"):
        load_activation_maps(SETTINGS, "tiny", 1)
    file.write_bytes(whole)
