"""Locks on files that the system releases however a process ends; standard library only.

Some network file systems have no such locks (Lustre: ENOSYS), or none on files opened for reading (NFS 4: EBADF). Work
goes on there, with a warning.
"""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = {errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def lock(descriptor: int, place: Path, *, wait: bool = True) -> bool:
    """Lock an open file.

    Args:
        descriptor: of the file, open for writing.
        place: what the lock protects, for the warning where there are no locks.
        wait: whether to wait for another process that has the lock.

    Returns:
        False if another process has the lock and `wait` is False.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            raise
        print(f"No file locks at {place} ({fault.strerror}); do not start two runs at once.", file=sys.stderr)
    return True


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file, which is created with its folder.

    Yields:
        False if another process has the lock and `wait` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        yield lock(opened.fileno(), file.parent, wait=wait)
