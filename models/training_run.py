"""The state of one training run: network with optimizer, weight average, history, weights of the best epoch.

The folds of a backbone that one process trains share a compiled network, because building and tracing it takes as long
as a tenth of its training.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models.arrays import load_arrays
from models.batch_normalization import measure_statistics, normalisations
from models.checkpoint import require_same_conditions, restore_checkpoint, save_checkpoint
from models.clot_map import map_loss
from models.device import gpu_capability
from models.frozen_stem import SharedFeatures, SplitEngines, StemFeatures, split, stem_precision
from models.history import History
from models.inner_split import InnerExams
from models.network_names import architecture
from models.optimizer import build_optimizer, compile_network
from models.precision import dtype_policy
from models.prediction_engine import Engine, select_engine
from models.recording_network import RecordingNetwork
from models.slice_network import slice_network_with_maps, weighted_logistic_loss
from models.weight_averaging import WeightAverage, assign_all, averaged_variables
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings


class TrainingRun:
    """The state of one training run: network with optimizer, weight average, history, weights of the best epoch.

    Args:
        settings: Training recipe.
        backbone: A key of `models.backbones.BACKBONES`.
        weights: Initial weights: "imagenet", "none" or a path.
        local_map: As in `models.slice_network.slice_network`.

    Attributes:
        model: The network.
        trained: The part of it that is trained, with the same layers; all of it without a stem.
    """

    def __init__(self, settings: ModelsSettings, backbone: str, weights: str, *, local_map: bool = False) -> None:
        self.settings, self.backbone = settings, backbone
        self.policy = dtype_policy(settings, backbone)
        self.model, maps = slice_network_with_maps(settings, backbone, weights, local_map=local_map)
        self._parts = split(self.model, maps, architecture(backbone)) if self._is_split() else None
        self.trained = RecordingNetwork(self._parts.rest if self._parts else self.model)
        self._stem: SharedFeatures | None = None
        self._engines: SplitEngines | None = None
        self.average = WeightAverage(self.model, settings.ema) if settings.ema else None
        self.history = History()
        self.best: list[np.ndarray] = []

    @classmethod
    def begin(
        cls, settings: ModelsSettings, backbone: str, checkpoint: Path, *, local_map: bool = False
    ) -> "TrainingRun":
        """Start a run, or resume it if the checkpoint exists.

        Args:
            settings: Training recipe.
            backbone: A key of `models.backbones.BACKBONES`.
            checkpoint: File of `save`; it may be missing.
            local_map: As in `models.slice_network.slice_network`.

        Raises:
            UserError: The checkpoint is damaged, or was written with another precision or backend.
        """
        if not checkpoint.is_file():
            return _fresh_run(settings, backbone, local_map)
        arrays = load_arrays(checkpoint)
        _forget_network(settings)
        run = cls(settings, backbone, "none", local_map=local_map)
        require_same_conditions(arrays, checkpoint, run.conditions())
        run.history = History.of(arrays)
        if 1 <= settings.unfreeze_epoch <= len(run.history):
            run.unfreeze(done=settings.unfreeze_epoch - 1)
        else:
            run.compile()
        run.best = restore_checkpoint(arrays, checkpoint, run.model, run.trained.optimizer, run.average)
        return run

    def stem(self, loaders: int = 1) -> SharedFeatures | None:
        """Return what computes the features that `trained` reads; None if it reads images.

        It is compiled at the first call, when the weights have been loaded or restored.

        Args:
            loaders: Threads that call it at the same time.
        """
        if self._parts and not self._stem:
            self._stem = SharedFeatures(StemFeatures(self._parts.stem, self.settings.precision, loaders))
        return self._stem

    def split_engines(self, shared: list[str], threads: int, path: Path) -> tuple[Engine, Engine] | None:
        """Return the engines of `models.frozen_stem.SplitEngines` with the present weights; None if not split.

        Args:
            shared: Names of the slices of the second engine.
            threads: CPU threads.
            path: Where the graph of the network is written, if it is split.
        """
        if not self._parts:
            return None
        self._engines = self._engines or SplitEngines(self._parts.stem, threads)
        return self._engines.of(self._parts.rest, shared, path)

    def _is_split(self) -> bool:
        """Whether frozen layers are computed by OpenVINO."""
        if gpu_capability() is not None:
            return False
        settings = self.settings
        frozen = settings.frozen_share > 0 and not settings.unfreeze_epoch and not settings.trainable_windows
        return frozen and self.policy == "float32" and select_engine(settings.engine) == "openvino"

    def fix_statistics(self, inputs: Iterable[Any]) -> None:
        """Normalise with fixed statistics in the backbone; those of trained layers are measured before a run starts.

        Args:
            inputs: What `trained` reads; not used where a run is resumed.
        """
        layers = normalisations(self.model.get_layer(architecture(self.backbone)))
        if not len(self.history):
            measured = [layer for layer in layers if layer.trainable]
            for layer in measured:
                layer.fixed = False
            measure_statistics(self.trained, measured, inputs)
            if self.average:
                self.average.restore([*map(keras.ops.convert_to_numpy, averaged_variables(self.model))], updates=0)
        for layer in layers:
            layer.fixed = True

    def variables(self) -> list[keras.Variable]:
        """Return everything that training changes: of the network, the optimizer and the average."""
        averages = self.average.variables() if self.average else []
        return [*self.model.variables, *self.trained.optimizer.variables, *averages]

    def conditions(self) -> dict[str, str]:
        """Return what a training must resume with, because other values give other results."""
        stem = stem_precision(self.settings.precision) if self._parts else "none"
        return {"policy": self.policy, "backend": keras.backend.backend(), "stem": stem}

    def unfreeze(self, done: int = 0) -> None:
        """Make all layers of the backbone trainable, after `done` epochs.

        The optimizer starts from scratch; its learning rate schedule continues.
        """
        for layer in self.model.get_layer(architecture(self.backbone)).layers:
            layer.trainable = True
        self.compile(done)

    def compile(self, done: int = 0) -> None:
        """Compile the network with a new optimizer, after `done` epochs."""
        optimizer = build_optimizer(self.trained, self.settings, done)
        if self.policy == "mixed_float16":
            # Keras wraps the optimizer only if the outermost model, not its layers, has that policy.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(self.trained.trainable_variables)
        losses = {"logits": weighted_logistic_loss, "map": map_loss, "evidence": weighted_logistic_loss}
        compile_network(self.trained, optimizer, losses)

    def evaluate(self, inner_exams: InnerExams) -> None:
        """Measure the inner loss of the weights that would predict; keep them if it is the lowest so far.

        Raises:
            UserError: The inner loss is NaN or infinite.
        """
        with self.average.in_use() if self.average else nullcontext():
            loss = inner_exams.loss(self.model)
            if not np.isfinite(loss):
                raise UserError(diverged(f"inner loss {loss} after epoch {len(self.history)}"))
            self.history.inner_losses.append(loss)
            if self.history.improved():
                self.best = [
                    np.copy(keras.ops.convert_to_numpy(variable)) for variable in averaged_variables(self.model)
                ]  # fmt: skip

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint.

        Raises:
            UserError: A weight is NaN or infinite.
        """
        broken = [
            variable.path
            for variable in averaged_variables(self.model)
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all()
        ]
        if broken:
            raise UserError(diverged(f"{broken[0]} is not finite after epoch {len(self.history)}"))
        save_checkpoint(
            checkpoint, self.model, self.trained.optimizer, self.average, self.best, self.history, self.conditions()
        )

    def assign_final_weights(self) -> None:
        """Set the network to the weights for prediction: of the best epoch, else averaged, else the last."""
        if self.best:
            assign_all(averaged_variables(self.model), self.best)
        elif self.average:
            self.average.apply()


#: The last run that this process started, and the values of its variables at the start.
STARTED: list[tuple[tuple, TrainingRun, list[np.ndarray]]] = []


def _fresh_run(settings: ModelsSettings, backbone: str, local_map: bool) -> TrainingRun:
    """Start a run. All folds start from the same variables (same seed, same initial weights): those of the process's
    first fold are assigned again.
    """
    key = (repr(settings), backbone, local_map)
    if STARTED and STARTED[0][0] == key:
        _, run, values = STARTED[0]
        assign_all(run.variables(), values)
        if run.average:
            run.average.updates = 0
        run.history, run.best = History(), []
        run.trained.fetch_losses()  # those of an epoch that failed
        return run
    _forget_network(settings)
    run = TrainingRun(settings, backbone, settings.weights, local_map=local_map)
    run.unfreeze() if settings.unfreeze_epoch == 1 else run.compile()
    if settings.unfreeze_epoch <= 1:  # later unfreezing changes the network and its optimizer
        STARTED.append((key, run, [np.copy(keras.ops.convert_to_numpy(value)) for value in run.variables()]))
    return run


def _forget_network(settings: ModelsSettings) -> None:
    """Forget the shared network: layer names, and with them the last bits of sums, must not depend on earlier jobs."""
    STARTED.clear()
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.seed)


def diverged(reason: str) -> str:
    """Return the message of a training whose loss or weights are not finite."""
    return f"training diverged: {reason}. Lower models.learning_rate and run again."
