"""Let one main job at a time run on an artifact root: `python -m pipeline.run_lock`; standard library only.

run.sh opens the lock file; this process locks it through the inherited descriptor. The lock belongs to the open file,
so it lasts until run.sh and every stage that it started have ended, also after kill -9.
"""

import fcntl
import sys

from pipeline import paths

#: File descriptor that run.sh opens.
DESCRIPTOR = 9


def main() -> None:
    """Lock the file; wait for an earlier run if necessary."""
    try:
        fcntl.flock(DESCRIPTOR, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another run is using {paths.root()}; waiting for it to end.", file=sys.stderr)
        fcntl.flock(DESCRIPTOR, fcntl.LOCK_EX)
    except OSError as fault:  # e.g. a network file system without locks
        print(f"No file locks at {paths.root()} ({fault}); do not start two runs at once.", file=sys.stderr)


if __name__ == "__main__":
    main()
