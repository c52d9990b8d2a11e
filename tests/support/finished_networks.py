"""Finished runs of two small untrained slice networks, for tests of code that reads finished runs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.files import sha256, write_json
from pipeline.settings import ModelsSettings, Settings

if TYPE_CHECKING:
    import keras

SMALL = ModelsSettings(height=32, width=40, embedding=8, weights="none")
GEM = {"pooling": "gem", "trainable_windows": True}
SETTINGS = Settings(models=dataclasses.replace(SMALL, per_backbone={"tiny_gem": GEM}))
REQUESTED_TARGETS = ("leftsided_pe", "pe_present_on_image")
IMAGES = np.random.default_rng(0).random((3, 32, 40, 3), dtype=np.float32)


def _graph(images: "keras.KerasTensor") -> "keras.KerasTensor":
    """Build both kinds of padding, groups, a squeeze-and-excitation gate and a residual connection."""
    from keras import layers

    from models.se_resnext import GroupedConvolution

    tensor = layers.Conv2D(6, 3, 2, "same", activation="relu")(images)
    tensor = layers.ReLU()(GroupedConvolution(6, 3, 2, 2)(layers.ZeroPadding2D(1)(tensor)))
    gate = layers.Conv2D(6, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(tensor))
    return layers.Add()([tensor, layers.Multiply()([layers.DepthwiseConv2D(3, padding="same")(tensor), gate])])


def write_runs(patch: pytest.MonkeyPatch, root: Path) -> "dict[str, keras.Model]":
    """Set PE_ROOT to `root` and write runs of "tiny" and "tiny_gem" there; fold 1 has no exported graph.

    Returns:
        Name -> network.
    """
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.checkpoint import save_weights
    from models.prediction_engine import export_graph
    from models.slice_network import slice_network

    patch.setenv("PE_ROOT", str(root))
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
            write_json(directory / "manifest.json", {"files": files, "local_map": False})
    return models


def requested_logits(model: "keras.Model") -> np.ndarray:
    """Return the logits of IMAGES, shape (3, requested targets)."""
    return model.predict_on_batch(IMAGES)["logits"][:, [TARGETS.index(name) for name in REQUESTED_TARGETS]]
