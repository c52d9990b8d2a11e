"""Whether the raw files are still those that the pixel store was made from."""

from pathlib import Path

from features.build_store import store_artifact
from features.store import sidecar_path, stored_studies
from input.contest import SOP
from input.tables import load_slices
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import read_json, sha256
from pipeline.jobs import run_jobs
from pipeline.settings import Settings


def changed_sources(settings: Settings, *, workers: int = 0) -> list[str]:
    """Read every raw file of the stored exams in full and compare its sha256 with the one taken at ingest.

    Args:
        settings: those of the store; `input.data` is the tree that it was made from.
        workers: processes; 0 means one a core.

    Returns:
        A line a file that is missing or has other bytes; an empty list means that nothing changed.

    Raises:
        UserError: there is no finished store of these settings and this tree.
    """
    if reason := store_artifact(settings).stale_reason():
        raise UserError(
            f"{paths.shown(paths.store())}: {reason}; make it with the same settings: ./run.sh --to features"
        )
    path_of = load_slices().set_index(SOP)["path"]
    jobs = []
    for study in stored_studies(paths.store()):
        digests = read_json(sidecar_path(paths.store(), study))["source_sha256"]
        jobs.append(({settings.data_root / path_of[sop]: digest for sop, digest in digests.items()},))
    found = run_jobs(changed_files, jobs, what="sha256", workers=workers, reads=settings.data_root)
    return [line for lines in found for line in lines]


def changed_files(digests: dict[Path, str]) -> list[str]:
    """A line a file whose sha256 is not the expected one."""
    lines = []
    for path, expected in digests.items():
        try:
            found = sha256(path)
        except OSError as fault:
            lines.append(f"{path}: {fault.strerror}")
            continue
        if found != expected:
            lines.append(f"{path}: expected sha256 {expected[:12]}..., found {found[:12]}...")
    return lines
