"""Artifact: a folder of files that is finished when its manifest.json exists.

Its identity is a hash of the settings that affect it, the identities of its inputs, and a version number that a
developer raises when the format or meaning of the files changes. Source hash, library versions, platform and wall time
are recorded in the manifest but never cause a rebuild by themselves.

    artifact = Artifact(paths.prepared(), "input/prepared", version=1, settings={...}, inputs={"raw": "..."})
    if artifact.is_current(force=False):
        return                       # printed in one line
    with artifact.building():        # removes files of another identity, keeps partial work of this one
        ...write files...
        artifact.finish(rows={"exams": 12}, metrics={})
"""

import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import TEMPORARY, read_json, sha256, write_json
from pipeline.stage_plan import BUILDING, MANIFEST

LIBRARIES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "lightgbm",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "openvino",
    "jax",
    "torch",
    "pydicom",
    "python-gdcm",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pyjpegls",
    "pillow",
    "opencv-python-headless",
    "pyarrow",
    "blosc2",
)


def identity_of(value: Any) -> str:
    """Hash any JSON value to 16 hex digits of sha256, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def source_hash(package: str) -> str:
    """Hash of a stage's Python source, recorded to detect that the source has changed."""
    digest = hashlib.sha256()
    for file in sorted((paths.CHECKOUT / package).rglob("*.py")):
        digest.update(file.relative_to(paths.CHECKOUT).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Artifact:
    """One artifact of a stage; the module's docstring shows its use.

    Args:
        directory: the folder of its files.
        name: `stage/name`, used in messages; its first part is the source package.
        version: raised by a developer when the format or the meaning of the files changes.
        settings: the settings that affect this artifact (JSON values).
        inputs: name -> identity of every input artifact.
        files: names of the artifact's files, if its directory also contains other files; then only these are hashed,
            and only these and the files in the last manifest are ever removed.
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
    ) -> None:
        self.directory = directory
        self.name = name
        self.files = files
        self.parts = {"version": version, "settings": json.loads(json.dumps(settings)), "inputs": inputs}
        self.identity = identity_of({"name": name, **self.parts})
        self._started = time.monotonic()

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest."""
        return self.directory / MANIFEST

    def stale_reason(self) -> str | None:
        """Reason to build the artifact, in a few words; None if it is finished and up to date."""
        if not self.manifest_path.is_file():
            return "not built yet"
        manifest = read_json(self.manifest_path)
        if manifest.get("identity") == self.identity:
            return None
        return _first_difference(manifest, self.parts)

    def is_current(self, *, force: bool) -> bool:
        """Whether the artifact can be reused; print the answer and its reason in one line."""
        reason = "forced" if force else self.stale_reason()
        if reason:
            say(f"{self.name}: building ({reason})")
            return False
        manifest = read_json(self.manifest_path)
        note = "" if manifest["source"] == self._source() else "; its source code has changed (--force rebuilds)"
        say(f"{self.name}: up to date{note}")
        return True

    @contextmanager
    def building(self, *, fresh: bool = False) -> Iterator[Path]:
        """Open the artifact for writing.

        Files of another identity are removed first. Partial work of this identity is kept, so that a killed run
        resumes, unless `fresh` is set (--force).
        """
        marker = self.directory / BUILDING
        resumable = marker.is_file() and read_json(marker).get("identity") == self.identity and not fresh
        if not resumable and self.directory.exists():
            self._empty()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_temporary_files()
        write_json(marker, {"identity": self.identity})
        self._started = time.monotonic()
        yield self.directory

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
        write_json(
            self.manifest_path,
            {
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
            },
        )
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
        return list(read_json(self.manifest_path).get("files", {})) if self.manifest_path.is_file() else []

    def _source(self) -> str:
        return source_hash(self.name.split("/")[0])


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a finished artifact.

    Raises:
        UserError: the artifact is not finished.
    """
    if not (directory / MANIFEST).is_file():
        raise UserError(f"No finished artifact: {paths.shown(directory)}. Build it: ./run.sh")
    return read_json(directory / MANIFEST)


def verify(
    directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None, next_step: str = ""
) -> None:
    """Compare files with the sha256 in the manifest, before any parser reads them.

    Args:
        directory: a finished artifact.
        names: the files about to be read; None: every file.
        recorded: the manifest's `files`, if they are already known.
        next_step: what the user can do about a fault; by default, rebuild the stage.

    Raises:
        UserError: lists every file that is missing, changed or not in the manifest.
    """
    faults = integrity_faults(directory, names, recorded=recorded)
    if faults:
        own = directory.is_relative_to(paths.root())
        options = f"--from {directory.relative_to(paths.root()).parts[0]} --force" if own else "--force"
        next_step = next_step or f"Rebuild it: ./run.sh {options}"
        raise UserError.listing("An artifact does not match its manifest:", faults, next_step)


def integrity_faults(
    directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None
) -> list[str]:
    """The faults that `verify` raises, as a list; the arguments are the same."""
    recorded = read_manifest(directory)["files"] if recorded is None else recorded
    faults = []
    for name in recorded if names is None else names:
        path = directory / name
        if name not in recorded:
            faults.append(f"{paths.shown(path)}: not listed in {MANIFEST}")
        elif not path.is_file():
            faults.append(f"{paths.shown(path)}: missing")
        elif sha256(path) != recorded[name]:
            faults.append(f"{paths.shown(path)}: changed since it was written (sha256 differs)")
    return faults


def _first_difference(manifest: dict[str, Any], parts: dict[str, Any]) -> str:
    """The first setting, input or version that differs from a manifest."""
    if manifest.get("version") != parts["version"]:
        return f"format version {manifest.get('version')} -> {parts['version']}"
    for part in ("settings", "inputs"):
        old, new = _flat(manifest.get(part, {})), _flat(parts[part])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                if part == "inputs":
                    return f"its input {key} changed"
                return f"setting {key}: {old.get(key)} -> {new.get(key)}"
    return "its identity changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat
