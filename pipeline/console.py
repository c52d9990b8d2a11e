"""Output of a run: one line per fact, and progress bars if someone watches the terminal.

tqdm is imported on use, so that commands which print only a few lines run before the set-up.
"""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print one line immediately, above any progress bar.

    Characters that the terminal's encoding lacks, such as those of a file name that is not valid text, are printed as
    escape sequences.
    """
    encoding = sys.stdout.encoding or "utf-8"
    printable = line.encode(encoding, "backslashreplace").decode(encoding)
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(printable, file=sys.stdout)
    else:
        print(printable)
    sys.stdout.flush()


def progress(items: Iterable[Item], *, desc: str, total: int | None = None, unit: str = "it") -> Iterable[Item]:
    """Wrap `items` in a progress bar on stderr, shown only if `progress_visible()`.

    Args:
        items: what to iterate over.
        desc: text before the bar.
        total: number of items, if `items` has no length.
        unit: name of one item.
    """
    from tqdm import tqdm

    return tqdm(items, desc=desc, total=total, unit=unit, disable=not progress_visible(), leave=False)


def progress_visible() -> bool:
    """Whether stderr is a terminal, or run.sh forwards it to one ($PE_PROGRESS)."""
    return sys.stderr.isatty() or bool(os.environ.get("PE_PROGRESS"))
