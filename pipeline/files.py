"""Atomic writes and checksums: a file is either complete at its final path or absent."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import paths
from pipeline.errors import UserError
from pipeline.machine import cores, nearest_existing

#: Glob pattern of temporary files that a killed write leaves: `.<name>.<random><suffix>`; not `.name.suffix`.
TEMPORARY = ".*.*.*"
#: Number of files from which on they are hashed in parallel.
_MANY = 8


def _umask() -> int:
    """The umask of the user; it can only be read by setting it, so it is read before any thread starts."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_MODE = 0o666 & ~_umask()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success, fsync it and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(_MODE)  # mkstemp gives read permission to the owner only
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def require_writable(path: Path) -> None:
    """Check that a file or folder can be written later, before hours of work.

    Raises:
        UserError: its nearest existing folder is read-only, or its disk is full.
    """
    folder = nearest_existing(path.absolute().parent)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as fault:
        raise UserError(f"Cannot write {path}: {folder}: {fault.strerror}. Choose a file in another folder.") from fault


def require_space(path: Path, size: int) -> None:
    """Check that a file of `size` bytes fits on the disk, where a library reports a full disk as another error.

    Raises:
        OSError: it does not; the disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(size))
    except OSError as fault:
        raise OSError(fault.errno, os.strerror(fault.errno or 0), str(path)) from fault


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically.

    Raises:
        ValueError: `value` contains NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        UserError: the file is not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as fault:
        raise UserError(f"Invalid JSON: {path}: {fault}. Remove it and rerun the stage that wrote it.") from fault


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index: as CSV if the name ends with .csv, else as parquet."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet or CSV table that this project wrote.

    Raises:
        UserError: the file does not exist, or is no such table.
    """
    if not path.is_file():
        raise UserError(f"Table not found: {path}. Run the stage that writes it: ./run.sh")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, usecols=columns)
        return pd.read_parquet(path, columns=columns)
    except (ValueError, OSError) as fault:  # also of the parsers of pandas and pyarrow
        raise UserError(f"Unreadable table: {path} ({fault}). Remove it and rerun the stage that wrote it.") from fault


def changed_files(recorded: Mapping[Path, str]) -> list[str]:
    """Faults of the files that are missing, unreadable or have another sha256 than recorded, one line each."""
    if len(recorded) < _MANY:
        faults = list(map(_file_fault, recorded, recorded.values()))
    else:
        with ThreadPoolExecutor(cores()) as pool:  # hashing does not hold the interpreter's lock
            faults = list(pool.map(_file_fault, recorded, recorded.values()))
    return [fault for fault in faults if fault]


def _file_fault(path: Path, recorded: str) -> str:
    try:
        is_changed = sha256(path) != recorded
    except FileNotFoundError:
        return f"{paths.shown(path)}: missing"
    except OSError as fault:
        return f"{paths.shown(path)}: unreadable ({fault.strerror})"
    return f"{paths.shown(path)}: changed since it was written (sha256 differs)" if is_changed else ""


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
