"""Clot maps of a run on disk: one row per slice, keyed by UID, written batch by batch."""

from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from input.contest import SOP, STUDY
from models.slice_views import GRID_SETTINGS
from pipeline import paths
from pipeline.artifact import read_manifest, verify
from pipeline.settings import Settings

#: A clot probability p is stored as round(MAP_LEVELS * p).
MAP_LEVELS = 255
#: File of a run.
MAPS = "maps.parquet"
#: Backbones whose slice AUC is further below the best one's have no part in the findings.
WORSE_AUC = 0.01
_SHAPE = "map_shape"


class MapWriter:
    """Writes MAPS; memory holds one batch.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "MapWriter":
        return self

    def write(self, studies: pd.Series, sops: pd.Series, roles: np.ndarray, maps: np.ndarray) -> None:
        """Append a batch.

        Args:
            studies, sops: UIDs of the slices.
            roles: "oof" or "test" of each.
            maps: uint8 (slices, rows, columns), from `models.prediction_engine.predict_slices`.
        """
        shape = "x".join(str(size) for size in maps.shape[1:])
        columns = [list(studies), list(sops), list(roles), [plane.tobytes() for plane in maps]]
        schema = pa.schema(
            [(STUDY, pa.string()), (SOP, pa.string()), ("role", pa.string()), ("map", pa.binary())],
            metadata={_SHAPE: shape},
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


class MeanMaps:
    """Mean of the clot maps of several networks for the same slices."""

    def __init__(self) -> None:
        self._sum: np.ndarray | None = None
        self._count = 0

    def add(self, maps: np.ndarray) -> None:
        """Add the maps of one network, uint8 (slices, rows, columns)."""
        if self._sum is None:
            self._sum = np.zeros(maps.shape, np.float32)
        self._sum += maps
        self._count += 1

    def probability(self) -> np.ndarray:
        """float32 (slices, rows, columns); empty without networks."""
        if self._sum is None:
            return np.zeros((0, 0, 0), np.float32)
        return self._sum / (MAP_LEVELS * self._count)


def mapping_backbones(settings: Settings) -> tuple[str, ...]:
    """Return the backbones whose averaged clot maps show findings, the best first.

    These are the one with the highest mean out-of-fold slice AUC, and all that see the same part of an exam and are at
    most WORSE_AUC worse: averaged, their maps have fewer false findings. A much weaker backbone would blur them.

    Raises:
        UserError: A network is not finished.
    """
    backbones = settings.models.backbones
    if len(backbones) == 1:
        return tuple(backbones)

    def mean_auc(backbone: str) -> float:
        manifests = [read_manifest(paths.model_run(backbone, fold)) for fold in range(settings.input.folds)]
        return float(np.mean([manifest["metrics"]["oof_slice_auc"] for manifest in manifests]))

    def grid(backbone: str) -> tuple:
        return tuple(getattr(settings.models.of(backbone), name) for name in GRID_SETTINGS)

    aucs = {backbone: mean_auc(backbone) for backbone in backbones}
    best, *others = sorted(backbones, key=lambda backbone: -aucs[backbone])
    return best, *(other for other in others if aucs[other] >= aucs[best] - WORSE_AUC and grid(other) == grid(best))


def mapping_backbone(settings: Settings) -> str:
    """Return the best of `mapping_backbones`."""
    return mapping_backbones(settings)[0]


def learned_from_masks(settings: Settings) -> bool:
    """Return whether clot masks of training exams supervised the clot maps that show findings."""
    backbone = mapping_backbone(settings)
    manifests = [read_manifest(paths.model_run(backbone, fold)) for fold in range(settings.input.folds)]
    return any(manifest["rows"]["clot masks"] for manifest in manifests)


def read_maps(directory: Path, role: str, studies: list[str] | None = None) -> dict[str, np.ndarray]:
    """Read the clot maps of a finished run.

    Args:
        directory: Folder of the run.
        role: "oof" or "test".
        studies: StudyInstanceUIDs; None for all.

    Returns:
        SOPInstanceUID -> uint8 (rows, columns), in steps of 1 / MAP_LEVELS.

    Raises:
        UserError: The file differs from the manifest.
    """
    verify(directory, [MAPS])
    filters = [("role", "==", role)] + ([(STUDY, "in", studies)] if studies is not None else [])
    table = pq.read_table(directory / MAPS, filters=filters)
    metadata = table.schema.metadata or {}
    shape = tuple(int(size) for size in metadata[_SHAPE.encode()].decode().split("x"))
    maps = (np.frombuffer(plane, np.uint8).reshape(shape) for plane in table["map"].to_pylist())
    return dict(zip(table[SOP].to_pylist(), maps, strict=True))
