"""Two training steps of networks of every kind on the backend of KERAS_BACKEND, for tests/models/test_backends.py.

Prints a JSON object with the backend and, per network, its losses, the share of its trainable variables that changed,
whether XLA compiles its step and, for slice networks, whether averaged weights stay unchanged while they are in use.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from models.backbones import BACKBONES, Backbone
from models.batch_normalization import BatchNormalization, NormalisedConvolution
from models.check_recipe import EXAM_KINDS
from models.clot_map import PARTS
from models.clot_targets import MAP_CHANNELS
from models.device import onednn_is_limited
from models.exam_network import exam_network
from models.exam_training import compile_exam_network
from models.recording_network import RecordingNetwork
from models.se_resnext import GroupedConvolution
from models.slice_targets import TARGETS
from models.training_run import TrainingRun
from models.weight_averaging import WeightAverage
from pipeline.settings import ExamNetworkSettings, ModelsSettings

PLAIN = ModelsSettings(
    height=24, width=32, embedding=4, epoch_slices=8, batch=4, epochs=1, frozen_share=0.0, dropout=0.0, weights="none"
)
RECIPES = {
    "average and maximum": PLAIN,
    "generalised mean, trainable windows": dataclasses.replace(PLAIN, pooling="gem", trainable_windows=True),
    "fixed statistics": dataclasses.replace(PLAIN, fixed_statistics=True),
    "bfloat16": dataclasses.replace(PLAIN, precision="mixed_bfloat16"),
    "bfloat16, fixed statistics": dataclasses.replace(PLAIN, precision="mixed_bfloat16", fixed_statistics=True),
}
#: The only recipe that is trained on TensorFlow, where other tests train the others, and the exam networks.
ON_TENSORFLOW = {
    "generalised mean, trainable windows, bfloat16, fixed statistics": dataclasses.replace(
        PLAIN, pooling="gem", trainable_windows=True, fixed_statistics=True,
        precision="float32" if onednn_is_limited() else "mixed_bfloat16",
    ),
}  # fmt: skip
EXAM = ExamNetworkSettings(length=8, units=4, dropout=0.0)


def _graph(images: keras.KerasTensor) -> keras.KerasTensor:
    convolution = layers.Conv2D(8, 3, 2, "same", use_bias=False)
    tensor = layers.ReLU(6.0)(NormalisedConvolution(convolution, 0.9, 1e-3)(images))
    depthwise = layers.DepthwiseConv2D(3, 2, "same", use_bias=False)
    tensor = layers.ReLU()(NormalisedConvolution(depthwise, 0.9, 1e-3)(tensor))
    return layers.ReLU()(BatchNormalization()(GroupedConvolution(8, 3, 1, 4)(tensor)))


def _train_two_steps(model: RecordingNetwork, inputs: Any, targets: dict[str, np.ndarray]) -> dict:
    before = [np.copy(keras.ops.convert_to_numpy(variable)) for variable in model.trainable_variables]
    steps = [model.train(inputs, targets) for _ in range(2)]
    losses = [*itertools.chain.from_iterable(steps), *model.fetch_losses()]
    after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    changed = [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)]
    return {"losses": losses, "changed": float(np.mean(changed)), "xla": bool(model.jit_compile)}


def slice_steps(settings: ModelsSettings) -> dict:
    """Train a slice network that has all layer types of the backbones, compiled as for training."""
    keras.utils.set_random_seed(0)
    run = TrainingRun.begin(settings, "tiny", Path("no checkpoint"))
    model = run.model
    images = np.random.default_rng(0).random((4, *model.input_shape[1:]), dtype=np.float32)
    if settings.fixed_statistics:
        run.fix_statistics([images])
    targets = {
        "logits": np.ones((4, 2 * len(TARGETS)), np.float32),
        "map": np.ones((4, *model.output["map"].shape[1:3], 2 * MAP_CHANNELS), np.float32),
        "evidence": np.ones((4, 2 * len(PARTS)), np.float32),
    }
    steps = _train_two_steps(run.trained, images, targets)
    return {**steps, "average unchanged": _average_survives_prediction(model, images)}


def _average_survives_prediction(model: keras.Model, images: np.ndarray) -> bool:
    average = WeightAverage(model, 0.5)
    average.update()
    before = average.values()
    with average.in_use():
        model.predict_on_batch(images)
    return all(map(np.array_equal, average.values(), before))


def exam_steps(kind: str) -> dict:
    """Train an exam network."""
    keras.utils.set_random_seed(0)
    model = RecordingNetwork(exam_network(kind, 6, EXAM))
    compile_exam_network(model, EXAM, steps=1, unit=1.0)
    random = np.random.default_rng(0)
    inside = np.ones((3, 8, 1), np.float32)
    inside[:, 6:] = 0
    inputs = {"sequence": random.normal(size=(3, 8, 6)).astype(np.float32), "inside": inside}
    targets = {"slices": np.full((3, 8, 2), 0.5, np.float32), "exams": np.ones((3, 9), np.float32)}
    return _train_two_steps(model, inputs, targets)


#: The backbone of the slice networks.
BACKBONE = Backbone(_graph, (0.5,) * 3, (0.5,) * 3, "none")


def main() -> None:
    """Train all networks and print the results."""
    BACKBONES["tiny"] = BACKBONE
    recipes = {name: recipe for name, recipe in RECIPES.items() if "bfloat16" not in name or not onednn_is_limited()}
    networks = {name: slice_steps(recipe) for name, recipe in recipes.items()}
    networks |= {kind: exam_steps(kind) for kind in EXAM_KINDS}
    print(json.dumps({"backend": keras.backend.backend(), "networks": networks}))


if __name__ == "__main__":
    main()
