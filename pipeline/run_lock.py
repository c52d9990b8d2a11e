"""Let one main job at a time run on an artifact root: `python -m pipeline.run_lock`; standard library only.

run.sh opens the lock file; this process locks it through the inherited descriptor. The lock belongs to the open file,
so it lasts until run.sh and every stage that it started have ended, also after kill -9.
"""

import sys

from pipeline import paths
from pipeline.file_lock import lock

#: File descriptor that run.sh opens.
DESCRIPTOR = 9


def main() -> None:
    """Lock the file; wait for an earlier run if necessary."""
    if not lock(DESCRIPTOR, paths.root(), wait=False):
        print(f"Another run is using {paths.root()}; waiting for it to end.", file=sys.stderr)
        lock(DESCRIPTOR, paths.root())


if __name__ == "__main__":
    main()
