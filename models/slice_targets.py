"""Binary targets of the slice networks: PE on the slice, and the labels of its exam.

The exam labels are auxiliary targets. Each is trained only on the slices that can show it: side, location and
chronicity on slices with PE, the RV/LV ratio on every slice of an exam with PE (the contest labels it for no other
exams), the quality labels on every slice.
"""

import numpy as np
import pandas as pd

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    GTE_1,
    LEFT,
    QA_CONTRAST,
    QA_MOTION,
    RIGHT,
    SLICE_LABEL,
    STUDY,
)
from models.sampling import q_weights, sampling_weights
from pipeline.settings import ModelsSettings

ON_POSITIVE_SLICES = (LEFT, RIGHT, CENTRAL, CHRONIC, ACUTE_AND_CHRONIC)
ON_POSITIVE_EXAMS = (GTE_1,)
ON_EVERY_SLICE = (QA_MOTION, QA_CONTRAST)
#: Targets that describe the clot beyond its side, and targets that describe the exam.
NATURES = (CENTRAL, CHRONIC, ACUTE_AND_CHRONIC)
ON_EXAM = (*ON_POSITIVE_EXAMS, *ON_EVERY_SLICE)
#: Order of the network's logits; the first is the slice label.
TARGETS = (SLICE_LABEL, *ON_POSITIVE_SLICES, *ON_POSITIVE_EXAMS, *ON_EVERY_SLICE)
#: Index of each target's counterpart in a horizontally flipped image (left and right swapped).
FLIPPED = [TARGETS.index({LEFT: RIGHT, RIGHT: LEFT}.get(name, name)) for name in TARGETS]


def slice_targets(slices: pd.DataFrame, auxiliary_weight: float, slice_weights: np.ndarray | None = None) -> np.ndarray:
    """Return labels and loss weights of slices.

    Args:
        slices: One row per slice with the slice label and the exam's labels (NaN where missing); with the columns of
            `features.clot_masks`, if masks supervise: their slices then have their own labels instead of the exam's.
        auxiliary_weight: Weight of each auxiliary target; the slice label has weight 1.
        slice_weights: Weights of the slice label, shape (slices,); all 1 if None.

    Returns:
        float32 (slices, 2 * targets): labels, then weights. A weight of 0 masks the label.
    """
    labels = slices[list(TARGETS)].astype(np.float32)
    for name, mask_label in labels_from_masks(slices).items():
        labels[name] = mask_label.where(mask_label.notna(), labels[name])
    truth = labels.to_numpy(np.float32)
    positive_slice = slices[SLICE_LABEL].to_numpy() > 0
    positive_exam = slices.groupby(STUDY)[SLICE_LABEL].transform("max").to_numpy() > 0
    weights = {
        SLICE_LABEL: np.ones(len(slices)) if slice_weights is None else slice_weights,
        **{name: auxiliary_weight * positive_slice for name in ON_POSITIVE_SLICES},
        **{name: auxiliary_weight * positive_exam for name in ON_POSITIVE_EXAMS},
        **{name: auxiliary_weight * np.ones(len(slices)) for name in ON_EVERY_SLICE},
    }
    weight = np.stack([weights[name] for name in TARGETS], axis=1).astype(np.float32)
    weight[np.isnan(truth)] = 0
    return np.concatenate([np.nan_to_num(truth), weight], axis=1)


def labels_from_masks(slices: pd.DataFrame) -> dict[str, pd.Series]:
    """Return what clot masks say of each slice, NaN where they do not; empty without their columns."""
    if "acute" not in slices:
        return {}
    chronic, acute = slices["chronic"], slices["acute"]
    return {
        LEFT: slices["left"],
        RIGHT: slices["right"],
        CENTRAL: slices["central"],
        CHRONIC: chronic * (1 - acute),
        ACUTE_AND_CHRONIC: chronic * acute,
    }


def sampled_targets(slices: pd.DataFrame, settings: ModelsSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets of slices and the probabilities with which they are sampled.

    Args:
        slices: One row per slice, with all slices of every exam.
        settings: Training recipe.

    Returns:
        Targets as from `slice_targets`, and the sampling probability of each slice, float64 (slices,).
    """
    probabilities = sampling_weights(slices, settings.positive_share, settings.negative_exam_share, settings.sampling)
    weights = q_weights(slices, probabilities) if settings.q_weighting else None
    return slice_targets(slices, settings.auxiliary_weight, weights), probabilities


def evidence_targets(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return what the slice's labels say of a clot map without a mask: PE on the slice, on its left, on its right.

    An exam label says where PE is somewhere in the exam: a side without PE has none on any slice. A side with PE is
    certain to have it on a positive slice only if the other side has none.

    Args:
        targets: (n, 2 * targets) from `slice_targets`.
        weights: (n,) weight of every slice.

    Returns:
        float32 (n, 6): labels, then weights, as `models.clot_map.ClotEvidence` orders them.
    """
    count = len(TARGETS)
    present = targets[:, 0] * (targets[:, count] > 0)
    columns = [TARGETS.index(name) for name in (LEFT, RIGHT)]
    sides = targets[:, columns]
    known = targets[:, [count + column for column in columns]] > 0
    one_sided = known.all(axis=1) & (sides.sum(axis=1) == 1) & (present > 0)
    certain = known & one_sided[:, None]
    labels = np.concatenate([targets[:, :1], sides], axis=1)
    certainty = np.concatenate([np.ones((len(targets), 1)), certain], axis=1)
    return np.concatenate([labels, weights[:, None] * certainty], axis=1).astype(np.float32)


def flip_targets(targets: np.ndarray) -> np.ndarray:
    """Return targets (n, 2 * targets) of horizontally flipped images, with left and right swapped."""
    count = len(TARGETS)
    return targets[:, [*FLIPPED, *(count + index for index in FLIPPED)]]
