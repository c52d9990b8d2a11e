"""Activation maps of key slices: where the slice networks respond to PE, averaged over networks and folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from features.store import open_exam
from models.activation_maps import load_activation_maps, on_stored_slice
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.artifact import MANIFEST
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.jobs import cores
from pipeline.settings import Settings

#: One map pixel per so many stored pixels: the networks' cells are coarser, and the viewer smooths the maps.
STRIDE = 4
#: Exam name -> row of a plane in the store -> its map (y / STRIDE, x / STRIDE), float32 in [0, 1].
KeySliceMaps = dict[str, dict[int, np.ndarray]]


def key_slice_maps(
    settings: Settings, store: Path, planes: Mapping[str, Sequence[int]], folds: Mapping[str, Sequence[int]]
) -> KeySliceMaps:
    """Compute the activation maps of some planes.

    The positive part of what a location adds to the logit of the slice label is averaged over the networks and divided
    by the largest value among the exam's planes, so that the planes of an exam are comparable.

    Args:
        settings: the experiment that trained the networks.
        store: the pixel store with the exams.
        planes: exam name -> rows of its planes in the store.
        folds: exam name -> folds whose networks are used (for out-of-fold exams, only the fold that held them out).

    Returns:
        The maps of every exam with at least one plane and one network with maps.
    """
    sums: dict[str, np.ndarray] = {}
    for backbone in settings.models.backbones:
        views = SliceViews(store, settings.models.of(backbone))
        for fold in sorted({fold for exam_folds in folds.values() for fold in exam_folds}):
            names = [name for name, rows in planes.items() if len(rows) and fold in folds[name]]
            if not names or not (paths.model_run(backbone, fold) / MANIFEST).is_file():
                continue
            try:
                compute = load_activation_maps(settings, backbone, fold, threads=cores())
            except UserError as error:  # labels and findings are still useful without maps
                say(f"no activation maps from {backbone} fold {fold}: {error}")
                continue
            for name in names:
                cells = compute(np.stack([views.view(name, row) for row in planes[name]]))[:, 0]
                matrix, shape = views.matrix(name), open_exam(store, name).hu.shape[1:]
                maps = np.stack([on_stored_slice(np.maximum(map_, 0), compute.grid, matrix, shape) for map_ in cells])
                maps = maps[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
                sums[name] = sums.get(name, 0) + maps
    return {
        name: dict(zip(planes[name], total / max(float(total.max()), 1e-9), strict=True))
        for name, total in sums.items()
    }
