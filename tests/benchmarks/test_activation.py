"""The benchmark of the activation maps: it measures the kind that it names, and the cheap kind is exact."""

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
from tests.support.finished_networks import ASKED, IMAGES, SETTINGS, asked_logits, write_runs


@pytest.mark.parametrize("kind", activation.LOADERS)
def test_the_maps_are_of_the_kind_that_is_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(activation, "finished", lambda settings, backbone: [0, 1])
    monkeypatch.setattr(activation, "SliceViews", lambda store, recipe: None)
    for each in activation.LOADERS:
        monkeypatch.setitem(activation.LOADERS, each, lambda *_, each=each, **__: loaded.append(each))
    assert list(activation.cases(Settings(), "mobilenetv2", kind, pd.DataFrame({STUDY: []}), 4)) == []
    assert loaded == [kind, kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_runs(patch, tmp_path_factory.mktemp("root"))


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
@pytest.mark.parametrize("fold", [0, 1], ids=["openvino", "keras"])
def test_contributions_and_a_constant_sum_up_to_the_logit(run, fold, backbone):
    maps = load_contribution_maps(SETTINGS, backbone, fold, targets=ASKED)
    found = maps(IMAGES)
    assert found.shape == (3, 2, 8, 10) and found.dtype == np.float32
    features, head = maps.features(IMAGES), maps.head
    if backbone == "tiny":
        pooled = np.concatenate([features.mean(axis=(1, 2)), features.max(axis=(1, 2))], axis=1)
    else:
        assert head.power == 3
        pooled = (np.maximum(features, 1e-4) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    awake = (pooled @ head.to_embedding + head.embedding_bias) > 0
    constant = (awake * head.embedding_bias) @ head.to_logits + head.logits_bias
    constant = constant[:, [TARGETS.index(name) for name in ASKED]]
    assert np.ptp(found) > 1e-3
    np.testing.assert_allclose(found.sum(axis=(2, 3)) + constant, asked_logits(run[backbone]), atol=1e-5)


@pytest.mark.parametrize("backbone", ["tiny", "tiny_gem"])
def test_the_exported_graph_and_keras_give_the_same_maps_on_the_same_grid(run, backbone):
    exported, plain = (load_contribution_maps(SETTINGS, backbone, fold, targets=ASKED) for fold in range(2))
    assert exported.grid == plain.grid
    np.testing.assert_allclose(exported(IMAGES), plain(IMAGES), atol=1e-5)


def test_the_power_and_the_floor_are_those_of_the_pooling_layer():
    from models import pooling

    assert SMALLEST == pooling.SMALLEST


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


def test_a_graph_without_both_poolings_is_refused(tmp_path):
    import openvino
    from openvino import opset13

    images = opset13.parameter([-1, 3, 8, 8])
    graph = openvino.Model([opset13.reduce_mean(images, np.array([2, 3]))], [images])
    openvino.save_model(graph, str(tmp_path / "network.xml"))
    with pytest.raises(UserError, match="no feature map that is pooled"):
        openvino_features(tmp_path, 1)
