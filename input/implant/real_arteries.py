"""Finds pulmonary arteries on a real contrast CT, classically: bright lumina in the lungs beside an airway.

Arteries run with the bronchi, veins run between them (Boyden 1955); so a vessel whose wall touches an
airway's is taken for an artery, any other is left alone. That finds lobar to subsegmental arteries as
far as the airways can be followed; on drawn exams, where the truth is known, about four of five found
pieces are arteries and the others veins that touch an airway. The trunk and the main arteries lie
outside the lungs and are not looked for. Nothing here is learned, and nothing is claimed about a
patient: the arteries only say where a drawn clot may lie.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree
from skimage.morphology import disk, reconstruction, skeletonize

from input.phantom.raster import Grid, Tubes
from input.phantom.vessel_trees import LEFT_LUNG, RIGHT_LUNG, Arteries
from pipeline.errors import UserError

FINE_MM = 1.2  # isotropic grid of the search
ROUGH_MM = 4.0  # of the first look at where the lungs are
HULL_MM = 8.0  # vessels up to twice this width count as within the lungs
AIR_HU = -400.0  # below: lung or air
AIRWAY_LEVELS = (-970.0, -950.0, -930.0, -910.0, -890.0)  # HU, tried in turn until the airways leak
AIRWAY_ML = (8.0, 200.0)  # volume of trachea and bronchi
LEAK = 1.5
RIM_MM = 1.5  # of the lungs that is left out: the chest wall's edge
RING_DISC = disk(4)  # closes bronchi up to 9 voxels wide
RING_HU = 90.0  # how much darker a bronchus is than its wall
VESSEL_HU = -150.0  # about half way between lung and blood, so that thin vessels keep their width
LEAST_VOXELS = 40
LEAST_BLOOD_HU = 100.0
LUMEN_SHARE = 0.5  # of the blood's attenuation: from it a voxel belongs to a lumen, and a vessel's axis to a vessel
BESIDE_MM = 4.0  # from the artery's lumen to the airway's: two walls
BESIDE_SHARE = 0.7  # of an artery's length that lies so near
MIDLINE_MM = 22.0  # vessels nearer to the trachea's plane are the mediastinum's
LEAST_RADIUS_MM = 1.5


@dataclass(frozen=True)
class FoundArteries:
    """Arteries as pieces on the scan's grid, and what was learned on the way."""

    arteries: Arteries
    blood_hu: float  # of large vessels in the lungs
    lumen_hu: float  # from which a voxel belongs to a lumen
    airway_ml: float


def find_arteries(hu: np.ndarray, grid: Grid) -> FoundArteries:
    """Find arteries inside both lungs.

    Args:
        hu: (z, y, x), canonical orientation.
        grid: its coordinates.

    Raises:
        UserError: no lungs, no airways, weak contrast, or no artery beside an airway.
    """
    near = _rough_box(hu, grid)
    volume, axes = _isotropic(hu[near], grid.part(near))
    lungs, box = _lungs(volume, FINE_MM**3)
    volume, lungs, axes = volume[box], lungs[box], tuple(axis[part] for axis, part in zip(axes, box[::-1], strict=True))
    airways, middle_x = _airways(volume, lungs)
    hull = _hull(lungs)
    blood = _blood_hu(volume, hull)
    points, radius, parent = _centre_lines(_without_crumbs(hull & (volume > VESSEL_HU), LEAST_VOXELS))
    airways |= _rings(volume, hull)
    nearest = cKDTree(np.argwhere(airways)).query(points, distance_upper_bound=30)[0] * FINE_MM
    gap = np.minimum(nearest, 30) - radius
    segment, up = _segments(parent)
    beside = np.asarray(ndimage.mean(gap < BESIDE_MM, segment, np.arange(len(up)))) > BESIDE_SHARE
    wide = _median_by(segment, radius, len(up)) > LEAST_RADIUS_MM
    wide &= _median_by(segment, volume[tuple(points.T)], len(up)) > LUMEN_SHARE * blood
    placed = _smoothed(np.stack([axis[points[:, 2 - i]] for i, axis in enumerate(axes)], axis=1), parent)
    radius = _smoothed(radius[:, None], parent)[:, 0]
    aside = _median_by(segment, placed[:, 0], len(up)) - np.interp(middle_x, np.arange(len(axes[0])), axes[0])
    wide &= np.abs(aside) > MIDLINE_MM
    region = np.where(beside & wide, np.where(aside > 0, LEFT_LUNG, RIGHT_LUNG), 0)
    if not region.any():
        raise UserError("no pulmonary artery was found beside an airway; is this a chest CT with contrast medium?")
    child = np.flatnonzero(parent >= 0)
    order = child[np.lexsort((_depth(parent)[child], segment[child]))]
    above = parent[order]
    tubes = Tubes(placed[above], placed[order], radius[above], radius[order])
    arteries = _compact(Arteries(tubes, segment[order], up, region))
    return FoundArteries(arteries, blood, LUMEN_SHARE * blood, float(airways.sum()) * FINE_MM**3 / 1000)


def _isotropic(hu: np.ndarray, grid: Grid) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The volume (float32) on an isotropic grid, and that grid's x, y, z."""
    axes, volume = [], hu.astype(np.float32)
    for axis, positions in enumerate((grid.z, grid.y, grid.x)):
        step = float(positions[1] - positions[0])
        if step < FINE_MM:
            volume = ndimage.gaussian_filter1d(volume, 0.4 * FINE_MM / step, axis=axis, mode="nearest")
        count = max(2, int((positions[-1] - positions[0]) / FINE_MM) + 1)
        fine = positions[0] + FINE_MM * np.arange(count)
        place = (fine - positions[0]) / step
        low = np.minimum(place.astype(int), len(positions) - 2)
        weight = (place - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        volume = np.take(volume, low, axis) * (1 - weight) + np.take(volume, low + 1, axis) * weight
        axes.append(fine)
    return volume, (axes[2], axes[1], axes[0])


def _rough_box(hu: np.ndarray, grid: Grid) -> tuple[slice, slice, slice]:
    """The lungs' box with a margin: what lies beyond is not worth resampling."""
    steps = [max(1, round(ROUGH_MM / size)) for size in (grid.step, grid.pixel, grid.pixel)]
    voxel = float(np.prod(steps)) * grid.step * grid.pixel**2
    _, box = _lungs(hu[:: steps[0], :: steps[1], :: steps[2]], voxel)
    return tuple(
        slice(max(0, (part.start - 3) * step), (part.stop + 3) * step) for part, step in zip(box, steps, strict=True)
    )


def _lungs(volume: np.ndarray, voxel_mm3: float) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """Air-filled lungs with the airways, large air-like parts that the room's air does not reach; and their box."""
    labels, count = ndimage.label(volume < AIR_HU)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for rim in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        sizes[np.unique(rim)] = 0
    sizes[0] = 0
    if not count or sizes.max() * voxel_mm3 < 300_000:
        raise UserError("no lungs were found: no air-filled part of 300 ml or more that the room's air does not reach")
    lungs = (sizes >= 0.1 * sizes.max())[labels]
    return lungs, ndimage.find_objects(lungs.astype(np.uint8))[0]


def _airways(volume: np.ndarray, lungs: np.ndarray) -> tuple[np.ndarray, float]:
    """Trachea and bronchi, grown from the trachea at the mildest level that does not leak; and the trachea's column.

    A milder level makes the airways a little longer; when it makes them half as large again, they have
    leaked into the lung.
    """
    filled = np.flatnonzero(lungs.any(axis=(1, 2)))
    best, column, before = None, 0.0, np.inf
    for level in AIRWAY_LEVELS:
        labels, _ = ndimage.label(volume < level)
        seed = _trachea(labels, filled)
        if seed is None:
            continue
        airways = labels == seed[0]
        millilitres = float(airways.sum()) * FINE_MM**3 / 1000
        if millilitres > LEAK * before:
            break
        if AIRWAY_ML[0] <= millilitres <= AIRWAY_ML[1]:
            best, column, before = airways, seed[1], millilitres
    if best is None:
        raise UserError("no airways were found: no air of a trachea's shape in the upper part of the lungs")
    return best, column


def _trachea(labels: np.ndarray, filled: np.ndarray) -> tuple[int, float] | None:
    """Label and column of the air that forms a round spot of a trachea's size in most of the upper lungs' slices."""
    # The volume ends at the lungs: what reaches its sides is the room's air, or airways that leaked.
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
    label = max(votes, key=lambda each: len(votes[each]))
    return (label, float(np.median(votes[label]))) if len(votes[label]) >= 0.3 * len(upper) else None


def _hull(lungs: np.ndarray) -> np.ndarray:
    """The lungs with the vessels in them and without their outermost rim, closed by a ball; on every second voxel."""
    radius, rim = HULL_MM / FINE_MM / 2, RIM_MM / FINE_MM / 2
    reach = int(np.ceil(radius)) + 1
    grown = ndimage.distance_transform_edt(~np.pad(lungs[::2, ::2, ::2], reach)) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius + rim
    whole = closed[(slice(reach, -reach),) * 3].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return whole[tuple(slice(0, n) for n in lungs.shape)]


def _rings(volume: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """Lumina of bronchi that are cut across: dark spots within a brighter ring.

    Grey-scale reconstruction, slice by slice (Aykac et al. 2003, doi 10.1109/TMI.2003.815905): what lies
    deeper than everything that leads out of it.
    """
    rings = np.zeros(volume.shape, bool)
    # In steps of 4 HU: bytes sort faster.
    filled = ((np.clip(volume, -1000, -500) + 1000) / 4).astype(np.uint8)
    for z in np.flatnonzero(hull.any(axis=(1, 2))).tolist():
        seed = ndimage.grey_closing(filled[z], footprint=RING_DISC)
        rings[z] = reconstruction(seed, filled[z], method="erosion") - filled[z] > RING_HU / 4
    return rings & hull


def _blood_hu(volume: np.ndarray, hull: np.ndarray) -> float:
    """Attenuation of blood in the wider vessels of the lungs."""
    soft = ndimage.binary_erosion(hull & (volume > VESSEL_HU), iterations=2)
    if soft.sum() < 200:
        raise UserError("no vessels wide enough to measure were found in the lungs")
    blood = float(np.quantile(volume[soft], 0.75))
    if blood < LEAST_BLOOD_HU:
        raise UserError(f"the vessels in the lungs have {blood:.0f} HU: expected at least {LEAST_BLOOD_HU:.0f}, "
                        "a scan with contrast medium")  # fmt: skip
    return blood


def _without_crumbs(mask: np.ndarray, voxels: int) -> np.ndarray:
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return (np.bincount(labels.ravel(), minlength=count + 1) >= voxels)[labels] & mask


def _centre_lines(lumen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skeleton voxels (n, 3) as z, y, x; radius (mm); and the voxel upstream of each (-1 at the widest of a tree)."""
    depth = ndimage.distance_transform_edt(lumen).astype(np.float32)
    points = np.argwhere(skeletonize(lumen))
    radius = depth[tuple(points.T)] * FINE_MM
    pairs = cKDTree(points).query_pairs(1.8, output_type="ndarray")
    # Wide ways are preferred where the skeleton has loops.
    cost = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) / np.minimum(*radius[pairs.T])
    tree = minimum_spanning_tree(coo_matrix((cost, pairs.T), shape=(len(points),) * 2))
    parent = np.full(len(points), -1)
    seen = np.zeros(len(points), bool)
    for root in np.argsort(-radius, kind="stable"):
        if not seen[root]:
            reached, before = breadth_first_order(tree, root, directed=False)
            seen[reached] = True
            parent[reached] = np.where(before[reached] >= 0, before[reached], -1)
    return points, radius, parent


def _depth(parent: np.ndarray) -> np.ndarray:
    """Number of voxels between each and its root."""
    depth, above = np.zeros(len(parent), int), parent.copy()
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parent[above], -1)
    return depth


def _segments(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segment (between branchings) of every voxel, and every segment's parent segment."""
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    segment, up = np.full(len(parent), -1), []
    for i in np.argsort(_depth(parent), kind="stable").tolist():
        above = int(parent[i])
        if above >= 0 and children[above] == 1:
            segment[i] = segment[above]
        else:
            segment[i] = len(up)
            up.append(int(segment[above]) if above >= 0 else -1)
    return segment, np.array(up)


def _median_by(group: np.ndarray, value: np.ndarray, groups: int) -> np.ndarray:
    return np.asarray(ndimage.median(value, group, np.arange(groups)))


def _smoothed(value: np.ndarray, parent: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Values (n, k) averaged with those up- and downstream; skeletons of voxels zigzag."""
    value = value.astype(float)
    has = np.flatnonzero(parent >= 0)
    for _ in range(rounds):
        total, weight = 2 * value, np.full((len(value), 1), 2.0)
        total[has] += value[parent[has]]
        weight[has] += 1
        np.add.at(total, parent[has], value[has])
        np.add.at(weight, parent[has], 1.0)
        value = total / weight
    return value


def _compact(arteries: Arteries) -> Arteries:
    """Renumber segments so that those without a piece are gone (their children hang from the next above)."""
    used = np.unique(arteries.segment)
    number = np.full(len(arteries.parent), -1)
    number[used] = np.arange(len(used))
    parent = []
    for segment in used.tolist():
        above = int(arteries.parent[segment])
        while above >= 0 and number[above] < 0:
            above = int(arteries.parent[above])
        parent.append(int(number[above]) if above >= 0 else -1)
    return Arteries(arteries.tubes, number[arteries.segment], np.array(parent), arteries.region[used])
