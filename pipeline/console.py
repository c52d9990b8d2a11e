"""What a run shows: one line a fact, progress bars only where a person looks."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print one line at once, above any progress bar; what the terminal cannot show, such as a file's name that is
    no text, is shown as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


def progress(items: Iterable[Item], *, what: str, total: int | None = None, unit: str = "it") -> Iterable[Item]:
    """Wrap `items` in a progress bar on stderr; nothing is drawn where no terminal shows it (see `watched`)."""
    return tqdm(items, desc=what, total=total, unit=unit, disable=not watched(), leave=False)


def watched() -> bool:
    """Whether a person sees stderr: it is a terminal, or run.sh passes it on to one ($PE_PROGRESS)."""
    return sys.stderr.isatty() or bool(os.environ.get("PE_PROGRESS"))
