"""How artifacts record the setting models.weights: without paths, by content."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path


def recorded_weights(weights: str) -> str:
    """Return the setting models.weights as artifacts record it: a file by its name and sha256, never by its path.

    Another file at the same path therefore counts as other weights. A value that this function returned is returned
    unchanged: it identifies a packed run whose weights file was not packed.

    Args:
        weights: "imagenet", "none", the path of a weights file, or an earlier result of this function.
    """
    if weights in ("imagenet", "none") or re.fullmatch(r"[^/]+ sha256:[0-9a-f]{16}", weights):
        return weights
    file = Path(weights).expanduser()
    if not file.is_file():
        return f"{file.name} (not there)"
    status = file.stat()
    return f"{file.name} sha256:{_digest(file, status.st_mtime_ns, status.st_size)[:16]}"


@lru_cache
def _digest(file: Path, _mtime_ns: int, _size: int) -> str:
    """Hash a file once per state: the identity of every network needs it, and it can have hundreds of megabytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
