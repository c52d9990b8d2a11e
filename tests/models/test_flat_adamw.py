"""AdamW over one vector of all weights against the one of Keras."""

import numpy as np
import pytest

from models.optimizer import WITHOUT_DECAY


def _network():
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_are_those_of_keras(accumulate: int) -> None:
    import keras

    from models.flat_adamw import FlatAdamW

    network, expected = _network(), _network()
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 12)
    reference = keras.optimizers.AdamW(
        schedule, weight_decay=0.05, global_clipnorm=2.0,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )  # fmt: skip
    reference.exclude_from_weight_decay(var_names=WITHOUT_DECAY)
    optimizer = FlatAdamW(schedule, 0.05, WITHOUT_DECAY, clip_norm=2.0, accumulate=accumulate)
    optimizer.build(network.trainable_variables)
    random = np.random.default_rng(0)
    for strength in (0.1, 1, 3, 0.3, 1, 1, 1):  # gradients shorter and longer than the limit
        gradients = [
            strength * random.normal(size=weight.shape).astype(np.float32) for weight in network.trainable_variables
        ]
        optimizer.apply(gradients, network.trainable_variables)
        reference.apply(gradients, expected.trainable_variables)
        for weight, wanted in zip(network.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(weight, wanted, atol=1e-6)
    assert float(optimizer.learning_rate) == float(reference.learning_rate)


def test_a_variable_without_a_gradient_only_decays() -> None:
    from models.flat_adamw import FlatAdamW

    network = _network()
    before = network.get_weights()
    optimizer = FlatAdamW(0.1, 0.5, WITHOUT_DECAY, clip_norm=1.0)
    optimizer.build(network.trainable_variables)
    optimizer.apply([None] * len(network.trainable_variables))
    np.testing.assert_allclose(network.get_weights()[0], 0.95 * before[0], rtol=1e-6)
    np.testing.assert_array_equal(network.get_weights()[1], before[1])
