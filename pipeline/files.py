"""Atomic writes and checksums: a file is either whole at its final path or not there."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError

#: Glob pattern of what a killed write leaves: `.<name>.<random><suffix>`; one hidden name of two parts does not match.
TEMPORARY = ".*.*.*"


def _umask() -> int:
    """What the user denies to others; it can only be read by setting it, so it is read before there are threads."""
    denied = os.umask(0o077)
    os.umask(denied)
    return denied


_MODE = 0o666 & ~_umask()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(_MODE)  # mkstemp lets only its owner read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote; a broken one is named."""
    try:
        return json.loads(path.read_text())
    except ValueError as fault:
        raise UserError(f"{path}: not valid JSON ({fault}); remove it and rerun the stage that wrote it") from fault


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, or as CSV when the name ends so; atomically, without the index."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a parquet or CSV table that this project wrote."""
    if not path.is_file():
        raise UserError(f"{path}: missing; run the stage that writes it (./run.sh)")
    if path.suffix == ".csv":
        return pd.read_csv(path, usecols=columns)
    return pd.read_parquet(path, columns=columns)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
