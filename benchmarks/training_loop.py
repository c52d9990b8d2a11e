"""The training loop beside the bare step of Keras on one constant batch: what do loader and augmentation cost?

    python -m benchmarks.training_loop                            # the store and recipe of settings/phantom.toml
    python -m benchmarks.training_loop --backbone efficientnet_lite0 --steps 40 --rounds 5
    python -m benchmarks.training_loop --threads 2 --set models.ema=0.99

Needs a finished features stage (`./run.sh --to features`). A round times the bare step and each loop one after the
other on the same network; the table gives the medians over rounds, and as ratio the median of the rounds' ratios.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from models.slice_runs import plane_table, prepare_backend
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import ModelsSettings


def measure(settings: ModelsSettings, backbone: str, threads: int, rounds: int) -> list[tuple[str, float, float]]:
    """Name, slices a second and ratio of time to the bare step's, a row a loop and a row a loader."""
    prepare_backend(settings, threads)
    from models import progress
    from models.slice_training import TrainingRun, train_epoch

    progress.LINE_EVERY = float("inf")  # what is left of this run is of no interest
    table = plane_table("train")
    recipes = {
        "loop without augmentation": dataclasses.replace(settings, augmentation=0.0),
        "loop with augmentation": settings,
    }
    batches = {name: _batches(table, recipe) for name, recipe in recipes.items()}
    with tempfile.TemporaryDirectory() as folder, progress.TrainingLog(settings.epochs) as log:
        training = TrainingRun.begin(settings, backbone, Path(folder) / "none.npz")
        steps = next(iter(batches.values())).count
        log.begin(0, steps)
        images, truth = next(batches["loop with augmentation"].of(0))

        def bare() -> None:
            for _ in range(steps):
                float(training.model.train_on_batch(images, {"logits": truth}))

        loops: dict[str, Callable[[], object]] = {"bare step on one batch": bare}
        for name, source in batches.items():
            loops[name] = lambda source=source: train_epoch(training, source, 0, log)
        for loop in loops.values():  # graphs are built, store files are checked and opened
            loop()
        taken = {name: [] for name in loops}
        for number in range(rounds):
            for name, loop in list(loops.items())[:: 1 if number % 2 else -1]:
                taken[name].append(_seconds(loop))
    slices = steps * settings.batch
    bare_taken = taken["bare step on one batch"]
    rows = [
        (name, slices / statistics.median(times),
         statistics.median(one / other for one, other in zip(times, bare_taken, strict=True)))
        for name, times in taken.items()
    ]  # fmt: skip
    for name, source in batches.items():
        seconds = statistics.median(_seconds(lambda source=source: [None for _ in source.of(1)]) for _ in range(rounds))
        rows.append((name.replace("loop", "loader alone"), slices / seconds, seconds / statistics.median(bare_taken)))
    return rows


def _batches(table: pd.DataFrame, settings: ModelsSettings):
    from models.slice_training import EpochBatches

    return EpochBatches(table, SliceViews(paths.store(), settings), settings)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv2", help="a name of models.backbones.BACKBONES (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the network (%(default)s, as a training job has)")
    parser.add_argument("--steps", type=int, default=30, help="batches a loop (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (%(default)s)")
    add_settings_arguments(parser)
    arguments = parser.parse_args()
    recipe = settings_from(arguments).models.of(arguments.backbone)
    recipe = dataclasses.replace(recipe, epoch_slices=arguments.steps * recipe.batch, epochs=10_000)
    say(f"{arguments.backbone}, batch {recipe.batch}, {recipe.height} x {recipe.width}, {arguments.threads} threads")
    for name, speed, ratio in measure(recipe, arguments.backbone, arguments.threads, arguments.rounds):
        say(f"{name:<36} {speed:8.1f} slices/s   {ratio:.3f} of the bare step's time")


if __name__ == "__main__":
    run(main)
