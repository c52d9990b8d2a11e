"""The command `experiments --check`: compare every file of all artifacts and results with its manifest."""

from pathlib import Path

from pipeline import paths
from pipeline.artifact import MANIFEST, integrity_faults, repair_command
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.experiments import DamagedSettingsError, names, recorded_settings
from pipeline.shared_artifacts import all_artifacts, used_by


def check_artifacts() -> None:
    """Read all files and compare them with their manifests, also those that no command reads.

    Raises:
        UserError: lists every file that is missing or changed, with the command that builds it again.
    """
    faults = [fault for name in names() if (fault := _settings_fault(name))]
    users = {folder: name for name in reversed(names()) for folder in used_by(name)}
    folders = {folder: users.get(folder.resolve(), "") for folder in all_artifacts()}
    folders |= {folder: name for name in names() for folder in _results(name)}
    finished = {folder: name for folder, name in folders.items() if (folder / MANIFEST).is_file()}
    for folder, name in progress(finished.items(), desc="checking", total=len(finished), unit="artifact"):
        faults += _faults(folder, name)
    if faults:
        raise UserError("\n".join(["Damaged files:", *faults]))
    say(f"{paths.root()}: {len(names())} experiments, {len(finished)} artifacts and results: every file is unchanged")


def _results(name: str) -> list[Path]:
    """The folders of an experiment's results that have a manifest; its links to artifacts are not followed."""
    return [file.parent for file in sorted((paths.experiments() / name).rglob(MANIFEST))]


def _faults(folder: Path, name: str) -> list[str]:
    """Lines on the damaged files of one artifact, the last with the next step.

    Args:
        folder: of the artifact or of an experiment's results.
        name: an experiment that uses it; empty if there is none.
    """
    paths.select_experiment(name)
    try:
        faults = integrity_faults(folder)
    except UserError as fault:  # a damaged manifest
        return [f"  - {fault}"]
    next_step = repair_command(faults) if name else "No experiment uses it. Delete it: ./run.sh clean --yes"
    return [*(f"  - {fault}" for fault in faults), f"    {next_step}"] if faults else []


def _settings_fault(name: str) -> str:
    try:
        recorded_settings(name)
    except DamagedSettingsError as fault:
        return f"  - {fault}"
    except UserError:  # of another version
        pass
    return ""
