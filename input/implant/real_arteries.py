"""Detection of pulmonary arteries on a real contrast CT: bright lumina in the lungs adjacent to an airway.

Arteries accompany the bronchi, veins run between them (Boyden 1955), so a vessel adjacent to an airway is taken for
an artery. This detects lobar to subsegmental arteries as far as the airways can be followed. On synthetic exams, where
the truth is known, about four of five detected pieces are arteries; the others are veins that touch an airway. The
trunk and the main arteries are outside the lungs and are not detected. No machine learning is involved, and the
result only determines where a synthetic clot may be placed.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from input.implant.centre_lines import (
    centre_lines,
    depth_from_root,
    median_by,
    smoothed,
    split_segments,
    without_empty_segments,
)
from input.implant.lungs_and_airways import (
    FINE_MM,
    bronchus_cross_sections,
    lung_hull,
    segment_airways,
    segment_lungs,
)
from input.phantom.raster import Box, Grid, Tubes
from input.phantom.vessel_trees import LEFT_LUNG, RIGHT_LUNG, Arteries
from pipeline.errors import UserError

COARSE_MM = 4.0  # voxel size of the first lung segmentation
VESSEL_HU = -150.0  # about half way between lung and blood, which keeps the width of thin vessels
MIN_VOXELS = 40  # of a connected vessel
MIN_BLOOD_HU = 100.0
LUMEN_SHARE = 0.5  # least attenuation of a lumen voxel and of a vessel axis, relative to that of blood
ADJACENT_MM = 4.0  # largest distance between the lumina of an artery and its airway: two walls
ADJACENT_SHARE = 0.7  # least share of an artery that is adjacent to an airway
MIDLINE_MM = 22.0  # vessels closer to the sagittal plane of the trachea are mediastinal
MIN_RADIUS_MM = 1.5


@dataclass(frozen=True)
class DetectedArteries:
    """The pulmonary arteries of a scan, with the thresholds used."""

    arteries: Arteries  # region 0: a vessel that is no artery
    blood_hu: float  # attenuation of blood in large vessels of the lungs
    lumen_hu: float  # least attenuation of a lumen voxel
    airway_ml: float  # volume of the airways


def find_arteries(hu: np.ndarray, grid: Grid) -> DetectedArteries:
    """Detect the pulmonary arteries in both lungs.

    Args:
        hu: (z, y, x), canonical orientation.
        grid: coordinates of `hu`.

    Raises:
        UserError: no lungs, no airways, too little contrast, or no artery adjacent to an airway.
    """
    lung_region = _coarse_lung_box(hu, grid)
    volume, axes = _isotropic(hu[lung_region], grid.part(lung_region))
    lungs, box = segment_lungs(volume, FINE_MM**3)
    volume, lungs, axes = volume[box], lungs[box], (axes[0][box[2]], axes[1][box[1]], axes[2][box[0]])
    airways, middle_x = segment_airways(volume, lungs)
    hull = lung_hull(lungs)
    blood = _blood_hu(volume, hull)
    points, radius, parent = centre_lines(_without_small_parts(hull & (volume > VESSEL_HU), MIN_VOXELS), FINE_MM)
    airways |= bronchus_cross_sections(volume, hull)
    nearest = cKDTree(np.argwhere(airways)).query(points, distance_upper_bound=30)[0] * FINE_MM
    gap = np.minimum(nearest, 30) - radius
    segment, upstream = split_segments(parent)
    n_segments = len(upstream)
    adjacent = np.asarray(ndimage.mean(gap < ADJACENT_MM, segment, np.arange(n_segments))) > ADJACENT_SHARE
    accepted = adjacent & (median_by(segment, radius, n_segments) > MIN_RADIUS_MM)
    accepted &= median_by(segment, volume[tuple(points.T)], n_segments) > LUMEN_SHARE * blood
    position = smoothed(np.stack([axis[points[:, 2 - i]] for i, axis in enumerate(axes)], axis=1), parent)
    radius = smoothed(radius[:, None], parent)[:, 0]
    lateral = median_by(segment, position[:, 0], n_segments) - np.interp(middle_x, np.arange(len(axes[0])), axes[0])
    accepted &= np.abs(lateral) > MIDLINE_MM
    region = np.where(accepted, np.where(lateral > 0, LEFT_LUNG, RIGHT_LUNG), 0)
    if not region.any():
        raise UserError("No pulmonary artery adjacent to an airway. Expected a chest CT with contrast medium.")
    child = np.flatnonzero(parent >= 0)
    order = child[np.lexsort((depth_from_root(parent)[child], segment[child]))]
    above = parent[order]
    tubes = Tubes(position[above], position[order], radius[above], radius[order])
    arteries = without_empty_segments(Arteries(tubes, segment[order], upstream, region))
    return DetectedArteries(arteries, blood, LUMEN_SHARE * blood, float(airways.sum()) * FINE_MM**3 / 1000)


def _isotropic(hu: np.ndarray, grid: Grid) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Resample to an isotropic grid of FINE_MM; returns the volume (float32) and the x, y, z of its voxels."""
    axes, volume = [], hu.astype(np.float32)
    for axis, positions in enumerate((grid.z, grid.y, grid.x)):
        step = float(positions[1] - positions[0])
        if step < FINE_MM:
            volume = ndimage.gaussian_filter1d(volume, 0.4 * FINE_MM / step, axis=axis, mode="nearest")
        count = max(2, int((positions[-1] - positions[0]) / FINE_MM) + 1)
        fine = positions[0] + FINE_MM * np.arange(count)
        index = (fine - positions[0]) / step
        low = np.minimum(index.astype(int), len(positions) - 2)
        weight = (index - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        volume = np.take(volume, low, axis) * (1 - weight) + np.take(volume, low + 1, axis) * weight
        axes.append(fine)
    return volume, (axes[2], axes[1], axes[0])


def _coarse_lung_box(hu: np.ndarray, grid: Grid) -> Box:
    """Return the box of the lungs with a margin, from a subsampled volume."""
    steps = [max(1, round(COARSE_MM / size)) for size in (grid.step, grid.pixel, grid.pixel)]
    voxel = float(np.prod(steps)) * grid.step * grid.pixel**2
    _, box = segment_lungs(hu[:: steps[0], :: steps[1], :: steps[2]], voxel)
    z, y, x = (
        slice(max(0, (part.start - 3) * step), (part.stop + 3) * step) for part, step in zip(box, steps, strict=True)
    )
    return z, y, x


def _blood_hu(volume: np.ndarray, hull: np.ndarray) -> float:
    """Estimate the attenuation of blood in the wider vessels of the lungs, HU."""
    soft = ndimage.binary_erosion(hull & (volume > VESSEL_HU), iterations=2)
    if soft.sum() < 200:
        raise UserError("No measurable vessels in the lungs. Expected a chest CT with contrast medium.")
    blood = float(np.quantile(volume[soft], 0.75))
    if blood < MIN_BLOOD_HU:
        raise UserError(
            f"Too little contrast in the lung vessels. Expected at least {MIN_BLOOD_HU:.0f} HU, got {blood:.0f}. "
            "Use a scan with contrast medium."
        )
    return blood


def _without_small_parts(mask: np.ndarray, voxels: int) -> np.ndarray:
    """Remove connected parts of fewer than `voxels` voxels."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return (np.bincount(labels.ravel(), minlength=count + 1) >= voxels)[labels] & mask
