"""Activation maps: exact contributions, on the right pixels."""

import dataclasses

import numpy as np
import pytest

from features.lungbox import Box
from features.store import write_exam
from models.activation import Head, contributions, load_activation_maps, on_stored_slice, peak_on_stored_slice
from models.feature_grid import FeatureGrid, keras_grid
from models.occlusion import OcclusionMaps, occlusion_maps
from models.targets import TARGETS
from models.views import SliceViews
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import sha256, write_json
from pipeline.settings import ModelsSettings, Settings

SMALL = ModelsSettings(height=32, width=40, embedding=8, weights="none")
GEM = {"pooling": "gem", "trainable_windows": True}
SETTINGS = Settings(models=dataclasses.replace(SMALL, per_backbone={"tiny_gem": GEM}))
ASKED = ("leftsided_pe", "pe_present_on_image")


def _graph(images):
    """Both ways of padding, groups, a gate that averages as squeeze-and-excitation does, and a residual sum."""
    from keras import layers

    from models.se_resnext import GroupedConvolution

    tensor = layers.Conv2D(6, 3, 2, "same", activation="relu")(images)
    tensor = layers.ReLU()(GroupedConvolution(6, 3, 2, 2)(layers.ZeroPadding2D(1)(tensor)))
    gate = layers.Conv2D(6, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(tensor))
    return layers.Add()([tensor, layers.Multiply()([layers.DepthwiseConv2D(3, padding="same")(tensor), gate])])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Finished runs of two networks, "tiny" and "tiny_gem", under $PE_ROOT; fold 1 has no exported graph."""
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.checkpoint import save_weights
    from models.inference import export_graph
    from models.network import slice_network

    patch = pytest.MonkeyPatch()
    patch.setenv("PE_ROOT", str(tmp_path_factory.mktemp("root")))
    models = {}
    for name in ("tiny", "tiny_gem"):
        patch.setitem(BACKBONES, name, Backbone(_graph, (0.5,) * 3, (0.5,) * 3, "none"))
        keras.utils.set_random_seed(3)
        models[name] = slice_network(SETTINGS.models.of(name), name, "none")
        for fold in range(2):
            directory = paths.model_run(name, fold)
            save_weights(directory / "weights.npz", models[name])
            if fold == 0:
                export_graph(models[name], directory)
            files = {file.name: sha256(file) for file in directory.iterdir()}
            write_json(directory / "manifest.json", {"files": files})
    yield models
    patch.undo()


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 32, 40, 3), dtype=np.float32)


def _asked_logits(model, images):
    return model.predict_on_batch(images)["logits"][:, [TARGETS.index(name) for name in ASKED]]


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
@pytest.mark.parametrize("fold", [0, 1], ids=["openvino", "keras"])
def test_contributions_and_a_constant_sum_up_to_the_logit(run, images, fold, backbone):
    maps = load_activation_maps(SETTINGS, backbone, fold, targets=ASKED, kind="contribution")
    found = maps(images)
    assert found.shape == (3, 2, 8, 10) and found.dtype == np.float32
    features, head = maps.features(images), maps.head
    if backbone == "tiny":
        pooled = np.concatenate([features.mean(axis=(1, 2)), features.max(axis=(1, 2))], axis=1)
    else:
        assert head.power == 3
        pooled = (np.maximum(features, 1e-4) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    awake = (pooled @ head.to_embedding + head.embedding_bias) > 0
    constant = (awake * head.embedding_bias) @ head.to_logits + head.logits_bias
    constant = constant[:, [TARGETS.index(name) for name in ASKED]]
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(found.sum(axis=(2, 3)) + constant, _asked_logits(run[backbone], images), atol=1e-5)


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
def test_the_exported_graph_and_keras_give_the_same_maps_on_the_same_grid(run, images, backbone):
    exported, plain = (
        load_activation_maps(SETTINGS, backbone, fold, targets=ASKED, kind="contribution") for fold in range(2)
    )
    assert exported.grid == plain.grid
    np.testing.assert_allclose(exported(images), plain(images), atol=1e-5)


def test_the_power_and_the_floor_are_those_of_the_pooling_layer():
    from models import activation, pooling

    assert activation.SMALLEST == pooling.SMALLEST


def test_contributions_are_numeric_gradients_times_input(run):
    import keras

    places, channels, step = (2, 3), 6, 1e-3
    tensor = inputs = keras.Input((*places, channels))
    tensor = keras.layers.Concatenate()([run["tiny"].get_layer(name)(tensor) for name in ("average", "maximum")])
    for name in ("embedding", "logits"):
        tensor = run["tiny"].get_layer(name)(tensor)
    head = keras.Model(inputs, tensor)
    features = np.random.default_rng(1).uniform(-1, 2, (1, *places, channels)).astype(np.float32)
    moves = step * np.eye(features.size, dtype=np.float32).reshape(-1, *places, channels)
    slope = (head.predict_on_batch(features + moves) - head.predict_on_batch(features - moves)) / (2 * step)
    expected = (slope.reshape(*places, channels, -1) * features[0, ..., None]).sum(axis=2).transpose(2, 0, 1)
    arrays = [weight for name in ("embedding", "logits") for weight in run["tiny"].get_layer(name).get_weights()]
    found = contributions(features, Head(*arrays), list(range(len(TARGETS))))[0]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(expected).max() > 0.05


def test_places_that_share_a_maximum_share_its_gradient():
    head = Head(np.array([[0.0], [1.0]]), np.zeros(1), np.ones((1, 1)), np.zeros(1))
    features = np.array([6.0, 6.0, 2.0]).reshape(1, 1, 3, 1)
    assert contributions(features, head, [0]).ravel().tolist() == [3.0, 3.0, 0.0]


@pytest.mark.parametrize("size", [21, 22, 23, 24])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_grid_is_where_the_network_looks(size, padding):
    import keras
    from keras import layers

    tensor = inputs = keras.Input((size, size, 1))
    for kernel in (3, 5):
        tensor = tensor if padding == "same" else layers.ZeroPadding2D(kernel // 2)(tensor)
        tensor = layers.Conv2D(1, kernel, 2, padding, use_bias=False, kernel_initializer="ones")(tensor)
    impulses = np.eye(size * size, dtype=np.float32).reshape(-1, size, size, 1)
    seen = keras.Model(inputs, tensor).predict_on_batch(impulses)[:, 3, 2, 0].reshape(size, size)  # by cell (3, 2)
    centre = [np.average(np.arange(size), weights=seen.sum(axis=other)) for other in (1, 0)]
    grid = keras_grid(tensor)
    assert grid.stride == (4.0, 4.0)
    assert centre == pytest.approx([grid.first[0] + 3 * 4, grid.first[1] + 2 * 4], abs=1e-6)


def test_the_mobile_backbones_lie_differently_on_their_input():
    from models.backbones import backbone_model

    for backbone, first in (("mobilenetv2", 0.0), ("efficientnet_lite0", 15.0)):
        model = backbone_model(backbone, (112, 144), 3, "none")
        assert keras_grid(model.output) == FeatureGrid((32.0, 32.0), (first, first))


@pytest.fixture
def views(tmp_path):
    """Views of one exam of three planes, 40 x 60 stored pixels of 2 mm; plane 1 has one bright place at (24, 46)."""
    hu = np.full((3, 40, 60), -250, np.int16)
    hu[1, 24, 46] = 450
    write_exam(
        tmp_path, "exam", "s", hu, z_mm=np.arange(3) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=("a", "b", "c"), box=Box(0, 80, 0, 120, 0, 3, 60.0, True),
    )  # fmt: skip
    return SliceViews(tmp_path, dataclasses.replace(SMALL, height=49, width=65, pixel_mm=1.5))


def test_a_stored_place_its_view_its_cell_and_its_overlay_agree(views):
    matrix = views.matrix("exam")
    x, y = matrix @ [46, 24, 1]
    view = views.view("exam", 1)[:, :, 1]
    assert np.unravel_index(view.argmax(), view.shape) == (round(y), round(x))
    grid = FeatureGrid((8.0, 8.0), (y - 16, x - 24))  # cell (2, 3) lies there
    activation = np.zeros((5, 6), np.float32)
    activation[2, 3] = 1.5
    assert peak_on_stored_slice(activation, grid, matrix) == pytest.approx((24, 46), abs=1e-3)
    overlay = on_stored_slice(activation, grid, matrix, (40, 60))
    assert np.unravel_index(overlay.argmax(), overlay.shape) == (24, 46)
    assert overlay[24, 46] == pytest.approx(1.5, abs=0.05)
    half = round(4 * 1.5 / 2)  # half the way to the next cell: 4 input pixels of 1.5 mm, 3 stored pixels of 2 mm
    assert overlay[24, 46 + half] == pytest.approx(0.75, abs=0.05)


def test_an_occlusion_map_tells_what_each_square_is_worth():
    left = TARGETS.index("leftsided_pe")

    def logits(images):  # worth something: the brightest pixel of the upper right quarter, and nothing else
        found = np.zeros((len(images), len(TARGETS)))
        found[:, left] = 3 * images[:, :12, 20:].max(axis=(1, 2, 3))
        return found

    image = np.zeros((1, 24, 40, 3), np.float32)
    image[0, 5, 30] = 1.0
    image[0, 20, 3] = 1.0
    maps = OcclusionMaps(logits, ("leftsided_pe", "rightsided_pe"), (24, 40), square=8, step=8)
    found = maps(image)
    expected = np.zeros((1, 2, 3, 5))
    expected[0, 0, 0, 3] = 3 * (1 - 1 / 64)  # the covered square keeps its mean
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert maps.grid == FeatureGrid((8.0, 8.0), (3.5, 3.5))
    assert image.sum() == 6  # the caller's image is not covered


def test_occlusion_squares_are_as_wide_as_a_main_artery_whatever_the_pixels():
    for pixel_mm, square, step in ((1.4, 24, 16), (0.75, 44, 29), (0.0, 6, 4)):
        maps = occlusion_maps(None, dataclasses.replace(SMALL, pixel_mm=pixel_mm), ASKED)
        assert (maps.square, maps.step) == (square, step)
    assert occlusion_maps(None, SMALL, ASKED, fineness=3).step == 8


def test_the_exported_graph_and_keras_give_the_same_occlusion_maps(run, images):
    exported, plain = (load_activation_maps(SETTINGS, "tiny", fold, targets=ASKED) for fold in range(2))
    found = exported(images[:1])
    assert found.shape == (1, 2, 2, 3)
    assert np.abs(found).max() > 1e-4
    np.testing.assert_allclose(found, plain(images[:1]), atol=1e-5)


def test_an_unknown_target_and_a_changed_file_are_named(run):
    with pytest.raises(UserError, match="no kind 'heat'; there are occlusion, contribution"):
        load_activation_maps(SETTINGS, "tiny", 0, kind="heat")
    with pytest.raises(UserError, match="no target clot; the networks have pe_present_on_image"):
        load_activation_maps(SETTINGS, "tiny", 0, targets=("clot",))
    file = paths.model_run("tiny", 1) / "weights.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="weights.npz: changed"):
        load_activation_maps(SETTINGS, "tiny", 1)
    file.write_bytes(whole)


def test_a_graph_without_both_poolings_is_refused(tmp_path):
    import openvino
    from openvino import opset13

    from models.activation import openvino_features

    images = opset13.parameter([-1, 3, 8, 8])
    graph = openvino.Model([opset13.reduce_mean(images, np.array([2, 3]))], [images])
    openvino.save_model(graph, str(tmp_path / "network.xml"))
    with pytest.raises(UserError, match="no feature map that is pooled"):
        openvino_features(tmp_path, 1)
