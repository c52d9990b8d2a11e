"""Cost of loader and augmentation: the training loop compared with Keras's bare step on one constant batch.

    ./run.sh bench training_loop                            the store and recipe of settings/phantom.toml
    ./run.sh bench training_loop --backbone efficientnet_lite0 --steps 40 --rounds 5
    ./run.sh bench training_loop --threads 2 --set models.ema=0.99

Needs a finished features stage (./run.sh --to features). A round times the bare step and each loop one after the other
on the same network; the table shows medians over rounds, and as ratio the median of the rounds' ratios.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from models.device import prepare_backend
from models.slice_runs import plane_table
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import ModelsSettings

if TYPE_CHECKING:
    from models.slice_training import EpochBatches
    from models.training_run import TrainingRun


def measure(settings: ModelsSettings, backbone: str, threads: int, rounds: int) -> list[tuple[str, float, float]]:
    """Time the bare step, the loops and the loaders.

    Args:
        settings: of the network.
        backbone: its name.
        threads: CPU threads of the network.
        rounds: repetitions.

    Returns:
        One row per loop and per loader: name, slices per second, and ratio of its time to the bare step's.
    """
    prepare_backend(settings, threads)
    from models import progress
    from models.slice_training import fix_statistics, train_epoch
    from models.training_run import TrainingRun

    progress.STEP_MESSAGE_SECONDS = float("inf")  # no progress messages
    table = plane_table("train")
    recipes = {
        "loop without augmentation": dataclasses.replace(settings, augmentation=0.0),
        "loop with augmentation": settings,
    }
    with tempfile.TemporaryDirectory() as folder, progress.TrainingLog(settings.epochs) as log:
        training = TrainingRun.begin(settings, backbone, Path(folder) / "none.npz")
        batches = {name: _batches(table, recipe, training) for name, recipe in recipes.items()}
        fix_statistics(training, batches["loop with augmentation"])
        steps = next(iter(batches.values())).count
        log.begin(0, steps)
        images, truth = next(batches["loop with augmentation"].of(0))

        def bare() -> None:
            for _ in range(steps):
                training.trained.train_on_batch(images, truth)
            training.trained.fetch_losses()

        loops: dict[str, Callable[[], object]] = {"bare step on one batch": bare}
        epochs = itertools.count(1)  # of an epoch that was loaded before, the features would be known
        for name, source in batches.items():
            loops[name] = lambda source=source: train_epoch(training, source, next(epochs), log)
        for loop in loops.values():  # warm-up: builds graphs, verifies and opens store files
            loop()
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(rounds):
            for name, loop in list(loops.items())[:: 1 if number % 2 else -1]:
                taken[name].append(_seconds(loop))
    slices = steps * settings.batch
    bare_taken = taken["bare step on one batch"]
    rows = [
        (name, slices / statistics.median(times),
         statistics.median(own / bare for own, bare in zip(times, bare_taken, strict=True)))
        for name, times in taken.items()
    ]  # fmt: skip
    for name, source in batches.items():
        seconds = statistics.median(
            _seconds(lambda source=source: [None for _ in source.of(next(epochs))]) for _ in range(rounds)
        )
        rows.append((name.replace("loop", "loader alone"), slices / seconds, seconds / statistics.median(bare_taken)))
    return rows


def _batches(table: pd.DataFrame, settings: ModelsSettings, training: "TrainingRun") -> "EpochBatches":
    from models.slice_training import EpochBatches

    return EpochBatches(table, SliceViews(paths.store(), settings), settings, stem=training.stem())


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench training_loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mobilenetv2", help="the network (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads of the network (%(default)s, as in a training job)"
    )
    parser.add_argument("--steps", type=int, default=30, help="batches per loop (%(default)s)")
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
