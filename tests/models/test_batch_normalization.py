"""The fused batch normalisation computes what that of Keras computes."""

import numpy as np
import pytest


def step(layer_class, images, trainable, dtype="float32"):
    """One step of gradient descent on one layer: output in training, its variables afterwards, prediction."""
    import keras

    inputs = keras.Input(images.shape[1:])
    layer = layer_class(momentum=0.9, epsilon=1e-3, dtype=dtype, name="bn")
    model = keras.Model(inputs, layer(inputs))
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2, images.shape[-1]) for _ in range(4)])
    layer.trainable = trainable
    output = keras.ops.convert_to_numpy(model(images, training=True))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    if trainable:
        model.train_on_batch(images, np.ones_like(images))
    return [output, *layer.get_weights(), model.predict_on_batch(images)]


@pytest.mark.parametrize("trainable", [True, False])
def test_outputs_statistics_and_gradients_are_those_of_keras(trainable):
    import keras

    from models.batch_normalization import BatchNormalization

    images = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 3)).astype(np.float32)
    fused, composed = (step(kind, images, trainable) for kind in (BatchNormalization, keras.layers.BatchNormalization))
    for ours, theirs in zip(fused, composed, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_frozen_statistics_do_not_move():
    from models.batch_normalization import BatchNormalization

    images = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 3)).astype(np.float32)
    random = np.random.default_rng(1)
    initial = [random.uniform(0.5, 2, 3) for _ in range(4)]
    np.testing.assert_allclose(step(BatchNormalization, images, trainable=False)[1:5], initial, rtol=1e-6)


def test_mixed_precision_keeps_statistics_in_float32():
    from models.batch_normalization import BatchNormalization

    images = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 3)).astype(np.float32)
    fused = step(BatchNormalization, images, trainable=True, dtype="mixed_bfloat16")
    plain = step(BatchNormalization, images, trainable=True)
    np.testing.assert_allclose(fused[3], plain[3], rtol=2e-2)  # moving mean
    np.testing.assert_allclose(fused[4], plain[4], rtol=2e-2)  # moving variance


@pytest.mark.slow
def test_backbones_of_keras_normalise_in_one_operation_and_compute_the_same():
    import keras

    from models.backbones import BACKBONES
    from models.batch_normalization import BatchNormalization

    images = keras.Input((32, 32, 3))
    ours = keras.Model(images, BACKBONES["resnet50v2"].graph(images))
    theirs = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(32, 32, 3))
    theirs.set_weights(ours.get_weights())
    assert sum(isinstance(layer, BatchNormalization) for layer in ours.layers) == 49
    stack = np.random.default_rng(3).random((2, 32, 32, 3), dtype=np.float32)
    np.testing.assert_allclose(ours(stack), theirs(stack), atol=1e-5)


CONVOLUTIONS = {
    "dense": lambda layers: layers.Conv2D(5, 3, 2, "same", use_bias=False),
    "depthwise": lambda layers: layers.DepthwiseConv2D(3, 1, "valid", use_bias=False),
}


def trained_by_one_step(convolution, images, merged, fixed, trainable=True):
    """Variables and predictions of a convolution with batch normalisation, after one step of gradient descent."""
    import keras

    from models.batch_normalization import BatchNormalization, NormalisedConvolution, normalisations

    inputs = keras.Input(images.shape[1:])
    if merged:
        layer = NormalisedConvolution(convolution, momentum=0.9, epsilon=1e-3)
        model = keras.Model(inputs, layer(inputs))
    else:
        model = keras.Model(inputs, BatchNormalization(momentum=0.9, epsilon=1e-3)(convolution(inputs)))
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.5, 2, weight.shape) for weight in model.get_weights()])
    model.trainable = trainable
    for layer in normalisations(model):
        layer.fixed = fixed
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    if trainable:
        model.train_on_batch(images, np.ones(model(images).shape, np.float32))
    return [*model.get_weights(), model.predict_on_batch(images), keras.ops.convert_to_numpy(model(images))]


@pytest.mark.parametrize(("fixed", "trainable"), [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_merged_convolution_computes_what_two_layers_compute(kind, fixed, trainable):
    from keras import layers

    images = np.random.default_rng(0).normal(1, 2, (4, 9, 8, 3)).astype(np.float32)
    merged, separate = (
        trained_by_one_step(CONVOLUTIONS[kind](layers), images, merged, fixed, trainable) for merged in (True, False)
    )  # fmt: skip
    assert len(merged) == 5 + 2
    for ours, theirs in zip(merged, separate, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_a_merged_convolution_computes_in_the_precision_of_its_input(training):
    from keras import layers

    from models.batch_normalization import NormalisedConvolution
    from models.precision import dtype_policy_scope

    images = np.random.default_rng(0).normal(1, 2, (2, 9, 8, 3)).astype(np.float32)
    with dtype_policy_scope("mixed_bfloat16"):
        layer = NormalisedConvolution(CONVOLUTIONS["dense"](layers), momentum=0.9, epsilon=1e-3)
    assert layer(images, training=training).dtype == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_only_plain_convolutions_can_be_merged():
    from keras import layers

    from models.batch_normalization import NormalisedConvolution

    with pytest.raises(ValueError, match="'use_bias': True"):
        NormalisedConvolution(layers.Conv2D(5, 3), momentum=0.9, epsilon=1e-3)


def test_measured_statistics_are_those_of_the_batches_and_stay_in_training():
    import keras
    from keras import layers

    from models.batch_normalization import NormalisedConvolution, measure_statistics, normalisations

    images = np.random.default_rng(0).normal(3, 2, (3, 4, 6, 5, 3)).astype(np.float32)
    inputs = keras.Input(images.shape[2:])
    convolution = layers.Conv2D(2, 1, use_bias=False)
    layer = NormalisedConvolution(convolution, momentum=0.9, epsilon=1e-3)
    model = keras.Model(inputs, layer(inputs))
    (normalisation,) = normalisations(model)
    measure_statistics(model, [normalisation], images)
    outputs = np.stack([keras.ops.convert_to_numpy(convolution(batch)) for batch in images])
    np.testing.assert_allclose(normalisation.moving_mean, outputs.mean(axis=(1, 2, 3)).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(normalisation.moving_variance, outputs.var(axis=(1, 2, 3)).mean(axis=0), rtol=1e-4)
    assert normalisation.momentum == 0.9
    normalisation.fixed = True
    kept = normalisation.get_weights()[2:]
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.train_on_batch(images[0], np.ones((4, 6, 5, 2), np.float32))
    for before, after in zip(kept, normalisation.get_weights()[2:], strict=True):
        np.testing.assert_array_equal(before, after)
