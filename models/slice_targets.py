"""What a slice network is asked: is there PE on this slice, and what is true of its exam?

The exam's labels are auxiliary targets. Each is asked only where the slice can answer: sides,
centre and chronicity on slices that show PE, RV/LV on any slice of an exam with PE (the contest
labels it for no other), the quality labels on every slice.
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
)
from models.sampling import q_weights, sampling_weights
from pipeline.settings import ModelsSettings

ON_POSITIVE_SLICES = (LEFT, RIGHT, CENTRAL, CHRONIC, ACUTE_AND_CHRONIC)
ON_POSITIVE_EXAMS = (GTE_1,)
ON_EVERY_SLICE = (QA_MOTION, QA_CONTRAST)
#: The network's logits, in this order; the first is the slice label.
TARGETS = (SLICE_LABEL, *ON_POSITIVE_SLICES, *ON_POSITIVE_EXAMS, *ON_EVERY_SLICE)
#: What becomes of the targets when the picture is flipped left to right.
FLIPPED = [TARGETS.index({LEFT: RIGHT, RIGHT: LEFT}.get(name, name)) for name in TARGETS]


def slice_targets(slices: pd.DataFrame, auxiliary_weight: float, slice_weights: np.ndarray | None = None) -> np.ndarray:
    """Labels and weights of slices.

    Args:
        slices: a row a slice with the slice label and the exam's labels (missing labels: NaN).
        auxiliary_weight: weight of each auxiliary target beside the slice label's 1.
        slice_weights: (slices,) weights of the slice label; 1 when None.

    Returns:
        float32 (slices, 2 * targets): labels, then weights.
    """
    truth = slices[list(TARGETS)].to_numpy(np.float32)
    on_slice = slices[SLICE_LABEL].to_numpy() > 0
    in_exam = slices.groupby("StudyInstanceUID")[SLICE_LABEL].transform("max").to_numpy() > 0
    asked = {
        SLICE_LABEL: np.ones(len(slices)) if slice_weights is None else slice_weights,
        **{name: auxiliary_weight * on_slice for name in ON_POSITIVE_SLICES},
        **{name: auxiliary_weight * in_exam for name in ON_POSITIVE_EXAMS},
        **{name: auxiliary_weight * np.ones(len(slices)) for name in ON_EVERY_SLICE},
    }
    weight = np.stack([asked[name] for name in TARGETS], axis=1).astype(np.float32)
    weight[np.isnan(truth)] = 0
    return np.concatenate([np.nan_to_num(truth), weight], axis=1)


def drawn_targets(slices: pd.DataFrame, settings: ModelsSettings) -> tuple[np.ndarray, np.ndarray]:
    """What slices are asked and how often, as a recipe has it.

    Args:
        slices: a row a slice, all slices of every exam.
        settings: recipe.

    Returns:
        Targets as from `slice_targets`, and each slice's probability to be drawn, float64 (slices,).
    """
    draws = sampling_weights(slices, settings.positive_share, settings.negative_exam_share, settings.sampling)
    weights = q_weights(slices, draws) if settings.q_weighting else None
    return slice_targets(slices, settings.auxiliary_weight, weights), draws


def flip_targets(targets: np.ndarray) -> np.ndarray:
    """Targets (n, 2 * targets) of pictures flipped left to right: left and right change places."""
    count = len(TARGETS)
    return targets[:, [*FLIPPED, *(count + index for index in FLIPPED)]]
