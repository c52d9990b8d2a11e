"""Networks and optimizers as arrays: saved atomically, loaded without pickle."""

from pathlib import Path

import keras
import numpy as np

from models.arrays import load_arrays, save_arrays
from models.history import History
from models.weight_averaging import WeightAverage
from pipeline.errors import UserError


def save_weights(path: Path, model: keras.Model) -> None:
    """Write the variables of a network (weights, statistics, random seeds) in order."""
    save_arrays(path, _arrays("v", model.variables))


def load_weights(path: Path, model: keras.Model) -> None:
    """Load the file of `save_weights` into a network with the same code and settings.

    Raises:
        UserError: The file is damaged, or belongs to another network.
    """
    arrays = load_arrays(path)
    _assign(model.variables, [arrays[key] for key in sorted(arrays)], path)


def save_checkpoint(
    path: Path, model: keras.Model, optimizer: keras.Optimizer, average: WeightAverage | None, best: list[np.ndarray],
    history: History, conditions: dict[str, str],
) -> None:  # fmt: skip
    """Write everything that the next epoch depends on, atomically.

    Args:
        path: The file.
        model: The network.
        optimizer: Its optimizer.
        average: Average of its weights; None if they are not averaged.
        best: Weights of the best epoch so far; empty if no best epoch is selected.
        history: History of the finished epochs.
        conditions: What the training must resume with.
    """
    arrays = _arrays("v", model.variables) | _arrays("o", optimizer.variables) | _arrays("b", best)
    if average:
        arrays |= _arrays("a", average.values()) | {"updates": np.array(average.updates)}
    save_arrays(path, arrays | history.arrays() | {key: np.array(value) for key, value in conditions.items()})


def require_same_conditions(arrays: dict[str, np.ndarray], path: Path, current: dict[str, str]) -> None:
    """Check that a training resumes with the precision and backend it started with: others give other results.

    Args:
        arrays: From `load_arrays`.
        path: The checkpoint, for the message.
        current: Conditions of the resumed training.

    Raises:
        UserError: A condition differs.
    """
    started = {key: str(arrays.get(key, value)) for key, value in current.items()}
    if started != current:
        raise UserError(
            f"training cannot resume with another precision or backend: {path}. Expected {_described(started)}, got "
            f"{_described(current)}. Resume it with those, or train it from scratch: ./run.sh --from models --force"
        )


def _described(conditions: dict[str, str]) -> str:
    stem = "" if conditions["stem"] == "none" else f" (frozen layers in {conditions['stem']})"
    return f"{conditions['policy']} on {conditions['backend']}{stem}"


def restore_checkpoint(
    arrays: dict[str, np.ndarray],
    path: Path,
    model: keras.Model,
    optimizer: keras.Optimizer,
    average: WeightAverage | None,
) -> list[np.ndarray]:
    """Restore network, optimizer and average from the arrays of `save_checkpoint`.

    Args:
        arrays: From `load_arrays`; the history is restored by `History.of`.
        path: The checkpoint, for messages.
        model: The network.
        optimizer: Its optimizer, as it was when the checkpoint was written.
        average: Average of its weights; None if they are not averaged.

    Returns:
        Weights of the best epoch; empty if no best epoch is selected.

    Raises:
        UserError: The arrays belong to another network.
    """
    _assign(model.variables, _group("v", arrays), path)
    _assign(optimizer.variables, _group("o", arrays), path)
    if average:
        average.restore(_group("a", arrays), int(arrays["updates"]))
    return _group("b", arrays)


def _arrays(letter: str, variables: list) -> dict[str, np.ndarray]:
    return {f"{letter}{index:04d}": keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}


def _group(letter: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[key] for key in sorted(arrays) if key[0] == letter and key[1:].isdigit()]


def _assign(variables: list, values: list[np.ndarray], path: Path) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise UserError(
            f"weights of another network: {path}. Expected {len(shapes)} arrays with the shapes of this network, got "
            f"{len(values)} arrays."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
