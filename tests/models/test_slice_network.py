"""The slice network's parts: pooling, learned windows, SE-ResNeXt."""

import dataclasses

import numpy as np
import pytest

from features.lung_box import Box
from features.store import write_exam
from features.windows import WINDOWS, window_channels
from models.check_recipe import check_recipe
from models.slice_views import SliceViews
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

LEARNED = ModelsSettings(height=12, width=16, pixel_mm=1.0, windows=("pe", "lung"), trainable_windows=True)


def test_the_generalised_mean_lies_between_average_and_maximum():
    from models.pooling import GeneralisedMean

    features = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    layer = GeneralisedMean()
    layer.build(features.shape)
    found = {}
    for power in (1.0, 3.0, 60.0):
        layer.power.assign([power])
        found[power] = np.asarray(layer(features))
    np.testing.assert_allclose(found[1.0], features.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[60.0], features.max(axis=(1, 2)), rtol=0.06)
    assert (found[3.0] > found[1.0]).all() and (found[3.0] < found[60.0]).all()


def test_an_empty_channel_leaves_the_generalised_mean_finite():
    from models.pooling import SMALLEST, GeneralisedMean

    found = np.asarray(GeneralisedMean()(np.zeros((1, 2, 2, 1), np.float32)))
    assert found == pytest.approx(SMALLEST, rel=1e-3)


@pytest.fixture
def views(tmp_path):
    """Views of one exam of three planes, 12 x 16 pixels of 1 mm, that ramp from -1000 to 900 HU."""
    hu = np.linspace(-1000, 900, 3 * 12 * 16).reshape(3, 12, 16).astype(np.int16)
    write_exam(
        tmp_path, "exam", "s", hu, z_mm=np.arange(3) * 5.0, spacing_mm=(1.0, 1.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=("a", "b", "c"), box=Box(0, 12, 0, 16, 0, 3, 8.0, True),
    )  # fmt: skip
    return lambda settings: SliceViews(tmp_path, settings)


def test_learned_windows_start_as_the_named_ones(views):
    import keras

    from models.trainable_windows import learned_windows, trainable_windows

    stack = views(LEARNED).view("exam", 1)
    assert stack.shape == (12, 16, 3) and stack.min() >= -1 and stack.max() <= 0.9
    images = keras.Input((12, 16, 3))
    model = keras.Model(images, trainable_windows(images, LEARNED.windows))
    found = model.predict_on_batch(stack[None])[0]
    fixed = window_channels(stack * 1000, [WINDOWS[name] for name in LEARNED.windows]).reshape(12, 16, 6)
    assert np.abs(found - fixed).max() < 0.125  # a sigmoid leaves the straight line by .119 at its ends
    for channel in range(6):
        middle = np.abs(fixed[..., channel] - 0.5) < 0.1
        if middle.any():
            np.testing.assert_allclose(found[..., channel][middle], fixed[..., channel][middle], atol=0.01)
    expected = np.broadcast_to([WINDOWS[name] for name in LEARNED.windows], (3, 2, 2))
    np.testing.assert_allclose(learned_windows(model), expected, rtol=1e-5)


def test_learned_windows_move_and_the_backbone_sees_as_many_channels(monkeypatch):
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.slice_network import slice_network, weighted_logistic_loss
    from models.slice_targets import TARGETS
    from models.trainable_windows import learned_windows

    keras.utils.set_random_seed(1)
    graph = lambda images: keras.layers.Conv2D(4, 3, 2)(images)  # noqa: E731
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    model = slice_network(dataclasses.replace(LEARNED, embedding=4), "tiny", "none")
    assert model.input_shape == (None, 12, 16, 3) and model.get_layer("tiny").input_shape == (None, 12, 16, 6)
    model.compile(keras.optimizers.SGD(0.5), loss={"logits": weighted_logistic_loss}, run_eagerly=True)
    before = learned_windows(model)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 12, 16, 3)).astype(np.float32)
    model.train_on_batch(images, {"logits": np.ones((2, 2 * len(TARGETS)), np.float32)})
    moved = np.abs(learned_windows(model) - before).max(axis=-1)
    assert (moved > 1e-3).all() and np.isfinite(moved).all()


def test_unknown_poolings_precisions_and_windows_are_told_at_once():
    with pytest.raises(UserError) as fault:
        check_recipe(ModelsSettings(pooling="best", precision="half", windows=("bone",)), "mobilenetv2")
    text = str(fault.value)
    assert "models.pooling = 'best': expected one of avgmax, gem" in text
    assert "models.precision = 'half'" in text and "models.windows = ('bone',)" in text


def test_se_resnext50_is_as_large_as_published():
    import keras

    from models.se_resnext import SE_RESNEXT50, se_resnext_backbone

    images = keras.Input((64, 64, 3))
    model = keras.Model(images, se_resnext_backbone(images, SE_RESNEXT50))
    assert model.output_shape == (None, 2, 2, 2048)
    moving = sum(int(np.prod(each.shape)) for each in model.non_trainable_variables)
    assert model.count_params() - moving + 2048 * 1000 + 1000 == 27_559_896  # 27.56 M with the head of ImageNet


def test_a_grouped_convolution_keeps_its_groups_apart_in_training_too():
    from models.se_resnext import GroupedConvolution

    random = np.random.default_rng(0)
    images = random.normal(size=(2, 9, 8, 12)).astype(np.float32)
    layer = GroupedConvolution(8, 3, 2, 4)
    layer.build(images.shape)
    kernel = random.normal(size=(3, 3, 3, 8)).astype(np.float32)
    layer.kernel.assign(kernel)
    expected = np.zeros((2, 4, 3, 8))
    for group in range(4):
        seen, filters = images[..., 3 * group : 3 * group + 3], slice(2 * group, 2 * group + 2)
        for y in range(4):
            for x in range(3):
                patch = seen[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
                expected[:, y, x, filters] = np.einsum("nyxc,yxcf->nf", patch, kernel[..., filters])
    for training in (True, False):
        np.testing.assert_allclose(np.asarray(layer(images, training=training)), expected, atol=1e-4)
