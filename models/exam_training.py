"""Training of one exam network on the embeddings of its slice network.

Embeddings of different folds' networks are not comparable. Exam network k therefore sees the training exams through
slice network k (which was trained on their labels) and predicts the exams of fold k, which neither network has seen.
The loss is the contest's metric.
"""

from collections.abc import Callable

import keras
import numpy as np

from input.contest import EXAM_WEIGHTS, IMAGE_WEIGHT
from models.exam_forward import ExamForward, exam_forward
from models.exam_inputs import ExamSlices, Scale, network_inputs
from models.exam_network import exam_loss, exam_network, slice_loss
from models.exam_sequences import Grid, grid_of, onto_grid
from models.history import History
from models.optimizer import compile_network, create_training_variables
from models.recording_network import RecordingNetwork
from pipeline.errors import UserError
from pipeline.settings import ExamNetworkSettings


def train_exam_network(
    exams: list[ExamSlices], kind: str, settings: ExamNetworkSettings, report: Callable[[int, float], None]
) -> tuple[keras.Model, Scale, History]:
    """Train from scratch; order, shifts and noise are a pure function of (seed, epoch).

    Args:
        exams: The training exams, with labels.
        kind: "gru" or "transformer".
        settings: Training recipe.
        report: Called with (epoch from 1, mean loss) after every epoch.

    Returns:
        The network, the scale of its inputs, and the history with losses in units of the metric.

    Raises:
        UserError: The loss became NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)  # independent of earlier random draws of this process
    scale = Scale.of(exams)
    model = exam_network(kind, 3 * exams[0].inputs.shape[1], settings)
    trained = RecordingNetwork(model)
    compile_exam_network(trained, settings, -(-len(exams) // settings.batch), metric_unit(exams))
    history = History()
    for epoch in range(settings.epochs):
        history.losses.append(_train_epoch(trained, exams, scale, settings, epoch))
        history.rates.append(float(trained.optimizer.learning_rate))
        report(epoch + 1, history.losses[-1])
    return model, scale, history


def forward_of(model: keras.Model, kind: str) -> ExamForward:
    """Return the forward pass of a trained network for `models.exam_prediction.predict_exams`."""
    return exam_forward(kind, [keras.ops.convert_to_numpy(variable) for variable in model.variables])


def compile_exam_network(model: keras.Model, settings: ExamNetworkSettings, steps: int, unit: float) -> None:
    """Compile a network of `models.exam_network` with its optimizer and the contest's metric as loss.

    Args:
        model: The network, not compiled yet.
        settings: Training recipe.
        steps: Batches per epoch; the first epoch is the warm-up.
        unit: The metric's denominator, from `metric_unit`.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 20, steps * settings.epochs, alpha=0.01, warmup_target=settings.learning_rate,
        warmup_steps=steps,
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, global_clipnorm=1.0)
    losses = {"slices": slice_loss, "exams": exam_loss}
    compile_network(model, optimizer, losses, {"slices": 1 / unit, "exams": 1 / unit})


def metric_unit(exams: list[ExamSlices]) -> float:
    """Return the mean sum of an exam's weights: the denominator of the metric."""
    positive_slices = [exam.labels()[0].sum() for exam in exams]
    return sum(EXAM_WEIGHTS.values()) + IMAGE_WEIGHT * float(np.mean(positive_slices))


def _train_epoch(
    network: RecordingNetwork, exams: list[ExamSlices], scale: Scale, settings: ExamNetworkSettings, epoch: int
) -> float:
    random = np.random.default_rng([settings.seed, epoch])
    order = random.permutation(len(exams))
    losses: list[float] = []
    for first in range(0, len(order), settings.batch):
        batch = [exams[row] for row in order[first : first + settings.batch]]
        grids = [
            grid_of(exam.z_mm, settings.length, settings.step_mm, shift=random.uniform(-1, 1),
                    stretch=np.exp(random.uniform(-0.1, 0.1)))
            for exam in batch
        ]  # fmt: skip
        inputs = network_inputs(batch, grids, scale, random, settings.noise)
        targets = _targets(batch, grids)
        if first == 0:
            create_training_variables(network, targets)
        losses += network.train(inputs, targets)
    losses += network.fetch_losses()
    if not np.isfinite(losses).all():
        step = int(np.argmin(np.isfinite(losses)))
        raise UserError(
            f"training diverged: loss {losses[step]} at epoch {epoch + 1}, step {step + 1} of {len(losses)}. "
            "Lower models.exam.learning_rate."
        )
    return float(np.mean(losses))


def _targets(exams: list[ExamSlices], grids: list[Grid]) -> dict[str, np.ndarray]:
    """Return labels on the grid.

    A position represents its share of the exam's slices, each with a weight of q times the image weight.
    """
    slice_targets, exam_targets = [], []
    for exam, grid in zip(exams, grids, strict=True):
        slice_labels, exam_labels = exam.labels()
        truth = onto_grid(grid, exam.z_mm, slice_labels[:, None].astype(np.float32))[:, 0]
        weight = IMAGE_WEIGHT * slice_labels.mean() * len(slice_labels) / grid.inside.sum() * grid.inside
        slice_targets.append(np.stack([truth, weight], axis=-1))
        exam_targets.append(exam_labels)
    return {"slices": np.stack(slice_targets).astype(np.float32), "exams": np.stack(exam_targets).astype(np.float32)}
