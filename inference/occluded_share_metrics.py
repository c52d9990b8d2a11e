"""How well the occluded share of each lung's arteries is estimated, measured on synthetic exams with known arteries."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from features.store import StoredExam
from inference.lung_vessels import lung_sides

#: Left and right share of an exam, 0-1; NaN where unknown.
Shares = tuple[float, float]


def true_occluded_shares(exam: StoredExam, mask: np.ndarray, arteries: np.ndarray, voxel_ml: np.ndarray) -> Shares:
    """True share of the arteries in the left and the right lung that clot occludes; NaN without arteries.

    Args:
        exam: the stored exam.
        mask: bool (z, y, x), clot on the stored planes.
        arteries: bool (z, y, x), all pulmonary arteries with their clots.
        voxel_ml: (z,) volume of a voxel of every plane.
    """
    left, right = lung_sides(exam)
    clot_ml, artery_ml = (
        [float(voxels[:, :, side].sum(axis=(1, 2)) @ voxel_ml) for side in (left, right)]
        for voxels in (mask, mask | arteries)
    )
    shares = [clot / artery if artery > 0 else np.nan for clot, artery in zip(clot_ml, artery_ml, strict=True)]
    return shares[0], shares[1]


def occluded_summary(estimated: Sequence[Shares], true: Sequence[Shares]) -> dict[str, float]:
    """Estimated against true shares, 0-1, over the lungs whose arteries contain clot.

    Args:
        estimated, true: shares of the same exams.

    Returns:
        JSON values; `occluded_share_without_clot_p90` is the 90th percentile of the estimate where the true share is 0.
        Empty with fewer than three lungs with clot, or none without.
    """
    shares = np.column_stack([np.ravel(estimated), np.ravel(true)])
    shares = shares[np.isfinite(shares).all(axis=1)]
    known, without_clot = shares[shares[:, 1] > 0], shares[shares[:, 1] == 0, 0]
    if len(known) < 3 or not len(without_clot):
        return {}
    error = known[:, 0] - known[:, 1]
    return {
        "occluded_share_lungs": len(known),
        "occluded_share_true_median": float(np.median(known[:, 1])),
        "occluded_share_rank_correlation": float(spearmanr(*known.T).statistic),
        "occluded_share_median_error": float(np.median(np.abs(error))),
        "occluded_share_median_bias": float(np.median(error)),
        "occluded_share_mean_bias": float(error.mean()),
        "occluded_share_without_clot_p90": float(np.quantile(without_clot, 0.9)),
    }
