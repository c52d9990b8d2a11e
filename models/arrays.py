"""Named arrays on disk: saved atomically, loaded without pickle."""

import zipfile
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.files import atomic_path


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the file of `save_arrays`.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        raise UserError(
            f"damaged file: {path} ({fault}). Remove its folder and train the network again: ./run.sh --from models"
        ) from fault
