"""Artifact: a folder of files that is finished when its manifest.json exists.

Its identity is a hash of the settings that affect it, the identities of its inputs, and a version number that a
developer raises when the format or meaning of the files changes. Source hash, library versions, platform and wall time
are recorded in the manifest but never cause a rebuild by themselves.

A shared artifact lies in a folder named by its identity, so that artifacts of different settings lie side by side and
equal ones are built once. Every experiment that uses it has a link to it, through which its files are read.

    artifact = Artifact(paths.prepared(), "input/prepared", version=1, settings={...}, inputs={}, shared=True)
    if artifact.is_current(force=False):
        return                       # printed in one line
    with artifact.building():        # keeps partial work of the same identity
        ...write files...
        artifact.finish(rows={"exams": 12}, metrics={})
"""

import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import TEMPORARY, changed_files, read_json, sha256, write_json
from pipeline.identity import first_difference, identity_of
from pipeline.software import library_versions, source_hash
from pipeline.stage_plan import BUILDING, MANIFEST

#: Entry of a manifest: hash of all other entries.
CHECKSUM = "checksum"


class Artifact:
    """One artifact of a stage; the module's docstring shows its use.

    Args:
        directory: the folder of its files; of a shared artifact the experiment's link to that folder. A folder that is
            no link, as in a packed model, is used as it is.
        name: `stage/name`, used in messages; its first part is the source package.
        version: raised by a developer when the format or the meaning of the files changes.
        settings: the settings that affect this artifact (JSON values).
        inputs: name -> identity of every input artifact.
        files: names of the artifact's files, if its directory also contains other files; then only these are hashed,
            and only these and the files in the last manifest are ever removed.
        shared: it may be used by several experiments.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        version: int,
        settings: dict[str, Any],
        inputs: dict[str, str],
        files: tuple[str, ...] | None = None,
        shared: bool = False,
    ) -> None:
        self.name = name
        self.files = files
        self.parts = {"version": version, "settings": json.loads(json.dumps(settings)), "inputs": inputs}
        self.identity = identity_of({"name": name, **self.parts})
        self.link = directory if shared and (directory.is_symlink() or not directory.is_dir()) else None
        self.directory = paths.artifact(name, self.identity) if self.link else directory
        self._started = time.monotonic()

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest."""
        return self.directory / MANIFEST

    def stale_reason(self) -> str | None:
        """Reason not to use the artifact, in a few words; None if it is finished and up to date."""
        path = self.manifest_path
        if not path.is_file() and self.link:
            path = self.link / MANIFEST  # what the experiment used so far shows which setting changed
        if not path.is_file():
            return "not built yet"
        manifest = read_manifest(path.parent)
        if manifest.get("identity") != self.identity:
            return first_difference(manifest, self.parts)
        return None

    def build_reason(self) -> str | None:
        """Reason to build the artifact: it is stale, or some of its files are gone; None if there is none.

        A packed model has no more than the files that prediction reads, so only what is built is complete.
        """
        missing = self.missing_files()
        if stale := self.stale_reason():
            return stale
        if missing:
            return f"{missing[0]} is missing" + (f", and {len(missing) - 1} more files" if missing[1:] else "")
        return None

    def missing_files(self) -> list[str]:
        """Names of the manifest's files that do not exist; empty if the artifact is not finished."""
        return [name for name in self._recorded_files() if not (self.directory / name).is_file()]

    def is_current(self, *, force: bool) -> bool:
        """Whether the artifact can be reused; print the answer and its reason in one line, and link it if so."""
        reason = "forced" if force else self.build_reason()
        if reason:
            say(f"{self.name}: building ({reason})")
            return False
        self._connect()
        manifest = read_manifest(self.directory)
        note = "" if manifest["source"] == self._source() else "; its source code has changed (--force rebuilds)"
        say(f"{self.name}: up to date{note}")
        return True

    def connect_if_finished(self) -> bool:
        """Link the artifact into the experiment if it is finished; return whether it is.

        One whose files are gone is linked too: whatever reads it names the file, and a run builds it again.
        """
        if self.stale_reason():
            return False
        self._connect()
        return True

    @contextmanager
    def building(self, *, fresh: bool = False) -> Iterator[Path]:
        """Open the artifact for writing.

        Partial work of this identity is kept, so that a killed run resumes, unless `fresh` is set (--force). Files of
        another identity lie in another folder; only a folder that is not shared is emptied of them.
        """
        marker = self.directory / BUILDING
        is_own = self.link is not None or (marker.is_file() and read_json(marker).get("identity") == self.identity)
        if self.directory.exists() and (fresh or not is_own):
            self._empty()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.manifest_path.unlink(missing_ok=True)
        self._remove_temporary_files()
        write_json(marker, {"identity": self.identity})
        self._connect()
        self._started = time.monotonic()
        yield self.directory

    def _connect(self) -> None:
        """Let the experiment's link point to this artifact."""
        if self.link is None:
            return
        target = os.path.relpath(self.directory, self.link.parent)
        if self.link.is_symlink() and os.readlink(self.link) == target:
            return
        self.link.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.link.with_name(f".{self.link.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        os.replace(temporary, self.link)

    def discard(self) -> None:
        """Mark the artifact as not built because its input is rebuilt; its files are kept."""
        self.manifest_path.unlink(missing_ok=True)

    def finish(self, *, rows: dict[str, int], metrics: dict[str, Any] | None = None, **facts: Any) -> None:
        """Write the manifest: identity, sha256 of every file, versions, rows, metrics, wall time.

        Args:
            rows: name of a table -> number of its rows.
            metrics: JSON values.
            **facts: further top-level entries of the manifest.
        """
        self._remove_temporary_files()  # of workers that were killed during this build
        files = {file.relative_to(self.directory).as_posix(): sha256(file) for file in self._written()}
        manifest = {
            "name": self.name,
            "identity": self.identity,
            **self.parts,
            "source": self._source(),
            "libraries": library_versions(),
            "python": sys.version.split()[0],
            "machine": platform.platform(),
            "rows": rows,
            "metrics": metrics or {},
            "files": files,
            "wall_seconds": round(time.monotonic() - self._started, 1),
            **facts,
        }
        write_json(self.manifest_path, manifest | {CHECKSUM: identity_of(manifest)})
        (self.directory / BUILDING).unlink(missing_ok=True)

    def _written(self) -> list[Path]:
        """The artifact's present files, without the manifest."""
        if self.files is not None:
            return [self.directory / name for name in sorted(self.files) if (self.directory / name).is_file()]
        return [
            path
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path != self.manifest_path
        ]

    def _remove_temporary_files(self) -> None:
        """Remove the temporary files of killed writes."""
        for temporary in self.directory.glob(TEMPORARY):
            *_, suffix, _, end = temporary.name.split(".")
            if suffix != end:  # an editor's file, such as .report.py.swp
                continue
            temporary.unlink(missing_ok=True)  # a worker that outlived a killed run may rename its file meanwhile

    def _empty(self) -> None:
        """Remove the files of an earlier build."""
        names = [*self.files, *self._recorded_files()] if self.files is not None else []
        # Remove the manifest first: a kill in between must not leave an artifact that looks finished.
        self.manifest_path.unlink(missing_ok=True)
        if self.files is None:
            shutil.rmtree(self.directory)
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    def _recorded_files(self) -> list[str]:
        return list(read_manifest(self.directory).get("files", {})) if self.manifest_path.is_file() else []

    def _source(self) -> str:
        return source_hash(self.name.split("/")[0])


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a finished artifact.

    Raises:
        UserError: the artifact is not finished, or its manifest was changed.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(f"No finished artifact: {paths.shown(directory)}. Build it: ./run.sh")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        recorded = manifest.pop(CHECKSUM, None)  # manifests of earlier versions have none
    except (ValueError, AttributeError):
        recorded, manifest = "unreadable", {}
    if recorded is not None and recorded != identity_of(manifest):
        fault = f"{paths.shown(path)}: changed since it was written"
        raise UserError(f"Damaged manifest: {fault}. {repair_command([fault])}")
    return manifest


def verify(
    directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None, next_step: str = ""
) -> None:
    """Compare files with the sha256 in the manifest, before any parser reads them.

    Args:
        directory: a finished artifact.
        names: the files about to be read; None: every file.
        recorded: the manifest's `files`, if they are already known.
        next_step: what the user can do about a fault; by default, remove the damaged files and run again.

    Raises:
        UserError: lists every file that is missing, changed or not in the manifest.
    """
    faults = integrity_faults(directory, names, recorded=recorded)
    if faults:
        raise UserError.listing("An artifact does not match its manifest:", faults, next_step or repair_command(faults))


def repair_command(faults: list[str]) -> str:
    """The next step after faults of an artifact's files: a missing file, and what depends on it, is built again.

    Args:
        faults: as `integrity_faults` returns them.
    """
    damaged = [path for path, _, reason in (fault.partition(": ") for fault in faults) if reason != "missing"]
    remove = f"rm -f {' '.join(map(shlex.quote, damaged))} && " if damaged else ""
    return f"Rebuild it: {remove}./run.sh --name {shlex.quote(paths.experiment().name)}"


def integrity_faults(
    directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None
) -> list[str]:
    """The faults that `verify` raises, as a list; the arguments are the same."""
    recorded = read_manifest(directory)["files"] if recorded is None else recorded
    names = list(recorded) if names is None else names
    unlisted = [f"{paths.shown(directory / name)}: not listed in {MANIFEST}" for name in names if name not in recorded]
    return unlisted + changed_files({directory / name: recorded[name] for name in names if name in recorded})
