"""Check that the raw files are still the ones that the pixel store was built from."""

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


def changed_sources(settings: Settings, *, workers: int = 0) -> list[tuple[Path, str]]:
    """Read every raw file of the stored exams in full and compare its sha256 with the one recorded at ingest.

    Args:
        settings: those of the store; `input.data` is the tree that it was built from.
        workers: processes; 0 means one per core.

    Returns:
        Path and reason of every file that is missing or has other bytes; empty when nothing changed.

    Raises:
        UserError: there is no finished store of these settings and this tree.
    """
    if reason := store_artifact(settings).stale_reason():
        raise UserError(
            f"The store cannot be checked: {paths.shown(paths.store())}. Expected a finished store of these settings, "
            f"got: {reason}. Build it with the same settings: ./run.sh --to features"
        )
    path_by_sop = load_slices().set_index(SOP)["path"]
    jobs = []
    for study in stored_studies(paths.store()):
        digests = read_json(sidecar_path(paths.store(), study))["source_sha256"]
        jobs.append(({settings.data_root / path_by_sop[sop]: digest for sop, digest in digests.items()},))
    faults_by_exam = run_jobs(changed_files, jobs, desc="sha256", workers=workers, reads=settings.data_root)
    return [fault for faults in faults_by_exam for fault in faults]


def changed_files(digests: dict[Path, str]) -> list[tuple[Path, str]]:
    """Return path and reason of every file that cannot be read or whose sha256 differs from the expected one."""
    faults = []
    for path, expected in digests.items():
        try:
            actual = sha256(path)
        except OSError as error:
            faults.append((path, str(error.strerror)))
            continue
        if actual != expected:
            faults.append((path, "its sha256 differs from the one recorded when it was stored"))
    return faults
