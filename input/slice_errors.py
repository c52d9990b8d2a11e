"""Errors of one slice file, DICOM or JPEG, and short lists of the errors of many files."""

import re
from collections.abc import Iterable
from pathlib import Path

#: Parts of a reason that differ between files with the same fault: numbers and paths.
_DETAILS = re.compile(r"(?<![\w.])/\S+|\d[\d.,]*")


class DicomError(Exception):
    """A slice file that cannot be used; `reason` is one line for the quarantine list."""

    @property
    def reason(self) -> str:
        """The message."""
        return str(self)


class IncompleteHeaderError(DicomError):
    """The given bytes end before the header does, or cannot be parsed; reading more of the file may help."""


def describe_faults(faults: Iterable[tuple[Path, str]], unit: str = "files") -> list[str]:
    """Describe faults in as few lines as possible: one line per kind of fault, with a count and an example.

    Args:
        faults: path and reason.
        unit: what the paths are.

    Returns:
        `path: reason` for a fault of one file, else `N <unit>: reason, e.g. path`; most frequent first.
    """
    kinds: dict[str, list[tuple[Path, str]]] = {}
    for path, reason in faults:
        kinds.setdefault(_DETAILS.sub("#", reason), []).append((path, reason))
    by_count = sorted(kinds.values(), key=len, reverse=True)
    return [
        f"{path}: {reason}" if len(members) == 1 else f"{len(members)} {unit}: {reason}, e.g. {path}"
        for members in by_count
        for path, reason in members[:1]
    ]
