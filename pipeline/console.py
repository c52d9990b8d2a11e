"""Output of a run: one line per fact, and progress bars on a terminal, elsewhere a line from time to time.

tqdm is imported on use, so that commands which print only a few lines run before the set-up.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
#: Where no progress bar is shown, a line of progress is printed after this time.
SECONDS_PER_LINE = 30.0
_is_muted: ContextVar[bool] = ContextVar("is_muted", default=False)


def say(line: str) -> None:
    """Print one line immediately, above any progress bar.

    Characters that the terminal's encoding lacks, such as those of a file name that is not valid text, are printed as
    escape sequences.
    """
    if _is_muted.get():
        return
    encoding = sys.stdout.encoding or "utf-8"
    printable = line.encode(encoding, "backslashreplace").decode(encoding)
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(printable, file=sys.stdout)
    else:
        print(printable)
    sys.stdout.flush()


@contextmanager
def muted() -> Iterator[None]:
    """Let `say` print nothing in this thread, such as the remarks of a fit that is repeated many times."""
    token = _is_muted.set(True)
    try:
        yield
    finally:
        _is_muted.reset(token)


@contextmanager
def reminders(line: Callable[[], str]) -> Iterator[None]:
    """Print a line every SECONDS_PER_LINE while a long step runs, unless a progress bar is shown.

    Args:
        line: returns the text; called in another thread.
    """
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(SECONDS_PER_LINE * 0.9):
            say(line())

    thread = threading.Thread(target=remind, daemon=True)
    if not progress_visible():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident:
            thread.join()


def progress(items: Iterable[Item], *, desc: str, total: int | None = None, unit: str = "it") -> Iterable[Item]:
    """Wrap `items` in a progress bar on stderr or, without `progress_visible()`, in a line every SECONDS_PER_LINE.

    Args:
        items: what to iterate over.
        desc: text before the bar.
        total: number of items, if `items` has no length.
        unit: name of one item.
    """
    if not progress_visible():
        return _with_lines(items, desc, total if total is not None else getattr(items, "__len__", int)())
    from tqdm import tqdm

    return tqdm(items, desc=desc, total=total, unit=unit, leave=False)


def _with_lines(items: Iterable[Item], desc: str, total: int) -> Iterator[Item]:
    """Print the progress between items; a total of 0 is unknown."""
    started = printed = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - printed > SECONDS_PER_LINE:
            printed = now
            say(f"{desc}: {number}{f' of {total}' if total else ''} in {now - started:.0f} s")
        yield item


def progress_visible() -> bool:
    """Whether stderr is a terminal, or run.sh forwards it to one ($PE_PROGRESS)."""
    return sys.stderr.isatty() or bool(os.environ.get("PE_PROGRESS"))
