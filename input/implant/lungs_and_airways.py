"""Segmentation of lungs and airways on CT by thresholds and morphology, on an isotropic grid of FINE_MM."""

import numpy as np
from scipy import ndimage
from skimage.morphology import disk, reconstruction

from input.phantom.raster import Box
from pipeline.errors import UserError

FINE_MM = 1.2  # voxel size of the isotropic grid
MIN_LUNG_ML = 300
HULL_MM = 8.0  # radius of the ball that closes the lungs over their vessels
AIR_HU = -400.0  # lung or air below
AIRWAY_LEVELS = (-970.0, -950.0, -930.0, -910.0, -890.0)  # HU, thresholds tried in order until the airways leak
AIRWAY_ML = (8.0, 200.0)  # plausible volume of trachea and bronchi
LEAK = 1.5  # relative growth between thresholds that means a leak into the lung
RIM_MM = 1.5  # outer rim of the lungs that is excluded, at the chest wall
RING_DISC = disk(4)  # closes bronchi of up to 9 voxels
RING_HU = 90.0  # least contrast between a bronchus and its wall


def segment_lungs(volume: np.ndarray, voxel_mm3: float) -> tuple[np.ndarray, Box]:
    """Segment the lungs with the airways, as large air-filled parts not connected to the air around the patient.

    Returns:
        The mask (z, y, x), and its box.
    """
    labels, count = ndimage.label(volume < AIR_HU)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for rim in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        sizes[np.unique(rim)] = 0
    sizes[0] = 0
    if not count or sizes.max() * voxel_mm3 < MIN_LUNG_ML * 1000:
        raise UserError(
            f"Lungs not detected. Expected an air-filled part of at least {MIN_LUNG_ML} ml inside the body."
        )
    lungs = (sizes >= 0.1 * sizes.max())[labels]
    return lungs, ndimage.find_objects(lungs.astype(np.uint8))[0]


def segment_airways(volume: np.ndarray, lungs: np.ndarray) -> tuple[np.ndarray, float]:
    """Segment trachea and bronchi, connected to the trachea at the highest threshold that does not leak.

    A higher threshold makes the airways a little longer; a growth by the factor LEAK is a leak into the lung.

    Returns:
        The mask (z, y, x), and the column of the trachea.
    """
    filled = np.flatnonzero(lungs.any(axis=(1, 2)))
    best, column, previous_ml = None, 0.0, np.inf
    for level in AIRWAY_LEVELS:
        labels, _ = ndimage.label(volume < level)
        seed = _trachea(labels, filled)
        if seed is None:
            continue
        airways = labels == seed[0]
        millilitres = float(airways.sum()) * FINE_MM**3 / 1000
        if millilitres > LEAK * previous_ml:
            break
        if AIRWAY_ML[0] <= millilitres <= AIRWAY_ML[1]:
            best, column, previous_ml = airways, seed[1], millilitres
    if best is None:
        raise UserError("Airways not detected. Expected a trachea in the upper part of the lungs.")
    return best, column


def _trachea(labels: np.ndarray, filled: np.ndarray) -> tuple[int, float] | None:
    """Return label and column of the air that is a round spot of the size of a trachea in many upper slices.

    Args:
        labels: connected parts of air, (z, y, x).
        filled: indices of the slices with lung, ascending.
    """
    # The volume is cropped to the lungs: air at its sides is outside the body, or airways that leaked.
    sides = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    rim = set(np.unique(np.concatenate([side.ravel() for side in sides])).tolist())
    upper = filled[int(0.72 * len(filled)) :]
    votes: dict[int, list[float]] = {}
    for z in upper.tolist():
        spots, count = ndimage.label(labels[z] > 0)
        for i, box in enumerate(ndimage.find_objects(spots), start=1):
            high, wide = (part.stop - part.start for part in box)
            area = float((spots[box] == i).sum()) * FINE_MM**2
            inner = (
                0 < box[0].start and 0 < box[1].start and box[0].stop < spots.shape[0] and box[1].stop < spots.shape[1]
            )
            if inner and 80 < area < 700 and 0.4 < high / wide < 2.5 and area > 0.5 * high * wide * FINE_MM**2:
                label = int(np.bincount(labels[z][box][spots[box] == i]).argmax())
                if label not in rim:
                    votes.setdefault(label, []).append((box[1].start + box[1].stop) / 2)
    if not votes:
        return None
    label = max(votes, key=lambda candidate: len(votes[candidate]))
    return (label, float(np.median(votes[label]))) if len(votes[label]) >= 0.3 * len(upper) else None


def lung_hull(lungs: np.ndarray) -> np.ndarray:
    """Close the lungs over their vessels with a ball and remove the outer rim; computed on every second voxel."""
    radius, rim = HULL_MM / FINE_MM / 2, RIM_MM / FINE_MM / 2
    reach = int(np.ceil(radius)) + 1
    grown = ndimage.distance_transform_edt(~np.pad(lungs[::2, ::2, ::2], reach)) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius + rim
    whole = closed[(slice(reach, -reach),) * 3].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return whole[tuple(slice(0, n) for n in lungs.shape)]


def bronchus_cross_sections(volume: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """Detect lumina of bronchi in cross-section: dark spots within a brighter ring.

    Grey-scale reconstruction, slice by slice (Aykac et al. 2003, doi 10.1109/TMI.2003.815905): local minima that are
    deeper than every path out of them.
    """
    rings = np.zeros(volume.shape, bool)
    # In steps of 4 HU: reconstruction is faster on bytes.
    filled = ((np.clip(volume, -1000, -500) + 1000) / 4).astype(np.uint8)
    for z in np.flatnonzero(hull.any(axis=(1, 2))).tolist():
        seed = ndimage.grey_closing(filled[z], footprint=RING_DISC)
        rings[z] = reconstruction(seed, filled[z], method="erosion") - filled[z] > RING_HU / 4
    return rings & hull
