"""models.recording_network: losses that are fetched in groups."""

import keras
import numpy as np
import pytest

from models import recording_network
from models.recording_network import GROUP, RecordingNetwork

STEPS = 2 * GROUP + 5


@pytest.fixture
def batches():
    random = np.random.default_rng(0)
    return [
        (random.normal(size=(4, 3)).astype(np.float32), {"answer": random.normal(size=(4, 1)).astype(np.float32)})
        for _ in range(STEPS)
    ]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(recording_network.time, "monotonic", lambda: Clock.now)
    return Clock


def _compiled(recording):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    network = keras.Model(inputs, {"answer": keras.layers.Dense(1, name="answer")(inputs)})
    trained = RecordingNetwork(network) if recording else network
    trained.compile(keras.optimizers.SGD(0.1), loss={"answer": "mse"}, jit_compile=False)
    return network, trained


def test_losses_come_in_groups_and_are_those_of_keras(batches, clock):
    plain, _ = _compiled(recording=False)
    expected = [plain.train_on_batch(*batch, return_dict=True)["loss"] for batch in batches]
    network, trained = _compiled(recording=True)
    returned = [trained.train(*batch) for batch in batches]
    assert [number + 1 for number, losses in enumerate(returned) if losses] == [GROUP, 2 * GROUP]
    losses = [*sum(returned, []), *trained.fetch_losses()]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(network.get_weights()[0], plain.get_weights()[0], rtol=1e-5)


def test_slow_steps_are_fetched_earlier(batches, clock):
    _, trained = _compiled(recording=True)
    assert trained.train(*batches[0]) == []
    clock.now += recording_network.GROUP_SECONDS
    assert len(trained.train(*batches[1])) == 2


def test_losses_that_are_computed_between_steps_are_not_returned(batches, clock):
    _, trained = _compiled(recording=True)
    trained.compute_loss(y=batches[0][1], y_pred={"answer": np.zeros((4, 1), np.float32)})
    trained.train(*batches[0])
    assert len(trained.fetch_losses()) == 1 and trained.fetch_losses() == []


def test_the_recorded_losses_are_no_part_of_the_network(batches):
    network, trained = _compiled(recording=True)
    assert len(network.variables) == 2 and len(trained.trainable_variables) == 2
