"""The pixel store: one immutable file of HU an exam, lossless, a chunk a plane, with a sidecar.

`<Study>.b2nd` is a blosc2 array, int16 (z, y, x), z ascending (feet to head), +x the patient's
left, +y the back: HU inside the lung box at the store's in-plane spacing. `<Study>.json` is
written last: where it exists, the exam is whole.

Zstandard level 1 over bytes shuffled and then differenced: on real CT half of the raw size, and
a plane decodes in under 0.1 ms, so a network never waits for pixels (measured against LZ4,
bitshuffle and delta: these were larger by 2-25 % or slower to decode).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pandas as pd

from features.lung_box import Box
from pipeline import paths
from pipeline.artifact import MANIFEST, verify
from pipeline.errors import UserError
from pipeline.files import read_json, read_table, write_bytes, write_json

_FILTERS = [blosc2.Filter.SHUFFLE, blosc2.Filter.BYTEDELTA]
_FILTER_ARGUMENTS = [0, 2]  # BYTEDELTA is told the size of an int16


@dataclass(frozen=True)
class StoredExam:
    """One exam of the store, opened for reading; pixels are decoded when sliced.

    Attributes:
        study, series: UIDs.
        hu: blosc2 array int16 (z, y, x); `hu[i]` or `hu[i:j]` gives numpy.
        z_mm: (z,) ascending positions, mm.
        spacing_mm: (y, x) of the stored planes, mm; NaN (null in the file) where the source has lost it.
        sop_uids: SOPInstanceUID of every plane, in order.
        box: the lung box in pixels of the raw series.
        raw_spacing_mm: (y, x) of the raw series, mm, or NaN.
        sidecar: everything else that was recorded (sources with sha256, quarantine, flags).

    Open it in the process that reads it: the handle does not survive a fork.
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
        """The stored column between the patient's halves; larger columns are the patient's left."""
        centre = (self.box.x0 + self.box.x1) / 2
        offset = self.box.middle_x - centre
        if self.has_spacing:  # without spacing the raw pixels were stored
            offset = offset * self.raw_spacing_mm[1] / self.spacing_mm[1]
        return self.hu.shape[2] / 2 + offset

    @property
    def has_spacing(self) -> bool:
        """Whether lengths are known; without it no number in mm, cm2 or ml may be told."""
        return bool(np.isfinite(self.spacing_mm).all())


def array_path(directory: Path, study: str) -> Path:
    """The file with an exam's pixels."""
    return directory / f"{study}.b2nd"


def sidecar_path(directory: Path, study: str) -> Path:
    """The file with an exam's facts; its presence says that the exam is whole."""
    return directory / f"{study}.json"


def is_stored(directory: Path, study: str) -> bool:
    """Whether the exam was written completely."""
    return sidecar_path(directory, study).is_file() and array_path(directory, study).is_file()


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
        hu: int16 (z, y, x) inside the box, at `spacing_mm`, z ascending.
        facts: further JSON values for the sidecar (sources, quarantine, flags).

    Raises:
        ValueError: planes, positions and UIDs do not agree.
        UserError: the disk is full, or cannot be written.
    """
    if hu.dtype != np.int16 or hu.ndim != 3 or not len(hu) == len(z_mm) == len(sop_uids) > 0:
        raise ValueError(
            f"exam {study}: expected int16 (z, y, x) with a position and a UID a plane, received {hu.dtype} "
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
        "z_mm": [float(z) for z in z_mm], "spacing_mm": _as_json(spacing_mm),
        "raw_spacing_mm": _as_json(raw_spacing_mm), "box": box.as_dict(), **facts,
    }  # fmt: skip
    try:
        sidecar_path(directory, study).unlink(missing_ok=True)
        write_bytes(array_path(directory, study), packed.to_cframe())
        write_json(sidecar_path(directory, study), sidecar)
    except OSError as fault:  # the disk's, not the exam's: nothing that follows could be stored either
        raise UserError(
            f"{directory}: exam {study} cannot be written: {fault.strerror or fault}; make room there, or set PE_ROOT "
            "to another disk; the same command goes on"
        ) from fault


def open_exam(directory: Path, study: str) -> StoredExam:
    """Open a stored exam for reading.

    Raises:
        UserError: the exam is not in the store, or its two files disagree.
    """
    if not is_stored(directory, study):
        raise UserError(
            f"{paths.shown(directory)}: exam {study} is not in the store; ./run.sh --from features makes it "
            "(an exam without one readable slice is never stored)"
        )
    sidecar = read_json(sidecar_path(directory, study))
    hu = blosc2.open(str(array_path(directory, study)), mode="r", dparams=blosc2.DParams(nthreads=1))
    if list(hu.shape) != sidecar["shape"]:
        raise UserError(
            f"{paths.shown(array_path(directory, study))}: expected shape {sidecar['shape']} as its sidecar says, "
            f"found {list(hu.shape)}; rebuild it: ./run.sh --from features --force"
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


def _as_json(pair: tuple[float, float]) -> list[float | None]:
    return [float(each) if np.isfinite(each) else None for each in pair]


def _from_json(pair: list[float | None]) -> tuple[float, float]:
    return tuple(np.nan if each is None else each for each in pair)


def store_table(directory: Path, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
    """The table `slices` or `exams` of a store (see features.build_store); None where the store has no tables.

    The store of a run has a manifest, with which the table is compared before it is parsed. What `predict` stores for
    its own use has none.

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
    """UIDs of every whole exam in the store, sorted."""
    return sorted(path.stem for path in directory.glob("*.b2nd") if path.with_suffix(".json").is_file())
