"""The benchmark of the activation maps: it measures the requested kind, and contribution maps are exact."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import activation
from benchmarks.contribution_maps import SMALLEST, Head, contributions, load_contribution_maps, openvino_features
from benchmarks.feature_grids import keras_grid
from input.contest import STUDY
from models.feature_grid import FeatureGrid
from models.slice_targets import TARGETS
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.support.finished_networks import IMAGES, REQUESTED_TARGETS, SETTINGS, requested_logits, write_runs

#: A float32 sum of n products, in any order, errs by at most about n * 2 ** -24 of the sum of their magnitudes. The
#: longest path from image to map adds 250 products (two convolutions with 27 each, a depthwise one with 9, the pooling
#: and the sum over the map with 80 each, the dense layers with 12 and 8), whose magnitudes sum up to 2.
ATOL = 250 * 2**-24 * 2


@pytest.mark.parametrize("kind", activation.LOADERS)
def test_the_maps_are_of_the_requested_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(activation, "finished_folds", lambda settings, backbone: [0, 1])
    monkeypatch.setattr(activation, "SliceViews", lambda store, recipe: None)
    for name in activation.LOADERS:
        monkeypatch.setitem(activation.LOADERS, name, lambda *_, name=name, **__: loaded.append(name))
    assert list(activation.cases(Settings(), "mobilenetv2", kind, pd.DataFrame({STUDY: []}), 4)) == []
    assert loaded == [kind, kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_runs(patch, tmp_path_factory.mktemp("root"))


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
@pytest.mark.parametrize("fold", [0, 1], ids=["openvino", "keras"])
def test_contributions_and_a_constant_sum_up_to_the_logit(run, fold, backbone):
    maps = load_contribution_maps(SETTINGS, backbone, fold, targets=REQUESTED_TARGETS)
    values = maps(IMAGES)
    assert values.shape == (3, 2, 8, 10) and values.dtype == np.float32
    features, head = maps.features(IMAGES), maps.head
    if backbone == "tiny":
        pooled = np.concatenate([features.mean(axis=(1, 2)), features.max(axis=(1, 2))], axis=1)
    else:
        assert head.power == 3
        pooled = (np.maximum(features, 1e-4) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    active = (pooled @ head.to_embedding + head.embedding_bias) > 0
    constant = (active * head.embedding_bias) @ head.to_logits + head.logits_bias
    constant = constant[:, [TARGETS.index(name) for name in REQUESTED_TARGETS]]
    assert np.ptp(values) > 1e-3
    np.testing.assert_allclose(values.sum(axis=(2, 3)) + constant, requested_logits(run[backbone]), atol=ATOL)


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
def test_the_exported_graph_and_keras_give_the_same_maps_on_the_same_grid(run, backbone):
    exported, plain = (load_contribution_maps(SETTINGS, backbone, fold, targets=REQUESTED_TARGETS) for fold in range(2))
    assert exported.grid == plain.grid
    np.testing.assert_allclose(exported(IMAGES), plain(IMAGES), atol=ATOL)


def test_the_power_and_the_floor_are_those_of_the_pooling_layer():
    from models import pooling

    assert SMALLEST == pooling.SMALLEST


def test_contributions_are_numeric_gradients_times_input(run):
    import keras

    def in_float64(name):
        layer = run["tiny"].get_layer(name)
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    shape, channels, step = (2, 3), 6, 1e-4
    tensor = inputs = keras.Input((*shape, channels), dtype="float64")
    pooled = [in_float64(name)(tensor) for name in ("average", "maximum")]
    tensor = keras.layers.Concatenate(dtype="float64")(pooled)
    for name in ("embedding", "logits"):
        tensor = in_float64(name)(tensor)
    head = keras.Model(inputs, tensor)
    for name in ("embedding", "logits"):
        head.get_layer(name).set_weights(run["tiny"].get_layer(name).get_weights())
    features = np.random.default_rng(1).uniform(-1, 2, (1, *shape, channels))
    changes = step * np.eye(features.size).reshape(-1, *shape, channels)
    slope = (head.predict_on_batch(features + changes) - head.predict_on_batch(features - changes)) / (2 * step)
    expected = (slope.reshape(*shape, channels, -1) * features[0, ..., None]).sum(axis=2).transpose(2, 0, 1)
    weights = [array.astype(float) for name in ("embedding", "logits") for array in head.get_layer(name).get_weights()]
    values = contributions(features, Head(*weights), list(range(len(TARGETS))))[0]
    np.testing.assert_allclose(values, expected, rtol=2**-23, atol=1e-9)  # the result is rounded to float32
    assert np.abs(expected).max() > 0.05


def test_cells_that_share_a_maximum_share_its_gradient():
    head = Head(np.array([[0.0], [1.0]]), np.zeros(1), np.ones((1, 1)), np.zeros(1))
    features = np.array([6.0, 6.0, 2.0]).reshape(1, 1, 3, 1)
    assert contributions(features, head, [0]).ravel().tolist() == [3.0, 3.0, 0.0]


@pytest.mark.parametrize("size", [21, 22, 23, 24])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_grid_is_the_centre_of_the_receptive_fields(size, padding):
    import keras
    from keras import layers

    tensor = inputs = keras.Input((size, size, 1))
    for kernel in (3, 5):
        tensor = tensor if padding == "same" else layers.ZeroPadding2D(kernel // 2)(tensor)
        tensor = layers.Conv2D(1, kernel, 2, padding, use_bias=False, kernel_initializer="ones")(tensor)
    impulses = np.eye(size * size, dtype=np.float32).reshape(-1, size, size, 1)
    response = keras.Model(inputs, tensor).predict_on_batch(impulses)[:, 3, 2, 0].reshape(size, size)  # of cell (3, 2)
    centre = [np.average(np.arange(size), weights=response.sum(axis=other)) for other in (1, 0)]
    grid = keras_grid(tensor)
    assert grid.stride == (4.0, 4.0)
    assert centre == pytest.approx([grid.first[0] + 3 * 4, grid.first[1] + 2 * 4], abs=1e-6)


def test_the_mobile_backbones_have_different_grids():
    from models.backbones import backbone_model

    for backbone, first in (("mobilenetv2", 0.0), ("efficientnet_lite0", 15.0)):
        model = backbone_model(backbone, (112, 144), 3, "none")
        assert keras_grid(model.output) == FeatureGrid((32.0, 32.0), (first, first))


def test_a_graph_without_both_poolings_is_rejected(tmp_path):
    import openvino
    from openvino import opset13

    images = opset13.parameter([-1, 3, 8, 8])
    graph = openvino.Model([opset13.reduce_mean(images, np.array([2, 3]))], [images])
    openvino.save_model(graph, str(tmp_path / "network.xml"))
    with pytest.raises(UserError, match="No pooled feature map"):
        openvino_features(tmp_path, 1)
