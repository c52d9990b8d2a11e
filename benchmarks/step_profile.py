"""Where the time of a run goes: seconds of every stage, and of every kind of operation and layer in a training step.

    ./run.sh bench step_profile                                  the recipe of settings/phantom.toml
    ./run.sh bench step_profile --backbone mobilenetv2 --layers 30
    ./run.sh bench step_profile --name NAME                      a finished experiment

Every network is built as in training, with frozen layers outside of the step, and trained on one constant batch. Its
parts are timed first, then TensorFlow's profiler records the operations of some steps; a recorded step takes a little
longer. Needs TensorFlow on a CPU; no data. Seconds of stages are those of the experiment's artifacts that exist.
"""

import argparse
import collections
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.clot_map import PARTS
from models.clot_targets import MAP_CHANNELS
from models.device import prepare_backend
from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import ModelsSettings, Settings
from submissions.text_table import text_table

if TYPE_CHECKING:
    from models.training_run import TrainingRun

#: What Keras and TensorFlow append to names that they have used before.
REPEATED = re.compile(r"_\d+$")


def stage_seconds(settings: Settings) -> list[list[str]]:
    """Artifact and seconds that it took, of the experiment's finished artifacts."""
    networks = [
        paths.model_run(name, fold) for name in settings.models.backbones for fold in range(settings.input.folds)
    ]
    stages = [paths.raw(), paths.prepared(), paths.store(), paths.masks(), paths.acceptance()]
    folders = [*stages, *networks, paths.ensemble_run(), paths.submissions(), paths.inference()]
    manifests = [read_manifest(folder) for folder in folders if (folder / MANIFEST).is_file()]
    return [[manifest["name"], f"{manifest['wall_seconds']:.1f}"] for manifest in manifests]


def prepared_run(settings: ModelsSettings, backbone: str) -> "tuple[TrainingRun, Any, dict[str, Any]]":
    """Build a network; return its training run, and input and targets of one constant batch."""
    from models.batch_normalization import normalisations
    from models.network_names import architecture
    from models.optimizer import create_training_variables
    from models.training_run import TrainingRun

    with tempfile.TemporaryDirectory() as folder:
        training = TrainingRun.begin(settings, backbone, Path(folder) / "none.npz")
    for layer in normalisations(training.model.get_layer(architecture(backbone))):
        layer.fixed = settings.fixed_statistics
    network, random = training.trained, np.random.default_rng(0)
    inputs = random.random((settings.batch, *network.input.shape[1:]), dtype=np.float32)
    rows, columns = network.output["map"].shape[1:3]
    shapes = {"logits": (2 * len(TARGETS),), "map": (rows, columns, 2 * MAP_CHANNELS), "evidence": (2 * len(PARTS),)}
    truth = {name: np.ones((settings.batch, *shape), np.float32) for name, shape in shapes.items()}
    create_training_variables(network, truth)
    return training, inputs, truth


def part_milliseconds(training: "TrainingRun", inputs: Any, truth: dict[str, Any], steps: int) -> list[list[str]]:
    """Part of a step and median milliseconds of one batch."""
    import tensorflow as tf

    network = training.trained
    batch, targets = tf.constant(inputs), {name: tf.constant(values) for name, values in truth.items()}

    @tf.function
    def forward() -> Any:
        return network(batch, training=True)

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = network.compute_loss(y=targets, y_pred=network(batch, training=True))
        return tape.gradient(loss, [variable.value for variable in network.trainable_variables])

    found = gradients()

    @tf.function
    def update() -> None:
        network.optimizer.apply(found, network.trainable_variables)

    parts: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "forward and backward": gradients,
        "optimizer": update,
        "whole step": lambda: network.train_on_batch(inputs, truth),
    }
    if stem := training.stem():
        images = np.zeros((len(inputs), *training.model.input.shape[1:]), np.float32)
        parts["frozen layers, before the step"] = lambda: stem.compute(images)
    return [[name, f"{1000 * statistics.median(_seconds(part, steps)):.2f}"] for name, part in parts.items()]


def _seconds(work: Callable[[], Any], count: int) -> list[float]:
    work()  # builds its graph
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def layer_names(training: "TrainingRun") -> set[str]:
    """The names of the network's layers and of its backbone's."""
    from models.network_names import architecture

    backbone = training.model.get_layer(architecture(training.backbone))
    return {layer.name for layer in (*training.model.layers, *backbone.layers)} - {backbone.name}


def recorded_operations(work: Callable[[], Any], steps: int, layers: set[str]) -> Iterator[tuple[str, str, float]]:
    """Record steps with TensorFlow's profiler; yield layer, operation and milliseconds per step.

    Args:
        work: One step.
        steps: How many are recorded.
        layers: From `layer_names`; other operations, such as those of the optimizer, belong to the layer "(none)".
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            work()
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    for plane in space.planes:
        names = {number: event.name for number, event in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            path, colon, operation = names[event.metadata_id].rpartition(":")
            if colon and "/" in path:
                parts = [REPEATED.sub("", part) for part in reversed(path.split("/"))]
                layer = next((part for part in parts if part in layers), "(none)")
                yield layer, operation, event.duration_ps / 1e9 / steps


def largest(rows: list[tuple[str, float]], count: int) -> list[list[str]]:
    """The names with the largest sums, with sum and share."""
    sums: collections.Counter[str] = collections.Counter()
    for name, value in rows:
        sums[name] += value
    total = sum(sums.values())
    return [[name, f"{value:.2f}", f"{value / total:.2f}"] for name, value in sums.most_common(count)]


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench step_profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", action="append", help="a network (default: those of the recipe)")
    parser.add_argument("--steps", type=int, default=40, help="batches per measurement (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="layers and operations to print (%(default)s)")
    add_settings_arguments(parser)
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    if rows := stage_seconds(settings):
        say(text_table(["artifact", "seconds"], rows) + "\n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    prepare_backend(settings.models, 1)
    for backbone in arguments.backbone or settings.models.backbones:
        recipe = settings.models.of(backbone)
        training, inputs, truth = prepared_run(recipe, backbone)
        say(f"{backbone}, batch {recipe.batch}, {recipe.height} x {recipe.width}, one thread")
        rows = part_milliseconds(training, inputs, truth, arguments.steps)
        say(text_table(["part of a step", "ms per batch"], rows) + "\n")
        step = lambda: training.trained.train_on_batch(inputs, truth)  # noqa: B023, E731
        events = list(recorded_operations(step, arguments.steps, layer_names(training)))
        for title, column in (("operation", 1), ("layer", 0)):
            rows = largest([(event[column], event[2]) for event in events], arguments.layers)
            say(text_table([title, "ms per batch", "share"], rows) + "\n")


if __name__ == "__main__":
    run(main)
