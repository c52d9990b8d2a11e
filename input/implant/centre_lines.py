"""Centre lines of vessels as a tree of voxels, split into segments between bifurcations."""

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from input.phantom.vessel_trees import Arteries


def centre_lines(lumen: np.ndarray, voxel_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the centre lines of vessels.

    Args:
        lumen: bool (z, y, x), voxels of blood.
        voxel_mm: voxel size.

    Returns:
        Skeleton voxels (n, 3) as z, y, x; their radius (n,) in mm; and the voxel upstream of each, -1 at the root,
        which is the widest voxel of a tree.
    """
    depth = ndimage.distance_transform_edt(lumen).astype(np.float32)
    points = np.argwhere(skeletonize(lumen))
    radius = depth[tuple(points.T)] * voxel_mm
    pairs = cKDTree(points).query_pairs(1.8, output_type="ndarray")
    # Prefer wide paths where the skeleton has loops.
    cost = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) / np.minimum(*radius[pairs.T])
    tree = minimum_spanning_tree(coo_matrix((cost, pairs.T), shape=(len(points),) * 2))
    parent = np.full(len(points), -1)
    visited = np.zeros(len(points), bool)
    for root in np.argsort(-radius, kind="stable"):
        if not visited[root]:
            reached, predecessor = breadth_first_order(tree, root, directed=False)
            visited[reached] = True
            parent[reached] = np.where(predecessor[reached] >= 0, predecessor[reached], -1)
    return points, radius, parent


def depth_from_root(parent: np.ndarray) -> np.ndarray:
    """Return the number of steps from every voxel to its root."""
    depth, above = np.zeros(len(parent), int), parent.copy()
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parent[above], -1)
    return depth


def split_segments(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the segment (between bifurcations) of every voxel, and the parent of every segment (-1 at a root)."""
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    segment = np.full(len(parent), -1)
    upstream: list[int] = []
    for i in np.argsort(depth_from_root(parent), kind="stable").tolist():
        above = int(parent[i])
        if above >= 0 and children[above] == 1:
            segment[i] = segment[above]
        else:
            segment[i] = len(upstream)
            upstream.append(int(segment[above]) if above >= 0 else -1)
    return segment, np.array(upstream)


def median_by(group: np.ndarray, value: np.ndarray, groups: int) -> np.ndarray:
    """Return the median of `value` (n,) in each of the groups 0 .. groups - 1 of `group` (n,)."""
    return np.asarray(ndimage.median(value, group, np.arange(groups)))


def smoothed(value: np.ndarray, parent: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Average values with those upstream and downstream, because voxel skeletons zigzag.

    Args:
        value: (n, k).
        parent: (n,) voxel upstream, -1 at a root.
        rounds: number of repetitions.
    """
    value = value.astype(float)
    child = np.flatnonzero(parent >= 0)
    for _ in range(rounds):
        total, weight = 2 * value, np.full((len(value), 1), 2.0)
        total[child] += value[parent[child]]
        weight[child] += 1
        np.add.at(total, parent[child], value[child])
        np.add.at(weight, parent[child], 1.0)
        value = total / weight
    return value


def without_empty_segments(arteries: Arteries) -> Arteries:
    """Drop segments without pieces and renumber the others; children of a dropped segment get its parent."""
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
