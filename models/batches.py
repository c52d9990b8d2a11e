"""Batches in a fixed order, prepared by threads ahead of the network.

Decoding, interpolation and array arithmetic release the global interpreter lock, so threads are sufficient. The order
is that of the batch numbers, independent of the threads, and nothing is drawn at random here.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
MAX_LOADERS = 8


def loader_threads(threads: int) -> int:
    """Return the number of threads that prepare batches for a network with `threads` threads: half, at least one."""
    return max(1, min(threads // 2, MAX_LOADERS))


def prefetched(make: Callable[[int], Batch], count: int, ahead: int = 2, threads: int = 1) -> Iterator[Batch]:
    """Yield make(0) ... make(count - 1) in order, computed ahead by threads.

    Every thread can make one batch while another is in use, and `ahead` more may be ready. A longer queue would only
    fill memory: a batch of large views takes hundreds of megabytes. Leaving the loop early ends the threads.

    Args:
        make: Makes the batch of a number; called in a thread. Its exceptions are raised here, at their batch.
        count: Number of batches.
        ahead: Batches in the queue beyond one per thread.
        threads: Number of threads.

    Yields:
        The batches in order.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        queued = min(ahead + threads, count)
        futures = deque(pool.submit(make, index) for index in range(queued))
        for index in range(queued, queued + count):
            batch = futures.popleft().result()
            if index < count:
                futures.append(pool.submit(make, index))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
