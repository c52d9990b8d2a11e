"""Peak resident memory of a process and its descendants, sampled from /proc (Linux)."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERVAL_S = 0.05


@contextmanager
def watch_memory(process: int | None = None) -> Iterator[list[int]]:
    """Sample the resident memory of a process and its descendants; yields a list with the peak in bytes.

    Args:
        process: its number; None: this process.
    """
    root, peak, stop = process or os.getpid(), [0], threading.Event()

    def sample() -> None:
        while not stop.wait(INTERVAL_S):
            peak[0] = max(peak[0], sum(map(_resident_bytes, _process_tree(root))))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    yield peak
    stop.set()
    sampler.join()


def _process_tree(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:
            continue
        for pid in pids:
            yield from _process_tree(int(pid))


def _resident_bytes(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # the process has ended
        return 0
