"""Finished runs of two small slice networks that never learned anything, for tests of what reads finished runs."""

import dataclasses

import numpy as np
import pytest

from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.files import sha256, write_json
from pipeline.settings import ModelsSettings, Settings

SMALL = ModelsSettings(height=32, width=40, embedding=8, weights="none")
GEM = {"pooling": "gem", "trainable_windows": True}
SETTINGS = Settings(models=dataclasses.replace(SMALL, per_backbone={"tiny_gem": GEM}))
ASKED = ("leftsided_pe", "pe_present_on_image")
IMAGES = np.random.default_rng(0).random((3, 32, 40, 3), dtype=np.float32)


def _graph(images):
    """Both ways of padding, groups, a gate that averages as squeeze-and-excitation does, and a residual sum."""
    from keras import layers

    from models.se_resnext import GroupedConvolution

    tensor = layers.Conv2D(6, 3, 2, "same", activation="relu")(images)
    tensor = layers.ReLU()(GroupedConvolution(6, 3, 2, 2)(layers.ZeroPadding2D(1)(tensor)))
    gate = layers.Conv2D(6, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(tensor))
    return layers.Add()([tensor, layers.Multiply()([layers.DepthwiseConv2D(3, padding="same")(tensor), gate])])


def write_runs(patch: pytest.MonkeyPatch, root) -> dict:
    """Make `root` the $PE_ROOT and write runs of "tiny" and "tiny_gem" there; fold 1 has no exported graph.

    Returns:
        Name -> network.
    """
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.checkpoint import save_weights
    from models.inference import export_graph
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
            write_json(directory / "manifest.json", {"files": files})
    return models


def asked_logits(model) -> np.ndarray:
    """Logits (3, asked targets) of IMAGES."""
    return model.predict_on_batch(IMAGES)["logits"][:, [TARGETS.index(name) for name in ASKED]]
