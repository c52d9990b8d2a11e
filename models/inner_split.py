"""Exams set aside inside the training part, to choose the epoch; the held-out fold is never asked.

Stopping where the scored fold looks best makes its score too good. The inner exams belong to the training
part, are not trained on, and are looked at without augmentation, always the same slices.
"""

import keras
import numpy as np
import pandas as pd

from input.contest import SLICE_LABEL, STUDY
from models.batches import prefetched
from models.sampling import draw_epoch
from models.slice_targets import drawn_targets
from models.slice_views import SliceViews
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings


def split_inner(slices: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set exams aside, the same share of those with and of those without PE, at least one of each.

    Args:
        slices: a row a slice of the training part, with study and slice label.
        share: of the exams; 0 sets none aside.
        seed: of the choice, which depends on the set of exams and not on the rows' order.

    Returns:
        The slices to train on and the inner ones, each with a fresh index.

    Raises:
        UserError: a share above 0 that leaves one of the two parts without exams.
    """
    random = np.random.default_rng([seed, 1])
    with_pe = (slices[SLICE_LABEL] > 0).groupby(slices[STUDY]).any().sort_index()
    chosen: set[str] = set()
    for kind in (True, False):
        exams = with_pe.index[with_pe == kind].to_numpy()
        count = max(1, round(share * len(exams))) if share and len(exams) > 1 else 0
        chosen |= set(random.permutation(exams)[:count])
    inner = slices[STUDY].isin(chosen)
    if share and (inner.all() or not inner.any()):
        raise UserError(
            f"models.inner_share {share}: of {len(with_pe)} training exams it sets {len(chosen)} aside; "
            "expected some, and some left to train on"
        )
    return slices[~inner].reset_index(drop=True), slices[inner].reset_index(drop=True)


class InnerExams:
    """Measures the loss on the inner exams; the slices are drawn once, in the training's shares.

    Args:
        slices: from `split_inner`.
        views: of the store.
        settings: recipe; a fifth of an epoch's slices is looked at.
        loaders: threads that prepare batches.
    """

    def __init__(self, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, loaders: int = 1) -> None:
        targets, draws = drawn_targets(slices, settings)
        count = max(settings.batch, settings.epoch_slices // 5)
        drawn = draw_epoch(draws, count, seed=settings.seed, epoch=settings.epochs)
        rows, self._times = np.unique(drawn, return_counts=True)
        self._targets = targets[rows].astype(np.float64)
        self._places = list(zip(slices[STUDY].to_numpy()[rows], slices["plane"].to_numpy()[rows], strict=True))
        self._views, self._batch, self._loaders = views, settings.batch, loaders

    def loss(self, model: keras.Model) -> float:
        """Mean loss of the network as it is, defined as in training."""

        def make(number: int) -> np.ndarray:
            places = self._places[number * self._batch : (number + 1) * self._batch]
            return np.stack([self._views.view(study, int(plane)) for study, plane in places])

        batches = prefetched(make, -(-len(self._places) // self._batch), threads=self._loaders)
        logits = np.concatenate([np.asarray(model.predict_on_batch(images)["logits"]) for images in batches])
        truth, weight = np.split(self._targets, 2, axis=1)
        # log(1 + e^z) - y z, as the training loss
        losses = weight * (np.logaddexp(0, logits.astype(np.float64)) - truth * logits)
        return float(np.average(losses.sum(axis=1), weights=self._times))
