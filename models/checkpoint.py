"""Network and optimiser as arrays: saved atomically, loaded without unpickling."""

import zipfile
from pathlib import Path

import keras
import numpy as np

from models.history import History
from models.weight_averaging import WeightAverage
from pipeline.errors import UserError
from pipeline.files import atomic_path


def save_weights(path: Path, model: keras.Model) -> None:
    """Write the network's variables (weights, statistics, random seeds) in their order."""
    save_arrays(path, _arrays("v", model.variables))


def load_weights(path: Path, model: keras.Model) -> None:
    """Read what `save_weights` wrote into a network of the same code and settings.

    Raises:
        UserError: a damaged file, or one of another network.
    """
    arrays = load_arrays(path)
    _assign(model.variables, [arrays[key] for key in sorted(arrays)], path)


def save_checkpoint(
    path: Path, model: keras.Model, average: WeightAverage | None, best: list[np.ndarray], history: History,
    policy: str,
) -> None:  # fmt: skip
    """Write everything that the next epoch depends on, atomically.

    Args:
        path: the file.
        model: compiled; its optimiser is saved too.
        average: of its weights, where they are averaged.
        best: weights of the best epoch so far; empty where none is chosen.
        history: of the finished epochs.
        policy: the dtype policy that the network trains in; it and the Keras backend are recorded.
    """
    arrays = _arrays("v", model.variables) | _arrays("o", model.optimizer.variables) | _arrays("b", best)
    if average:
        arrays |= _arrays("a", average.values()) | {"updates": np.array(average.updates)}
    save_arrays(path, arrays | history.arrays() | {key: np.array(value) for key, value in _place(policy).items()})


def require_same_place(arrays: dict[str, np.ndarray], path: Path, policy: str) -> None:
    """Make sure that training goes on where it was begun: another precision or backend would end elsewhere.

    Args:
        arrays: from `load_arrays`.
        path: for the message.
        policy: the dtype policy that the network would train in here.

    Raises:
        UserError: tells both, and how to go on.
    """
    here = _place(policy)
    begun = {key: str(arrays.get(key, value)) for key, value in here.items()}
    if begun != here:
        raise UserError(
            f"{path}: training was begun in {begun['policy']} on {begun['backend']}; here it would go on in "
            f"{here['policy']} on {here['backend']}. Resume it there, or train it anew: ./run.sh --from models --force"
        )


def _place(policy: str) -> dict[str, str]:
    return {"policy": policy, "backend": keras.backend.backend()}


def restore_checkpoint(
    arrays: dict[str, np.ndarray], path: Path, model: keras.Model, average: WeightAverage | None
) -> list[np.ndarray]:
    """Give network, optimiser and average what `save_checkpoint` wrote; the best epoch's weights.

    Args:
        arrays: from `load_arrays`; the history is read by `History.of`.
        path: for messages.
        model: compiled as it was when the checkpoint was written.
        average: of its weights, where they are averaged.
    """
    _assign(model.variables, _group("v", arrays), path)
    _assign(model.optimizer.variables, _group("o", arrays), path)
    if average:
        average.restore(_group("a", arrays), int(arrays["updates"]))
    return _group("b", arrays)


def _arrays(letter: str, variables: list) -> dict[str, np.ndarray]:
    return {f"{letter}{index:04d}": keras.ops.convert_to_numpy(each) for index, each in enumerate(variables)}


def _group(letter: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[key] for key in sorted(arrays) if key[0] == letter and key[1:].isdigit()]


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote; a damaged file is an error that names it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        raise UserError(f"{path}: damaged ({fault}); remove its folder and run ./run.sh to train it again") from fault


def _assign(variables: list, values: list[np.ndarray], path: Path) -> None:
    shapes = [tuple(each.shape) for each in variables]
    if shapes != [value.shape for value in values]:
        raise UserError(f"{path}: holds {len(values)} arrays of another network (expected {len(shapes)})")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
