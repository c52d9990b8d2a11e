"""The clot map of an exam: where the slice networks of the mapping backbones see clot, averaged."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from features.store import StoredExam, is_stored, open_exam
from inference.lung_vessels import CENTRAL_MM, UNKNOWN, measure_lung_vessels, occluded_share
from models.clot_targets import FULL, MAP_STRIDE
from models.slice_views import SliceViews
from models.stored_maps import MeanMaps, learned_from_masks, mapping_backbone, mapping_backbones, read_maps
from pipeline import paths
from pipeline.settings import Settings

#: Cells with a lower probability do not count as volume: they are many, and each is nearly empty. Chosen on out-of-fold
#: maps of synthetic exams, where the median of expected over true volume is then 1.
VOLUME_THRESHOLD = 0.01


@dataclasses.dataclass(frozen=True)
class ClotMap:
    """Clot probabilities of one exam on a grid of cells.

    Attributes:
        probability: float32 (z, rows, columns), planes as in the store. A cell that is 1 / FULL full of clot has
            probability 1.
        to_stored: affine map (2, 3) from cells (x, y) to stored pixels (x, y).
        cell_mm: side of a cell, mm; NaN where lengths are unknown.
        thickness_mm: (z,) extent of every plane along z, mm.
        middle: column of the patient's midline, in cells.
        has_volumes: the networks learned from clot masks; without them a cell's probability is no share of its area.
        vessel_ml: volume of the contrast-filled vessels of the left and the right lung, ml; NaN where unknown.
    """

    probability: np.ndarray
    to_stored: np.ndarray
    cell_mm: float
    thickness_mm: np.ndarray
    middle: float
    has_volumes: bool = True
    vessel_ml: tuple[float, float] = UNKNOWN

    def volumes_ml(self) -> np.ndarray:
        """Expected clot volume of every cell, ml, (z, rows, columns); cells below VOLUME_THRESHOLD have none.

        NaN where lengths are unknown, and of networks without clot masks.
        """
        if not self.has_volumes:
            return np.full(self.probability.shape, np.nan)
        likely = np.where(self.probability >= VOLUME_THRESHOLD, self.probability, 0)
        return likely * (self.cell_mm**2 / FULL / 1000) * self.thickness_mm[:, None, None]

    def side_volumes_ml(self) -> tuple[float, float]:
        """Expected clot volume on the patient's left and right, ml; NaN as in `volumes_ml`."""
        volumes = self.volumes_ml()
        left = float(volumes[:, :, np.arange(volumes.shape[2]) > self.middle].sum())
        return left, float(volumes.sum()) - left

    def occluded_shares(self) -> tuple[float, float]:
        """Share of the arteries of the patient's left and right lung that clot occludes, 0-1.

        Central clot does not count. NaN as in `volumes_ml` and `inference.lung_vessels`.
        """
        of_column = self.volumes_ml().sum(axis=(0, 1))
        if not np.isfinite(of_column).all():
            return UNKNOWN
        offset_mm = (np.arange(len(of_column)) - self.middle) * self.cell_mm
        left, right = (float(of_column[side].sum()) for side in (offset_mm >= CENTRAL_MM, offset_mm <= -CENTRAL_MM))
        return occluded_share(left, self.vessel_ml[0]), occluded_share(right, self.vessel_ml[1])

    def stored_point(self, row: float, column: float) -> tuple[float, float]:
        """(y, x) in stored pixels of a position in cells."""
        x, y = self.to_stored @ np.array([column, row, 1.0])
        return float(y), float(x)

    def on_stored_plane(self, plane: int, shape: tuple[int, int]) -> np.ndarray:
        """The probabilities of one plane on its stored pixels: float32 (y, x), linear between the cells' centres."""
        return cv2.warpAffine(
            self.probability[plane], self.to_stored, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )  # fmt: skip


def clot_map(exam: StoredExam, planes: Sequence[np.ndarray], views: SliceViews, *, has_volumes: bool) -> ClotMap:
    """Place the maps of an exam's stored planes.

    Args:
        exam: the stored exam.
        planes: clot probabilities (rows, columns) of every stored plane.
        views: views of the backbone whose input the maps are on.
        has_volumes: as in `ClotMap`.
    """
    matrix = views.matrix(exam.study)
    # The centre of cell i is at pixel MAP_STRIDE * i + (MAP_STRIDE - 1) / 2 of the network's input.
    cells = np.array([[MAP_STRIDE, 0, (MAP_STRIDE - 1) / 2], [0, MAP_STRIDE, (MAP_STRIDE - 1) / 2]])
    to_stored = cv2.invertAffineTransform(matrix) @ np.vstack([cells, [0, 0, 1]])
    pixel_mm = exam.spacing_mm[1] if exam.has_spacing else np.nan
    middle = (exam.middle_column - to_stored[0, 2]) / to_stored[0, 0]
    thickness_mm = _thickness(exam.z_mm)
    return ClotMap(
        np.stack(planes), to_stored, float(abs(to_stored[0, 0]) * pixel_mm), thickness_mm, middle,
        has_volumes=has_volumes, vessel_ml=measure_lung_vessels(exam, thickness_mm) if has_volumes else UNKNOWN,
    )  # fmt: skip


def _thickness(z_mm: np.ndarray) -> np.ndarray:
    """Extent of every plane: half of the distance between its neighbours."""
    if len(z_mm) < 2 or not np.isfinite(z_mm).all():
        return np.full(len(z_mm), np.nan)
    edges = np.concatenate([[1.5 * z_mm[0] - z_mm[1] / 2], (z_mm[1:] + z_mm[:-1]) / 2, [1.5 * z_mm[-1] - z_mm[-2] / 2]])
    return np.diff(edges)


def predicted_clot_maps(
    settings: Settings, store: Path, maps: Mapping[str, np.ndarray], studies: Sequence[str]
) -> dict[str, ClotMap]:
    """The clot maps of freshly predicted exams.

    Args:
        settings: of the finished run.
        store: the exams' pixel store.
        maps: SOPInstanceUID -> probabilities, from `models.apply_networks.FinishedNetworks`.
        studies: the exams' names in the store.
    """
    views = SliceViews(store, settings.models.of(mapping_backbone(settings)))
    exams = [open_exam(store, study) for study in studies]
    has_volumes = learned_from_masks(settings)
    return {
        exam.study: clot_map(exam, [maps[sop] for sop in exam.sop_uids], views, has_volumes=has_volumes)
        for exam in exams
    }


def run_clot_maps(
    settings: Settings, studies: Sequence[str], folds: Mapping[str, Sequence[int]], *, role: str
) -> dict[str, ClotMap]:
    """The clot maps of exams of a finished run, read from the networks' stored maps.

    Args:
        settings: of the run.
        studies: StudyInstanceUIDs.
        folds: study -> folds whose networks predicted it.
        role: "test", or "oof" for training exams.

    Returns:
        study -> map, for the stored exams.

    Raises:
        UserError: a stored map differs from its manifest.
    """
    exams = {study: open_exam(paths.store(), study) for study in studies if is_stored(paths.store(), study)}
    means = {study: MeanMaps() for study in exams}
    if not exams:
        return {}
    for fold in sorted({fold for study in exams for fold in folds[study]}):
        chosen = [study for study in exams if fold in folds[study]]
        for backbone in mapping_backbones(settings):
            stored = read_maps(paths.model_run(backbone, fold), role, chosen)
            for study in chosen:
                means[study].add(np.stack([stored[sop] for sop in exams[study].sop_uids]))
    views = SliceViews(paths.store(), settings.models.of(mapping_backbone(settings)))
    has_volumes = learned_from_masks(settings)
    return {
        study: clot_map(exam, list(means[study].probability()), views, has_volumes=has_volumes)
        for study, exam in exams.items()
    }
