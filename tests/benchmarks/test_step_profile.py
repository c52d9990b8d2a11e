"""The profile of a training step: its parts, operations and layers."""

import pytest

from benchmarks.step_profile import largest
from pipeline.settings import ModelsSettings


def test_the_largest_sums_have_their_shares() -> None:
    rows = [("a", 1.0), ("b", 2.0), ("a", 4.0), ("c", 3.0)]
    assert largest(rows, 2) == [["a", "5.00", "0.50"], ["c", "3.00", "0.30"]]


@pytest.mark.slow
def test_parts_operations_and_layers_of_a_step_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from benchmarks import step_profile
    from models.backbones import BACKBONES, Backbone

    def graph(images):
        images = keras.layers.Conv2D(4, 3, 4, "same", name="frozen")(images)
        return keras.layers.ReLU()(keras.layers.Conv2D(6, 3, 2, "same", name="learning")(images))

    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    settings = ModelsSettings(height=32, width=48, batch=2, embedding=4, weights="none", frozen_share=0.5)
    training, inputs, truth = step_profile.prepared_run(settings, "tiny")
    parts = dict(step_profile.part_milliseconds(training, inputs, truth, 2))
    assert list(parts)[-1] == "frozen layers, before the step" and all(float(value) > 0 for value in parts.values())
    layers = step_profile.layer_names(training)
    step = lambda: training.trained.train_on_batch(inputs, truth)  # noqa: E731
    events = list(step_profile.recorded_operations(step, 2, layers))
    assert {"learning", "map", "(none)"} <= {layer for layer, *_ in events} <= {*layers, "(none)"}
    assert any("Conv2D" in operation for layer, operation, _ in events if layer == "learning")
