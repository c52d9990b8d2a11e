"""The blood in the pulmonary vessels of a scan, and its replacement by clots.

A clot keeps the texture of the blood that it replaces: a voxel changes by the difference between the clot and the
local mean of the blood, times the share of blood in the voxel.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from input.implant.real_arteries import DetectedArteries
from input.phantom.emboli import Clot, clot_tubes
from input.phantom.raster import Box, Grid, Tubes, tube_coverage
from input.phantom.vessel_trees import Arteries

LUNG_HU = -850.0  # the tissue that shares a voxel with blood at the edge of a lumen
BLOOD_MM = 2.5  # standard deviation of the local mean of the blood
IN_PLANE = np.ones((1, 3, 3), bool)


@dataclass(frozen=True)
class Lumen:
    """The blood in the pulmonary vessels of a scan."""

    share: np.ndarray  # float16 (z, y, x), 0-1: share of blood in every voxel of the scan
    box: Box  # the share is 0 outside
    blood: np.ndarray  # float32, local mean of the blood in the box, HU


def find_lumen(hu: np.ndarray, grid: Grid, detected: DetectedArteries) -> Lumen:
    """Estimate the share of blood in every voxel: 1 inside a lumen, a part of it at the edge and just outside.

    Args:
        hu: the scan, (z, y, x).
        grid: coordinates of the scan.
        detected: the pulmonary arteries of the scan.
    """
    box = _vessel_box(grid, pulmonary_tubes(detected.arteries))
    original = hu[box].astype(np.float32)
    inside = gaussian_filter(original, (0, 0.6, 0.6)) > detected.lumen_hu
    blood = local_blood(original, inside, grid.part(box))
    share = np.clip((original - LUNG_HU) / (blood - LUNG_HU), 0, 1) * binary_dilation(inside, IN_PLANE)
    share[binary_erosion(inside, IN_PLANE)] = 1
    whole = np.zeros(hu.shape, np.float16)
    whole[box] = share
    return Lumen(whole, box, blood)


def implant_clots(hu: np.ndarray, grid: Grid, clots: list[Clot], arteries: Arteries, lumen: Lumen) -> np.ndarray:
    """Insert clots into the lumina of a scan; the noise of every voxel is kept.

    Args:
        hu: the scan, int16 (z, y, x); not changed.
        grid: coordinates of the scan.
        clots: the clots to insert.
        arteries: the arterial tree, widened by the clots.
        lumen: the blood of the scan.

    Returns:
        int16 (z, y, x), [-1024, 3071] HU.
    """
    part = grid.part(lumen.box)
    cover, value = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.float32)
    for clot in clots:
        # Where clots overlap, the one that fills more of a voxel counts, as in the ground truth; not their sum.
        box, clot_cover = tube_coverage(part, clot_tubes(clot, arteries))
        value[box] = np.where(clot_cover > cover[box], np.float32(clot.hu), value[box])
        np.maximum(cover[box], clot_cover, out=cover[box])
    replaced = hu[lumen.box] + lumen.share[lumen.box] * cover * (value - lumen.blood)
    result = hu.copy()
    result[lumen.box] = np.rint(np.clip(replaced, -1024, 3071)).astype(np.int16)
    return result


def local_blood(hu: np.ndarray, lumen: np.ndarray, grid: Grid) -> np.ndarray:
    """Compute the local mean of the blood around every voxel.

    Args:
        hu: float32 (z, y, x).
        lumen: bool (z, y, x), voxels of blood.
        grid: coordinates of `hu`.

    Returns:
        HU, float32 (z, y, x); the median of all blood where no blood is near.
    """
    sigma = (BLOOD_MM / grid.step, BLOOD_MM / grid.pixel, BLOOD_MM / grid.pixel)
    weight = gaussian_filter(lumen.astype(np.float32), sigma, truncate=3)
    total = gaussian_filter(np.where(lumen, hu, np.float32(0)), sigma, truncate=3)
    everywhere = np.float32(np.median(hu[lumen])) if lumen.any() else np.float32(0)
    return np.where(weight > 0.01, total / np.maximum(weight, np.float32(0.01)), everywhere)


def pulmonary_tubes(arteries: Arteries) -> Tubes:
    """Return the tubes of the pulmonary arteries; region 0 is a vessel that is no artery."""
    return arteries.tubes.take(arteries.region[arteries.segment] > 0)


def _vessel_box(grid: Grid, tubes: Tubes) -> Box:
    """Return the box around tubes with a margin for the local mean of the blood."""
    reach = 2 * float(np.maximum(tubes.r0, tubes.r1).max()) + 3 * BLOOD_MM
    ends = np.concatenate([tubes.start, tubes.end])
    return grid.box(ends.min(axis=0) - reach, ends.max(axis=0) + reach)
