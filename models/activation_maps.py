"""Activation maps: which regions of a slice increase or decrease a target's logit.

The maps are made by occlusion (`models.occlusion`), in about sixty forward passes per slice. On synthetic exams they
lie on the clots (`./run.sh bench activation`, which also compares a cheaper kind of map). They run on the exported
OpenVINO graph, without Keras or TensorFlow; Keras is used only for a run without an exported graph.

    maps = load_activation_maps(settings, "mobilenetv2", fold=0, targets=(LEFT, RIGHT))
    views = SliceViews(paths.store(), settings.models.of("mobilenetv2"))
    (left, right), = maps(views.view(study, plane)[None])
    overlay = on_stored_slice(left, maps.grid, views.matrix(study), exam.hu.shape[1:])

A map shows what the network used, which need not be the position of a clot.
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
    """Load the activation maps of one finished slice network.

    Args:
        settings: The experiment that trained the network.
        backbone: Backbone of the network.
        fold: Held-out fold of the network.
        targets: Names from `models.slice_targets.TARGETS`.
        threads: CPU threads.

    Returns:
        A callable from images (n, y, x, channels) float32 to maps float32 (n, targets, y', x') in logit units;
        positive values increase the logit. Its `grid` has the positions of the maps' cells on the input.

    Raises:
        UserError: An unknown target, or a network that is missing or damaged.
    """
    check_targets(targets)
    recipe = settings.models.of(backbone)
    engine = slice_engine(recipe, backbone, paths.model_run(backbone, fold), threads)
    return occlusion_maps(lambda images: engine(images)[0], recipe, tuple(targets))


def check_targets(targets: tuple[str, ...]) -> None:
    """Check that the networks have these targets.

    Raises:
        UserError: Lists the unknown and the available targets.
    """
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        raise UserError(
            f"activation maps: unknown targets. Expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}."
        )


def on_stored_slice(
    activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Resample a map to the pixels of its stored slice, for an overlay.

    Args:
        activation: Map of one target, shape (y', x').
        grid: `grid` of the maps.
        matrix: `SliceViews.matrix` of the exam.
        shape: (y, x) of the stored slice.

    Returns:
        float32 (y, x): linear interpolation between the cells' centres, constant beyond the outermost.
    """
    to_cells = cv2.invertAffineTransform(grid.cells_to_input()) @ np.vstack([matrix, [0, 0, 1]])
    return cv2.warpAffine(
        np.ascontiguousarray(activation, np.float32), to_cells, shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
