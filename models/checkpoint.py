"""Network and optimiser as arrays: saved atomically, loaded without unpickling."""

import zipfile
from pathlib import Path

import keras
import numpy as np

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
    path: Path, model: keras.Model, optimizer: keras.Optimizer, epoch: int, losses: list[float]
) -> None:
    """Write everything that the next epoch depends on."""
    arrays = _arrays("v", model.variables) | _arrays("o", optimizer.variables)
    save_arrays(path, arrays | {"epoch": np.array(epoch), "losses": np.array(losses, np.float64)})


def load_checkpoint(path: Path, model: keras.Model, optimizer: keras.Optimizer) -> tuple[int, list[float]]:
    """Restore network and optimiser; the finished epochs and their losses."""
    arrays = load_arrays(path)
    _assign(model.variables, [arrays[key] for key in sorted(arrays) if key.startswith("v")], path)
    _assign(optimizer.variables, [arrays[key] for key in sorted(arrays) if key.startswith("o")], path)
    return int(arrays["epoch"]), arrays["losses"].tolist()


def _arrays(letter: str, variables: list) -> dict[str, np.ndarray]:
    return {f"{letter}{index:04d}": keras.ops.convert_to_numpy(each) for index, each in enumerate(variables)}


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
