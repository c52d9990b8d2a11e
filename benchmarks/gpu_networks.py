"""Speed of the device and of one slice network on it, through Keras; the parts of benchmarks.gpu that use Keras.

Every function runs in a process of its own, so that memory and compiled code of one network do not affect the next.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from benchmarks.inference_speed import write_noise_exams
from input.contest import QA_LABELS, SLICE_LABEL, STUDY
from models.batches import loader_threads
from models.device import prepare_backend, this_device, unused_gpu_reason
from models.slice_runs import plane_table
from models.slice_targets import TARGETS
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.machine import cores
from pipeline.settings import ModelsSettings
from submissions.hardware import hardware

if TYPE_CHECKING:
    import keras

#: Side of the matrices whose products measure the peak, by kind of device.
MATRIX_SIDE = {"gpu": 8192, "cpu": 1024}
#: Products between two readings of the clock, and readings; the fastest counts.
PRODUCTS, READINGS = 20, 6
#: The synthetic store: exams, and slices per exam.
EXAMS, SLICES = 8, 24
#: Batches that `models.batches.prefetched` keeps ready beyond one per thread, and one in use.
AHEAD = 3
WARM_UP_STEPS = 2
#: Keras computes the gradients of weights and of features: each costs as much as the forward pass.
TRAINING_PASSES = 3


class Work(NamedTuple):
    """What is measured of one network.

    Attributes:
        backbone: A key of `models.backbones.BACKBONES`.
        size: Height and width of the input, pixels.
        batch: Images per step.
        precision: A value of `models.precision`.
        steps: Steps of each measurement.
        seconds: Seconds after which a measurement ends before it has taken all steps.
        stored: Read the slices of the current experiment's store instead of synthetic ones.
    """

    backbone: str
    size: int
    batch: int
    precision: str
    steps: int
    seconds: float
    stored: bool = False

    def settings(self, steps: int) -> ModelsSettings:
        """Return the recipe of a training with `steps` batches per epoch.

        The learning rate is so low that random weights do not diverge.
        """
        return ModelsSettings(
            height=self.size, width=self.size, pixel_mm=0.0, weights="none", frozen_share=0.0, batch=self.batch,
            precision=self.precision, epoch_slices=steps * self.batch, epochs=1000, learning_rate=1e-6,
        )  # fmt: skip


def measure_device() -> dict[str, Any]:
    """Describe the device of the Keras backend and measure its speed.

    Returns:
        `backend`, `device` (name), `kind` ("cpu" or "gpu"), `precision` (mixed_bfloat16 if the device has it),
        `peak_flops` (of matrix products in that precision, per second) and `warning` ("" or why a GPU is not used).
    """
    import keras

    device = this_device()
    return {
        "backend": keras.backend.backend(),
        "device": _device_name(),
        "kind": device.kind,
        "precision": "mixed_bfloat16" if device.bfloat16 else "float32",
        "peak_flops": matrix_product_flops(MATRIX_SIDE[device.kind], "bfloat16" if device.bfloat16 else "float32"),
        "warning": unused_gpu_reason(),
    }


def matrix_product_flops(side: int, dtype: str) -> float:
    """Measure products of square matrices, one after the other.

    Args:
        side: Rows and columns.
        dtype: Number format.

    Returns:
        Floating-point operations per second of the fastest reading; a product has 2 * side**3.
    """
    import keras
    from keras import ops

    # With this standard deviation, products have entries of the same size.
    product, factor = (
        ops.cast(keras.random.normal((side, side), stddev=side**-0.5, seed=seed), dtype) for seed in range(2)
    )
    fastest = math.inf
    for _ in range(READINGS):
        started = time.perf_counter()
        for _ in range(PRODUCTS):
            product = ops.matmul(product, factor)
        float(ops.convert_to_numpy(ops.cast(product[0, 0], "float32")))  # waits for the device
        fastest = min(fastest, time.perf_counter() - started)
    return PRODUCTS * 2 * side**3 / fastest


def measure_network(work: Work) -> dict[str, Any]:
    """Measure prediction, the training step on a constant batch on the device, and the real training loop.

    Returns:
        `weights` (number of trained weights), `flops` (of the forward pass, per image), `train` and `infer` (images
        per second), `loop` (time of a step of the loop, as a multiple of the constant batch's), `loop_steps` and
        `memory` (highest use of device memory in training, bytes; None if the backend does not report it).
    """
    prepare_backend(work.settings(1), cores())
    from models.optimizer import create_training_variables
    from models.progress import TrainingLog
    from models.slice_training import EpochBatches, train_epoch
    from models.training_run import TrainingRun

    loaders = loader_threads(cores())
    with tempfile.TemporaryDirectory() as folder:
        table, store = _slices(work, Path(folder))

        def batches_of(steps: int) -> EpochBatches:
            settings = work.settings(steps)
            return EpochBatches(table, SliceViews(store, settings), settings, loaders, on_device=True)

        run = TrainingRun.begin(work.settings(work.steps), work.backbone, Path(folder) / "none.npz", local_map=True)
        images, truth = next(batches_of(1).of(0))
        create_training_variables(run.trained, truth)

        def infer() -> None:
            run.model.predict_on_batch(images)

        def train() -> None:
            run.trained.train(images, truth)

        def constant() -> float:
            return seconds_per_step(train, work.steps, work.seconds, wait=run.trained.fetch_losses)

        def epoch_seconds(steps: int) -> float:
            started = time.perf_counter()
            log.begin(0, steps)
            train_epoch(run, batches_of(steps), 1, log)
            return time.perf_counter() - started

        inference_s = seconds_per_step(infer, work.steps, work.seconds)
        reset_peak_memory()
        before_s = constant()
        steps, filling = max(2, min(work.steps, int(work.seconds / before_s))), loaders + AHEAD
        with TrainingLog(work.settings(1).epochs, report=lambda message: None) as log:
            epoch_seconds(filling)  # opens the exams
            short_s = epoch_seconds(filling)  # while the loader fills its queue
            loop_s = (epoch_seconds(filling + steps) - short_s) / steps
        constant_s = (before_s + constant()) / 2
    return {
        "weights": sum(math.prod(variable.shape) for variable in run.model.trainable_variables),
        "flops": 2 * multiply_accumulates(run.model),
        "train": work.batch / constant_s,
        "infer": work.batch / inference_s,
        "loop": loop_s / constant_s,
        "loop_steps": steps,
        "memory": peak_memory(),
    }


def seconds_per_step(
    step: Callable[[], object], steps: int, seconds: float, wait: Callable[[], object] = lambda: None
) -> float:
    """Time a step, after a warm-up.

    Args:
        step: Called without arguments.
        steps: How often it is called.
        seconds: Stop after this time; at least two steps are timed.
        wait: Waits for the result of the last step, if the step does not.
    """
    for _ in range(WARM_UP_STEPS):
        step()
    wait()
    count, started = 0, time.perf_counter()
    while count < steps and (count < 2 or time.perf_counter() - started < seconds):
        step()
        count += 1
    wait()
    return (time.perf_counter() - started) / count


def multiply_accumulates(model: "keras.Model") -> int:
    """Count the multiplications of convolutions (also depthwise and grouped) and dense layers for one image."""
    count = 0
    for layer in _layers(model):
        kernels = [math.prod(weight.shape) for weight in layer.weights if weight.name.endswith("kernel")]
        if kernels:
            count += sum(kernels) * math.prod(layer.output.shape[1:-1])
    return count


def _layers(model: "keras.Model") -> "Iterator[keras.Layer]":
    """The layers of a model and of the models inside it."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer


def _slices(work: Work, folder: Path) -> tuple[pd.DataFrame, Path]:
    """The training slices with their labels, and the store that has their pixels."""
    if work.stored:
        return plane_table("train"), paths.store()
    table = write_noise_exams(folder, EXAMS, SLICES, work.size)
    studies = table[STUDY].unique()
    positive = table[STUDY].isin(studies[::2]).astype(float)
    labels = dict.fromkeys(TARGETS, positive) | dict.fromkeys(QA_LABELS, 0.0)
    return table.assign(**labels | {SLICE_LABEL: positive * (table["plane"] % 2)}), folder


def _device_name() -> str:
    """The name of the device that the Keras backend computes on."""
    import keras

    backend = keras.backend.backend()
    if this_device().kind == "cpu":
        return hardware()["processor"]
    if backend == "tensorflow":
        import tensorflow

        gpu = tensorflow.config.list_physical_devices("GPU")[0]
        return tensorflow.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    import torch

    return torch.cuda.get_device_name()


def reset_peak_memory() -> None:
    """Forget the highest use of device memory so far; JAX cannot, but training needs more than prediction."""
    import keras

    if this_device().kind == "cpu":
        return
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.reset_memory_stats("GPU:0")
    elif keras.backend.backend() == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int | None:
    """Return the highest use of device memory, bytes; None on a CPU, or if the backend does not report it."""
    import keras

    if this_device().kind == "cpu":
        return None
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.config.experimental.get_memory_info("GPU:0")["peak"]
    if keras.backend.backend() == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import torch

    return torch.cuda.max_memory_allocated()
