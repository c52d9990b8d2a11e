"""A product: a folder of files that is finished when its manifest.json exists.

Its identity is a hash of the settings that affect it, the identities of its inputs and a version
number that a developer raises when the format or meaning changes. Source hash, library versions,
device and wall time are recorded beside the identity and never cause a rebuild by themselves.

    product = Artifact(paths.prepared(), "input/prepared", version=1, settings={...}, inputs={"raw": "..."})
    if product.is_current(force=False):
        return                       # said in one line
    with product.building():         # empties what another identity left, keeps partial work of this one
        ...write files...
        product.finish(rows={"exams": 12}, metrics={})
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

MANIFEST = "manifest.json"
BUILDING = ".building.json"
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
    """A short, stable hash of any JSON value (16 hex digits of sha256)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on, as installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_hash(package: str) -> str:
    """Hash of a stage's Python source, recorded so that a changed source can be told."""
    digest = hashlib.sha256()
    for file in sorted((paths.CHECKOUT / package).rglob("*.py")):
        digest.update(file.relative_to(paths.CHECKOUT).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Artifact:
    """One product of a stage; see the module's docstring for its life.

    Args:
        directory: where its files lie.
        name: `stage/what`, as the console shows it; its first part names the source package.
        version: raised by a developer when the format or the meaning of the files changes.
        settings: the settings that affect this product (JSON values).
        inputs: name -> identity of every input product.
        files: names of the product's files where its directory holds other things too (submissions/ is a package
            as well); only they are hashed, and only they and what the last manifest lists are ever removed.
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
        """Where the manifest is, or will be."""
        return self.directory / MANIFEST

    def stale_reason(self) -> str | None:
        """Why the product has to be built, in a few words; None when it is finished and current."""
        if not self.manifest_path.is_file():
            return "not built yet"
        manifest = read_json(self.manifest_path)
        if manifest.get("identity") == self.identity:
            return None
        return _first_difference(manifest, self.parts)

    def is_current(self, *, force: bool) -> bool:
        """Whether the work can be skipped; says so, or says why not, in one line."""
        reason = "forced" if force else self.stale_reason()
        if reason:
            say(f"{self.name}: building ({reason})")
            return False
        manifest = read_json(self.manifest_path)
        note = "" if manifest["source"] == self._source() else "; its source has changed since (--force rebuilds)"
        say(f"{self.name}: up to date{note}")
        return True

    @contextmanager
    def building(self, *, fresh: bool = False) -> Iterator[Path]:
        """Open the product for writing.

        Files of another identity are removed first; partial work of this identity stays, so a
        killed run resumes. `fresh` removes that too (--force).
        """
        marker = self.directory / BUILDING
        resumable = marker.is_file() and read_json(marker).get("identity") == self.identity and not fresh
        if not resumable and self.directory.exists():
            self._empty()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._sweep()
        write_json(marker, {"identity": self.identity})
        self._started = time.monotonic()
        yield self.directory

    def discard(self) -> None:
        """Let the product count as not built, because what it was built from is built anew; its files stay."""
        self.manifest_path.unlink(missing_ok=True)

    def finish(self, *, rows: dict[str, int], metrics: dict[str, Any] | None = None, **facts: Any) -> None:
        """Write the manifest: identity, sha256 of every file, versions, rows, metrics, wall time."""
        self._sweep()  # what a worker that was killed in this very run has left
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
        """The product's files as they lie there now, without the manifest."""
        if self.files is not None:
            return [self.directory / name for name in sorted(self.files) if (self.directory / name).is_file()]
        found = sorted(self.directory.rglob("*"))
        return [
            each for each in found if each.is_file() and not each.name.startswith(".") and each != self.manifest_path
        ]

    def _sweep(self) -> None:
        """Remove what killed writes left."""
        for leftover in self.directory.glob(TEMPORARY):
            *_, suffix, _, end = leftover.name.split(".")
            if suffix != end:  # an editor's own, such as .report.py.swp
                continue
            leftover.unlink(missing_ok=True)  # a worker that outlived a killed run may move its own away

    def _empty(self) -> None:
        """Remove what an earlier build left."""
        left = [*self.files, *self._recorded_files()] if self.files is not None else []
        # The manifest goes first: a kill in the middle must not leave a product that looks finished.
        self.manifest_path.unlink(missing_ok=True)
        if self.files is None:
            shutil.rmtree(self.directory)
        for name in left:
            (self.directory / name).unlink(missing_ok=True)

    def _recorded_files(self) -> list[str]:
        return list(read_json(self.manifest_path).get("files", {})) if self.manifest_path.is_file() else []

    def _source(self) -> str:
        return source_hash(self.name.split("/")[0])


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a finished product; an unfinished one is an error that names the next command."""
    if not (directory / MANIFEST).is_file():
        raise UserError(f"{paths.shown(directory)}: no finished product here; run ./run.sh")
    return read_json(directory / MANIFEST)


def verify(
    directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None, mend: str = ""
) -> None:
    """Compare files with the manifest's sha256 before any parser sees them.

    Args:
        directory: a finished product.
        names: the files about to be read; every file when None.
        recorded: the manifest's `files`, where they are at hand already.
        mend: what to do about a fault, where no stage of run.sh makes this product.

    Raises:
        UserError: every file that is missing, not listed or changed.
    """
    faults = damage(directory, names, recorded=recorded)
    if faults:
        stage = directory.relative_to(paths.root()).parts[0] if directory.is_relative_to(paths.root()) else "its stage"
        mend = mend or f"Rebuild it: ./run.sh --from {stage} --force"
        raise UserError.listing("A product does not match its manifest:", faults, mend)


def damage(directory: Path, names: list[str] | None = None, *, recorded: dict[str, str] | None = None) -> list[str]:
    """The faults that `verify` raises, for whoever tells them together with others; its arguments."""
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
    """Which setting, input or version made the identity differ."""
    if manifest.get("version") != parts["version"]:
        return f"format version {manifest.get('version')} -> {parts['version']}"
    for kind in ("settings", "inputs"):
        old, new = _flat(manifest.get(kind, {})), _flat(parts[kind])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                if kind == "inputs":
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
