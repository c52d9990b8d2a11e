"""Batches in a fixed order, prepared by one thread ahead of the network.

One thread is enough (a view costs a tenth of a training step) and keeps the order; nothing is
drawn at random here.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetched(make: Callable[[int], Batch], count: int, ahead: int = 4) -> Iterator[Batch]:
    """Yield make(0) ... make(count - 1) in order, computed by a thread up to `ahead` batches early.

    An exception in `make` is raised here, at its batch. Leaving the loop early stops the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def work() -> None:
        for index in range(count):
            try:
                item = (make(index), None)
            except BaseException as fault:  # noqa: BLE001 - handed to the consumer, whatever it is
                item = (None, fault)
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or item[1] is not None:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in range(count):
            batch, fault = ready.get()
            if fault is not None:
                raise fault
            yield batch
    finally:
        stopped.set()
        thread.join()
