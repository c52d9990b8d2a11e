"""Activation maps of the key slices: where the slice networks found what they call PE, averaged over the networks."""

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

#: Side of the maps: a network's cells are coarser than this, and the page smooths them.
COARSE = 4
#: Exam's name -> row of a plane in the store -> its map (y / COARSE, x / COARSE), float32 in [0, 1].
Maps = dict[str, dict[int, np.ndarray]]


def activation_maps(
    settings: Settings, store: Path, planes: Mapping[str, Sequence[int]], folds: Mapping[str, Sequence[int]]
) -> Maps:
    """Maps of some planes of some exams.

    What a place adds to the slice label's logit, its positive part, is averaged over the networks and divided by the
    largest value among the exam's planes, so that its planes compare.

    Args:
        settings: the experiment that trained the networks.
        store: the pixel store with the exams.
        planes: name of an exam -> rows of its planes.
        folds: name of an exam -> the folds whose networks are asked (out of fold: its own only).
    """
    sums: dict[str, np.ndarray] = {}
    for backbone in settings.models.backbones:
        views = SliceViews(store, settings.models.of(backbone))
        for fold in sorted({fold for some in folds.values() for fold in some}):
            chosen = [name for name, rows in planes.items() if len(rows) and fold in folds[name]]
            if not chosen or not (paths.model_run(backbone, fold) / MANIFEST).is_file():
                continue
            try:
                maps = load_activation_maps(settings, backbone, fold, threads=cores())
            except UserError as fault:  # labels and report without maps are worth more than none
                say(f"no activation maps of {backbone} fold {fold}: {fault}")
                continue
            for name in chosen:
                found = maps(np.stack([views.view(name, row) for row in planes[name]]))[:, 0]
                matrix, shape = views.matrix(name), open_exam(store, name).hu.shape[1:]
                laid = np.stack([on_stored_slice(np.maximum(each, 0), maps.grid, matrix, shape) for each in found])
                laid = laid[:, COARSE // 2 :: COARSE, COARSE // 2 :: COARSE]
                sums[name] = sums.get(name, 0) + laid
    return {
        name: dict(zip(planes[name], total / max(float(total.max()), 1e-9), strict=True))
        for name, total in sums.items()
    }
