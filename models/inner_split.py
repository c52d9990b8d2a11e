"""Inner exams: set aside inside the training part to choose the best epoch, without using the held-out fold.

Early stopping on the scored fold would bias its score. The inner exams belong to the training part, are not trained
on, and are evaluated without augmentation, always on the same slices.
"""

import keras
import numpy as np
import pandas as pd

from input.contest import SLICE_LABEL, STUDY
from models.batches import prefetched
from models.sampling import draw_epoch, slice_keys
from models.slice_targets import sampled_targets
from models.slice_views import SliceViews
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings


def split_inner(slices: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set exams aside: the same share of exams with and without PE, at least one of each.

    Args:
        slices: One row per slice of the training part, with study and slice label.
        share: Share of the exams; 0 sets none aside.
        seed: Seed of the choice, which depends on the set of exams and not on the order of rows.

    Returns:
        The slices to train on and the inner slices, each with a new index.

    Raises:
        UserError: A share above 0 that leaves one of the two parts without exams.
    """
    random = np.random.default_rng([seed, 1])
    with_pe = (slices[SLICE_LABEL] > 0).groupby(slices[STUDY]).any().sort_index()
    inner_studies: set[str] = set()
    for has_pe in (True, False):
        exams = with_pe.index[with_pe == has_pe].to_numpy()
        count = max(1, round(share * len(exams))) if share and len(exams) > 1 else 0
        inner_studies |= set(random.permutation(exams)[:count])
    inner = slices[STUDY].isin(inner_studies)
    if share and (inner.all() or not inner.any()):
        raise UserError(
            f"models.inner_share {share} leaves a part without exams: {len(inner_studies)} of {len(with_pe)} training "
            "exams would be set aside. Expected at least one, and at least one left to train on."
        )
    return slices[~inner].reset_index(drop=True), slices[inner].reset_index(drop=True)


class InnerExams:
    """Measures the loss on the inner exams; the slices are sampled once, in the shares of the training.

    Args:
        slices: Inner slices from `split_inner`.
        views: Views of the store.
        settings: Training recipe; a fifth of an epoch's slices is evaluated.
        loaders: Threads that prepare batches.
    """

    def __init__(self, slices: pd.DataFrame, views: SliceViews, settings: ModelsSettings, loaders: int = 1) -> None:
        targets, probabilities = sampled_targets(slices, settings)
        count = max(settings.batch, settings.epoch_slices // 5)
        drawn = draw_epoch(probabilities, slice_keys(slices), count, seed=settings.seed, epoch=settings.epochs)
        rows, self._counts = np.unique(drawn.rows, return_counts=True)
        self._targets = targets[rows].astype(np.float64)
        self._planes = list(zip(slices[STUDY].to_numpy()[rows], slices["plane"].to_numpy()[rows], strict=True))
        self._views, self._batch, self._loaders = views, settings.batch, loaders

    def loss(self, model: keras.Model) -> float:
        """Return the mean loss of the network with its current weights, defined as in training."""

        def make(number: int) -> np.ndarray:
            planes = self._planes[number * self._batch : (number + 1) * self._batch]
            return np.stack([self._views.view(study, int(plane)) for study, plane in planes])

        batches = prefetched(make, -(-len(self._planes) // self._batch), threads=self._loaders)
        logits = np.concatenate([np.asarray(model.predict_on_batch(images)["logits"]) for images in batches])
        truth, weight = np.split(self._targets, 2, axis=1)
        # log(1 + e^z) - y z, as the training loss
        losses = weight * (np.logaddexp(0, logits.astype(np.float64)) - truth * logits)
        return float(np.average(losses.sum(axis=1), weights=self._counts))
