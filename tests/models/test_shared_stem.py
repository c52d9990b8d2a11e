"""Finished networks that begin with the same layers: computed once, with the same predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import shared_stem
from models.backbones import BACKBONES, Backbone
from models.prediction_engine import OUTPUTS, export_graph, openvino_engine, read_graph
from pipeline.settings import ModelsSettings

#: These tests build networks.
pytestmark = pytest.mark.slow

SETTINGS = ModelsSettings(height=32, width=48, embedding=8, weights="none")


def graph(images: Any) -> Any:
    """Residual: at strides 8 and coarser, one tensor passes only behind the addition."""
    from keras import layers

    images = layers.ReLU()(layers.Conv2D(4, 3, 4, "same")(images))
    images = layers.Conv2D(6, 3, 2, "same", name="reduction")(images)
    images = layers.Add(name="sum")([images, layers.ReLU()(layers.Conv2D(6, 3, 1, "same", name="residual")(images))])
    for number, filters in enumerate((8, 10)):
        images = layers.ReLU()(layers.Conv2D(filters, 3, 2, "same", name=f"stage{number}")(images))
    return images


def export_folds(root: Path, first_change: str, folds: int) -> list[Path]:
    """Export networks that differ from the layer `first_change` on."""
    import keras

    from models.slice_network import slice_network

    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
        model = slice_network(SETTINGS, "tiny", "none")
    names = [layer.name for layer in model.get_layer("tiny").layers]
    changing = [model.get_layer("tiny").get_layer(name) for name in names[names.index(first_change) :]]
    random = np.random.default_rng(0)
    folders = []
    for fold in range(folds):
        for layer in [*changing, model.get_layer("features")]:
            layer.set_weights([random.normal(size=weight.shape) / 8 for weight in layer.get_weights()])
        folders.append(root / f"fold{fold}")
        folders[-1].mkdir()
        export_graph(model, folders[-1])
    return folders


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Networks that differ in their last layers."""
    return export_folds(tmp_path_factory.mktemp("late"), "stage0", folds=3)


def assert_equal_predictions(folders: list[Path], engines: list) -> None:
    random = np.random.default_rng(1)
    whole = [openvino_engine(folder, 1) for folder in folders]
    for count in (5, 1, 5):
        images = random.random((count, 32, 48, 3), dtype=np.float32)
        for expected, engine in zip(whole, engines, strict=True):
            for name, values, wanted in zip(OUTPUTS, engine(images), expected(images), strict=True):
                np.testing.assert_allclose(values, wanted, atol=1e-4, err_msg=name)


def test_common_layers_are_computed_once_for_all_folds(late, monkeypatch):
    passes, call = [], shared_stem._LastFeatures.__call__

    def counting(stem: Any, images: np.ndarray) -> list[np.ndarray]:
        run = stem._run
        stem._run = lambda batch: passes.append(len(batch)) or run(batch)
        try:
            return call(stem, images)
        finally:
            stem._run = run

    monkeypatch.setattr(shared_stem._LastFeatures, "__call__", counting)
    engines = shared_stem.shared_engines(late, 1)
    assert engines is not None
    assert_equal_predictions(late, engines)
    assert passes == [5, 1, 5], "once per batch, not once per fold"


def test_the_cut_is_the_last_point_that_one_tensor_passes(late, tmp_path):
    """The layer in the branch differs: the sum and the branch's own input cannot be cut, what is before can."""
    cuts = {}
    for name, folders in (("late", late), ("branch", export_folds(tmp_path, "residual", folds=2))):
        operations = [read_graph(folder / "network.xml").get_ordered_ops() for folder in folders]
        cuts[name] = shared_stem.common_cut(operations)
        shape = operations[0][cuts[name]].output(0).get_partial_shape()
        assert [size.get_length() for size in list(shape)[1:]] in ([6, 4, 6], [4, 6, 6])
        assert_equal_predictions(folders, shared_stem.shared_engines(folders, 1) or [])
    assert cuts["branch"] < cuts["late"]


def test_networks_without_common_layers_or_of_another_form_are_not_cut():
    class Operation:
        def __init__(self, kind: str) -> None:
            self._kind = kind

        def get_type_name(self) -> str:
            return self._kind

    assert shared_stem.common_cut([[Operation("Parameter")], [Operation("Parameter"), Operation("Relu")]]) is None
