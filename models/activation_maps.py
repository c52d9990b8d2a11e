"""Which places of a slice speak for a target, as a map over the slice.

Square after square is covered, and the fall of the logit is told (models.occlusion): some sixty passes a slice,
and on drawn exams the maps lie on the clots (`python -m benchmarks.activation`, which also says what a cheaper kind
of map is worth). They run on the exported OpenVINO graph, without Keras or TensorFlow; a run without an exported
graph is read with Keras.

    maps = load_activation_maps(settings, "mobilenetv2", fold=0, targets=(LEFT, RIGHT))
    views = SliceViews(paths.store(), settings.models.of("mobilenetv2"))
    (left, right), = maps(views.view(study, plane)[None])
    overlay = on_stored_slice(left, maps.grid, views.matrix(study), exam.hu.shape[1:])

A map tells what the network used, not where a clot is.
"""

import cv2
import numpy as np

from input.contest import SLICE_LABEL
from models.feature_grid import FeatureGrid
from models.occlusion import OcclusionMaps, occlusion_maps
from models.slice_runs import slice_engine
from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import Settings


def load_activation_maps(
    settings: Settings, backbone: str, fold: int, *, targets: tuple[str, ...] = (SLICE_LABEL,), threads: int = 1
) -> OcclusionMaps:
    """The maps of one finished slice network.

    Args:
        settings: the experiment that trained it.
        backbone, fold: which network.
        targets: names out of `models.slice_targets.TARGETS`.
        threads: of the CPU.

    Returns:
        A callable, images (n, y, x, channels) float32 -> maps float32 (n, targets, y', x') in units of the logit,
        signed: above zero speaks for the target. Its `grid` says where the maps' cells lie on the input.

    Raises:
        UserError: an unknown target, or a network that is missing or damaged.
    """
    check_targets(targets)
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), threads)
    return occlusion_maps(lambda images: engine(images)[0], recipe, tuple(targets))


def check_targets(targets: tuple[str, ...]) -> None:
    """Make sure that the networks are asked these targets.

    Raises:
        UserError: names those that are unknown, and those that there are.
    """
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        raise UserError(f"activation maps: no target {', '.join(unknown)}; the networks have {', '.join(TARGETS)}")


def on_stored_slice(
    activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """A map on the pixels of its stored slice, for an overlay.

    Args:
        activation: (y', x') of one target.
        grid: `grid` of the maps.
        matrix: `SliceViews.matrix` of the exam.
        shape: (y, x) of the stored slice.

    Returns:
        float32 (y, x): worth of a cell, interpolated between the cells' centres, level beyond the outermost.
    """
    to_cells = cv2.invertAffineTransform(grid.cells_to_input()) @ np.vstack([matrix, [0, 0, 1]])
    return cv2.warpAffine(
        np.ascontiguousarray(activation, np.float32), to_cells, shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
