"""The pixel store: one immutable, lossless HU file per exam, one chunk per plane, with a JSON sidecar.

`<Study>.b2nd` is a blosc2 array, int16 (z, y, x), z ascending (feet to head), +x to the patient's left, +y to the
back: HU inside the lung box at the store's in-plane spacing. `<Study>.json` is written last: where it exists, the
exam is complete.

Compression is Zstandard level 1 over byte-shuffled and then differenced bytes: on real CT half of the raw size, and a
plane decodes in under 0.1 ms, so a network never waits for pixels (measured against LZ4, bitshuffle and delta, which
were larger by 2-25 % or slower to decode).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pandas as pd

from features.lung_box import Box
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.errors import UserError
from pipeline.files import read_json, read_table, write_bytes, write_json

_FILTERS = [blosc2.Filter.SHUFFLE, blosc2.Filter.BYTEDELTA]
_FILTER_ARGUMENTS = [0, 2]  # BYTEDELTA takes the item size: 2 bytes of an int16
#: Path, time of change and size of the files that this process has compared with the manifest of their store.
_VERIFIED: set[tuple[Path, int, int]] = set()


@dataclass(frozen=True)
class StoredExam:
    """One exam of the store, opened for reading; pixels are decoded when sliced.

    Open it in the process that reads it: the handle does not survive a fork.

    Attributes:
        study, series: UIDs.
        hu: blosc2 array int16 (z, y, x); `hu[i]` or `hu[i:j]` gives numpy.
        z_mm: (z,) ascending positions, mm.
        spacing_mm: (y, x) of the stored planes, mm; NaN (null in the file) where the source has no spacing.
        sop_uids: SOPInstanceUID of every plane, in order.
        box: the lung box in pixels of the raw series.
        raw_spacing_mm: (y, x) of the raw series, mm, or NaN.
        sidecar: all recorded facts (sources with sha256, quarantine, flags).
    """

    study: str
    series: str
    hu: Any
    z_mm: np.ndarray
    spacing_mm: tuple[float, float]
    sop_uids: tuple[str, ...]
    box: Box
    raw_spacing_mm: tuple[float, float]
    sidecar: dict[str, Any]

    def __len__(self) -> int:
        return len(self.sop_uids)

    @property
    def middle_column(self) -> float:
        """The stored column of the patient's midline; larger columns are the patient's left."""
        centre = (self.box.x0 + self.box.x1) / 2
        offset = self.box.middle_x - centre
        if self.has_spacing:  # without spacing the raw pixels were stored
            offset = offset * self.raw_spacing_mm[1] / self.spacing_mm[1]
        return self.hu.shape[2] / 2 + offset

    @property
    def has_spacing(self) -> bool:
        """Whether the spacing is known; without it no number in mm, cm2 or ml may be reported."""
        return bool(np.isfinite(self.spacing_mm).all())


def array_path(directory: Path, study: str) -> Path:
    """The file with an exam's pixels."""
    return directory / f"{study}.b2nd"


def sidecar_path(directory: Path, study: str) -> Path:
    """The file with an exam's facts; its presence means that the exam is complete."""
    return directory / f"{study}.json"


def is_stored(directory: Path, study: str) -> bool:
    """Whether the exam was written completely.

    Raises:
        UserError: the exam belongs to a finished store, but its files are gone.
    """
    if sidecar_path(directory, study).is_file() and array_path(directory, study).is_file():
        return True
    recorded = read_manifest(directory).get("files", ()) if (directory / MANIFEST).is_file() else ()
    if array_path(directory, study).name in recorded:
        _raise_missing(directory, [study])
    return False


def write_exam(
    directory: Path,
    study: str,
    series: str,
    hu: np.ndarray,
    *,
    z_mm: np.ndarray,
    spacing_mm: tuple[float, float],
    raw_spacing_mm: tuple[float, float],
    sop_uids: tuple[str, ...],
    box: Box,
    **facts: Any,
) -> None:
    """Write one exam atomically, the sidecar last.

    Args:
        directory: the store.
        study: StudyInstanceUID, which names the files.
        series: SeriesInstanceUID.
        hu: int16 (z, y, x) inside the box, at `spacing_mm`, z ascending.
        z_mm: (z,) positions, mm.
        spacing_mm: (y, x) of `hu`, mm, or NaN.
        raw_spacing_mm: (y, x) of the raw series, mm, or NaN.
        sop_uids: SOPInstanceUID of every plane.
        box: the lung box in pixels of the raw series.
        facts: further JSON values for the sidecar (sources, quarantine, flags).

    Raises:
        ValueError: planes, positions and UIDs do not agree.
        UserError: the disk is full or not writable.
    """
    if hu.dtype != np.int16 or hu.ndim != 3 or not len(hu) == len(z_mm) == len(sop_uids) > 0:
        raise ValueError(
            f"exam {study}: expected int16 (z, y, x) with one position and one UID per plane, got {hu.dtype} "
            f"{hu.shape}, {len(z_mm)} positions, {len(sop_uids)} UIDs"
        )
    plane = (1, *hu.shape[1:])
    # Packed in memory and written at once: appending chunks to a file took some 25 times as long as compressing.
    packed = blosc2.asarray(
        np.ascontiguousarray(hu), chunks=plane, blocks=plane, contiguous=True,
        cparams=blosc2.CParams(
            codec=blosc2.Codec.ZSTD, clevel=1, filters=_FILTERS, filters_meta=_FILTER_ARGUMENTS, nthreads=1
        ),
    )  # fmt: skip
    sidecar = {
        "study": study, "series": series, "shape": list(hu.shape), "sop_uids": list(sop_uids),
        "z_mm": [float(z) for z in z_mm], "spacing_mm": _to_json(spacing_mm),
        "raw_spacing_mm": _to_json(raw_spacing_mm), "box": box.as_dict(), **facts,
    }  # fmt: skip
    try:
        sidecar_path(directory, study).unlink(missing_ok=True)
        write_bytes(array_path(directory, study), packed.to_cframe())
        write_json(sidecar_path(directory, study), sidecar)
    except OSError as error:  # a fault of the disk, not of the exam: later exams could not be stored either
        raise UserError(
            f"Exam {study} cannot be written: {directory}: {error.strerror or error}. Free disk space there, or set "
            "PE_ROOT (for predictions: TMPDIR) to another disk. Rerun the same command to resume."
        ) from error


def read_sidecar(directory: Path, study: str) -> dict[str, Any]:
    """Read the facts of a stored exam, without its pixels.

    Raises:
        UserError: the exam is not in the store, or its sidecar differs from the manifest of a finished store.
    """
    if not is_stored(directory, study):
        raise UserError(
            f"Exam {study} is not in the store: {paths.shown(directory)}. Expected {study}.b2nd and {study}.json (an "
            "exam without a readable slice is never stored). Build the store: ./run.sh --from features"
        )
    verify_once(directory, [sidecar_path(directory, study)])
    sidecar: dict[str, Any] = read_json(sidecar_path(directory, study))
    return sidecar


def verify_once(directory: Path, files: Iterable[Path]) -> None:
    """Compare files with the manifest of a finished store, once per process unless a file changes.

    Exams are opened again and again during training, and hashing one takes longer than opening it.
    """
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return
    states = {(file, *_state(file)): file.name for file in files}
    if unseen := {state: name for state, name in states.items() if state not in _VERIFIED}:
        verify(directory, list(unseen.values()), recorded=_recorded_files(directory, *_state(manifest)))
        _VERIFIED.update(unseen)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _recorded_files(directory: Path, _mtime_ns: int, _size: int) -> dict[str, str]:
    """Name -> sha256 of a store's files; at contest size, reading the manifest takes longer than opening an exam."""
    files: dict[str, str] = read_manifest(directory)["files"]
    return files


def open_exam(directory: Path, study: str) -> StoredExam:
    """Open a stored exam for reading.

    Raises:
        UserError: the exam is not in the store, its two files disagree, or one differs from the manifest of a finished
            store.
    """
    sidecar = read_sidecar(directory, study)
    path = array_path(directory, study)
    verify_once(directory, [path])
    try:
        hu = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
    except (RuntimeError, ValueError, OSError) as fault:  # in a store that is not finished
        raise UserError(
            f"Unreadable array: {paths.shown(path)} ({fault}). Remove it: rm {paths.shown(path)}"
        ) from fault
    if list(hu.shape) != sidecar["shape"]:
        raise UserError(
            f"Array and sidecar disagree: {paths.shown(path)}. Expected shape "
            f"{sidecar['shape']} as in the sidecar, got {list(hu.shape)}. Rebuild the store: "
            "./run.sh --from features --force"
        )
    return StoredExam(
        study=study,
        series=sidecar["series"],
        hu=hu,
        z_mm=np.asarray(sidecar["z_mm"]),
        spacing_mm=_from_json(sidecar["spacing_mm"]),
        sop_uids=tuple(sidecar["sop_uids"]),
        box=Box(**sidecar["box"]),
        raw_spacing_mm=_from_json(sidecar["raw_spacing_mm"]),
        sidecar=sidecar,
    )


def _to_json(spacing_mm: tuple[float, float]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in spacing_mm]


def _from_json(spacing_mm: list[float | None]) -> tuple[float, float]:
    y, x = (np.nan if value is None else value for value in spacing_mm)
    return y, x


def store_table(directory: Path, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
    """Read a table of a store (see features.build_store); None where the store has no tables.

    The store of a run has a manifest, against which the table is verified before it is parsed. The temporary store of
    `./run.sh predict` has none.

    Args:
        directory: the store.
        name: `slices` or `exams`.
        columns: the columns to read; None: all.

    Raises:
        UserError: the table does not match the manifest.
    """
    path = directory / f"{name}.parquet"
    if (directory / MANIFEST).is_file():
        verify(directory, [path.name])
    elif not path.is_file():
        return None
    return read_table(path, columns)


def stored_studies(directory: Path) -> list[str]:
    """UIDs of all complete exams in the store, sorted.

    Raises:
        UserError: files of a finished store are gone; without this check their exams would be left out in silence.
    """
    studies = {path.stem for path in directory.glob("*.b2nd") if path.with_suffix(".json").is_file()}
    if (directory / MANIFEST).is_file():
        files = read_manifest(directory).get("files", ())
        recorded = {name.removesuffix(".b2nd") for name in files if name.endswith(".b2nd")}
        if recorded - studies:
            _raise_missing(directory, sorted(recorded - studies))
    return sorted(studies)


def _raise_missing(directory: Path, studies: list[str]) -> None:
    """Raise the error of exams whose files are gone."""
    verify(directory, [path(directory, study).name for study in studies for path in (array_path, sidecar_path)])
