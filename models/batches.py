"""Batches in a fixed order, prepared by threads ahead of the network.

Decoding, interpolation and arithmetic on arrays leave Python's lock, so threads are enough; the order is that
of the batches' numbers whatever the threads do, and nothing is drawn at random here.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
MOST_LOADERS = 8


def loader_threads(threads: int) -> int:
    """Threads that prepare batches beside a network that may use `threads` cores: half of them, at least one."""
    return max(1, min(threads // 2, MOST_LOADERS))


def prefetched(make: Callable[[int], Batch], count: int, ahead: int = 2, threads: int = 1) -> Iterator[Batch]:
    """Yield make(0) ... make(count - 1) in order, computed early by threads: a batch a thread and `ahead` more.

    So every thread has one to make while a batch is used, and `ahead` may lie ready. More would only fill memory: a
    batch of large views takes hundreds of megabytes.

    An exception in `make` is raised here, at its batch. Leaving the loop early ends the threads.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        begun = min(ahead + threads, count)
        waiting = deque(pool.submit(make, index) for index in range(begun))
        for index in range(begun, begun + count):
            batch = waiting.popleft().result()
            if index < count:
                waiting.append(pool.submit(make, index))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
