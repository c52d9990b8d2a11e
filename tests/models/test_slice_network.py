"""Parts of the slice network: pooling, trainable windows, SE-ResNeXt."""

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

TRAINABLE = ModelsSettings(height=12, width=16, pixel_mm=1.0, windows=("pe", "lung"), trainable_windows=True)


def test_the_generalised_mean_is_between_average_and_maximum():
    from models.pooling import GeneralisedMean

    features = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    layer = GeneralisedMean()
    layer.build(features.shape)
    means = {}
    for power in (1.0, 3.0, 60.0):
        layer.power.assign([power])
        means[power] = np.asarray(layer(features))
    np.testing.assert_allclose(means[1.0], features.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(means[60.0], features.max(axis=(1, 2)), rtol=0.06)
    assert (means[3.0] > means[1.0]).all() and (means[3.0] < means[60.0]).all()


def test_the_generalised_mean_of_a_zero_channel_is_finite():
    from models.pooling import SMALLEST, GeneralisedMean

    mean = np.asarray(GeneralisedMean()(np.zeros((1, 2, 2, 1), np.float32)))
    assert mean == pytest.approx(SMALLEST, rel=1e-3)


@pytest.fixture
def views(tmp_path):
    """Views of one exam of three planes, 12 x 16 pixels of 1 mm, that ramp from -1000 to 900 HU."""
    hu = np.linspace(-1000, 900, 3 * 12 * 16).reshape(3, 12, 16).astype(np.int16)
    write_exam(
        tmp_path, "exam", "s", hu, z_mm=np.arange(3) * 5.0, spacing_mm=(1.0, 1.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=("a", "b", "c"), box=Box(0, 12, 0, 16, 0, 3, 8.0, True),
    )  # fmt: skip
    return lambda settings: SliceViews(tmp_path, settings)


def test_trainable_windows_are_initialised_as_the_named_windows(views):
    import keras

    from models.trainable_windows import learned_windows, trainable_windows

    stack = views(TRAINABLE).view("exam", 1)
    assert stack.shape == (12, 16, 3) and stack.min() >= -1 and stack.max() <= 0.9
    images = keras.Input((12, 16, 3))
    model = keras.Model(images, trainable_windows(images, TRAINABLE.windows))
    windowed = model.predict_on_batch(stack[None])[0]
    fixed = window_channels(stack * 1000, [WINDOWS[name] for name in TRAINABLE.windows]).reshape(12, 16, 6)
    assert np.abs(windowed - fixed).max() < 0.125  # a sigmoid differs from the straight line by 0.119 at its ends
    for channel in range(6):
        middle = np.abs(fixed[..., channel] - 0.5) < 0.1
        if middle.any():
            np.testing.assert_allclose(windowed[..., channel][middle], fixed[..., channel][middle], atol=0.01)
    expected = np.broadcast_to([WINDOWS[name] for name in TRAINABLE.windows], (3, 2, 2))
    np.testing.assert_allclose(learned_windows(model), expected, rtol=1e-5)


def test_training_changes_the_windows_and_the_backbone_gets_their_channels(monkeypatch):
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.clot_map import map_loss
    from models.clot_targets import MAP_CHANNELS, map_shape
    from models.slice_network import slice_network, weighted_logistic_loss
    from models.slice_targets import TARGETS
    from models.trainable_windows import learned_windows

    keras.utils.set_random_seed(1)
    graph = lambda images: keras.layers.Conv2D(4, 3, 2)(images)  # noqa: E731
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    model = slice_network(dataclasses.replace(TRAINABLE, embedding=4), "tiny", "none")
    assert model.input_shape == (None, 12, 16, 3) and model.get_layer("tiny").input_shape == (None, 12, 16, 6)
    losses = {"logits": weighted_logistic_loss, "map": map_loss}
    model.compile(keras.optimizers.SGD(0.5), loss=losses, run_eagerly=True)
    before = learned_windows(model)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 12, 16, 3)).astype(np.float32)
    maps = np.ones((2, *map_shape(12, 16), 2 * MAP_CHANNELS), np.float32)
    model.train_on_batch(images, {"logits": np.ones((2, 2 * len(TARGETS)), np.float32), "map": maps})
    change = np.abs(learned_windows(model) - before).max(axis=-1)
    assert (change > 1e-3).all() and np.isfinite(change).all()


def test_all_invalid_settings_of_a_recipe_are_reported_at_once():
    with pytest.raises(UserError) as fault:
        check_recipe(ModelsSettings(pooling="best", precision="half", windows=("bone",)), "mobilenetv2")
    message = str(fault.value)
    assert "models.pooling. Expected one of avgmax, gem, got 'best'" in message
    assert "got 'half'" in message and "got ('bone',)" in message


def test_a_grouped_convolution_is_correct_in_training_and_prediction():
    from models.se_resnext import GroupedConvolution

    random = np.random.default_rng(0)
    images = random.normal(size=(2, 9, 8, 12)).astype(np.float32)
    layer = GroupedConvolution(8, 3, 2, 4)
    layer.build(images.shape)
    kernel = random.normal(size=(3, 3, 3, 8)).astype(np.float32)
    layer.kernel.assign(kernel)
    expected = np.zeros((2, 4, 3, 8))
    for group in range(4):
        channels, filters = images[..., 3 * group : 3 * group + 3], slice(2 * group, 2 * group + 2)
        for y in range(4):
            for x in range(3):
                patch = channels[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
                expected[:, y, x, filters] = np.einsum("nyxc,yxcf->nf", patch, kernel[..., filters])
    for training in (True, False):
        np.testing.assert_allclose(np.asarray(layer(images, training=training)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("share", "last", "strides"),
    [(1.0, 1280, 3), (0.61, 384, 2), (0.69, 96, 2), (0.35, 32, 1)],
    ids=["all", "an expansion", "in front of a residual block", "stride 8"],
)
def test_the_used_layers_end_in_front_of_a_branch(share, last, strides):
    from models.backbones import backbone_model

    maps = backbone_model("mobilenetv2", (64, 96), 3, "none", used_share=share).outputs
    assert maps[-1].shape[-1] == last
    assert [tuple(features.shape[1:3]) for features in maps] == [(8, 12), (4, 6), (2, 3)][:strides]
