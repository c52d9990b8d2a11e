"""Pulmonary arteries and veins: the trunk and hilar vessels, and the trees that fill both lungs.

A tree grows by repeated bisection: the points to be supplied are split in two, a branch runs part of the way towards
the centre of each half, and so on until every point has its own twig (terminal branch). Radii follow a Murray-type
law, r = r_twig * n ** (1 / exponent) for n twigs downstream (Murray 1926; exponents of 2.2-3 are reported for
pulmonary arteries).
"""

from dataclasses import dataclass

import numpy as np

from input.phantom.patient import Patient, jittered, to_patient
from input.phantom.raster import Tubes, join, polyline
from input.phantom.thorax import lung_points

TWIG_MM = 0.85  # radius of a twig when there are TWIGS of them
MURRAY = 2.45  # exponent
TWIGS = 520  # of the arteries, and of the veins, in both lungs

#: Regions of the arterial tree. The main arteries are central and belong to their side.
TRUNK, RIGHT_MAIN, LEFT_MAIN, RIGHT_LUNG, LEFT_LUNG = 1, 2, 3, 4, 5
CENTRAL_REGIONS = (TRUNK, RIGHT_MAIN, LEFT_MAIN)
RIGHT_REGIONS = (RIGHT_MAIN, RIGHT_LUNG)
LEFT_REGIONS = (LEFT_MAIN, LEFT_LUNG)


@dataclass(frozen=True)
class Arteries:
    """The pulmonary arteries: segments (between two bifurcations) that consist of straight pieces."""

    tubes: Tubes  # (pieces,)
    segment: np.ndarray  # (pieces,) segment of each piece; the pieces of a segment are in order
    parent: np.ndarray  # (segments,) segment upstream, -1 at the trunk
    region: np.ndarray  # (segments,) region code


def hilum(patient: Patient) -> dict[str, np.ndarray]:
    """Return the control points of the trunk and the hilar arteries by name, (n, 3) in patient coordinates."""
    lines = {
        "trunk": [(10, -52, -56), (16, -42, -40), (20, -28, -24), (19, -16, -16)],
        "right_main": [(19, -16, -16), (6, -4, -20), (-14, 2, -23), (-32, 5, -24)],
        "left_main": [(19, -16, -16), (28, -6, -10), (37, 6, -7), (43, 14, -9)],
        "right_upper": [(-32, 5, -24), (-42, 4, -12), (-50, 4, 2)],
        "right_inter": [(-32, 5, -24), (-42, 10, -36), (-46, 15, -50)],
        "right_lower": [(-46, 15, -50), (-49, 20, -60), (-52, 26, -68)],
        "right_middle": [(-46, 15, -50), (-53, 2, -56), (-60, -8, -60)],
        "left_upper": [(43, 14, -9), (50, 4, 0), (53, -2, 12)],
        "left_inter": [(43, 14, -9), (48, 21, -24), (50, 24, -38)],
        "left_lower": [(50, 24, -38), (53, 28, -50), (56, 32, -60)],
        "lingula": [(50, 24, -38), (60, 8, -46), (68, -6, -52)],
    }
    joints: dict[tuple[int, int, int], np.ndarray] = {}
    moved = {}
    for name, points in lines.items():
        # Shared end points get the same displacement, so that the tree stays connected.
        moved[name] = np.stack([joints.setdefault(p, jittered(patient, [p], 2.0)[0]) for p in points])
    return moved


LOBES = ("right_upper", "right_middle", "right_lower", "left_upper", "lingula", "left_lower")
#: The first segments of the arteries: trunk, main, interlobar and lobar arteries.
HILAR_ORDER = ("trunk", "right_main", "left_main", "right_inter", "left_inter", *LOBES)
HILAR_SEGMENTS = len(HILAR_ORDER)


def lobe_of(points: np.ndarray) -> np.ndarray:
    """Return the lobe (index into LOBES) of reference points (n, 3); the fissures are planes."""
    x, y, z = points.T
    behind = z < -28 + 0.95 * (y - 5)  # below and behind the oblique fissure
    upper = z > -28
    right = np.where(behind, 2, np.where(upper, 0, 1))
    left = np.where(behind, 5, np.where(upper, 3, 4))
    return np.where(x < 0, right, left)


def twig_radius(twigs: int) -> float:
    """Return the radius of a twig (mm) at which the lobar arteries have the same width for any number of twigs."""
    return TWIG_MM * (TWIGS / twigs) ** (1 / MURRAY)


def build_arteries(
    patient: Patient, rng: np.random.Generator, *, twigs: int = TWIGS, dilation: float = 1.0
) -> Arteries:
    """Build the pulmonary arteries from the trunk to the subsegmental branches of both lungs.

    Args:
        patient: the patient's dimensions.
        rng: the exam's stream for anatomy.
        twigs: number of twigs in both lungs.
        dilation: relative width of the trunk and the main arteries.
    """
    lines = hilum(patient)
    width = patient.vessel
    twig = twig_radius(twigs)
    points = lung_points(patient, twigs, rng)
    lobe = lobe_of(points)
    trunk, right, left = ([13.6, 13.8, 13.5, 12.5], [11, 10, 9.8, 9.2], [11, 10.2, 9.6, 8.8])
    # The dilation decreases towards the hilum.
    fading = np.linspace(dilation, 1 + (dilation - 1) / 2, 4)
    radii = {
        "trunk": np.array(trunk) * dilation, "right_main": right * fading, "left_main": left * fading,
        "right_inter": [7.6, 7.0, 6.4], "left_inter": [7.4, 6.8, 6.2],
    }  # fmt: skip
    parents = {
        "right_main": "trunk", "left_main": "trunk", "right_inter": "right_main", "left_inter": "left_main",
        "right_upper": "right_main", "left_upper": "left_main", "right_middle": "right_inter",
        "right_lower": "right_inter", "lingula": "left_inter", "left_lower": "left_inter",
    }  # fmt: skip
    regions = {"trunk": TRUNK, "right_main": RIGHT_MAIN, "left_main": LEFT_MAIN}
    parts, segment, parent, region = [], [], [], []
    for i, name in enumerate(HILAR_ORDER):
        count = int((lobe == LOBES.index(name)).sum()) if name in LOBES else 0
        size = twig * max(count, 1) ** (1 / MURRAY) if name in LOBES else 0
        tubes = polyline(lines[name], np.array(radii.get(name, [size * 1.15, size * 1.05, size])) * width)
        parts.append(tubes)
        segment.append(np.full(len(tubes), i))
        parent.append(HILAR_ORDER.index(parents[name]) if name in parents else -1)
        region.append(regions.get(name, RIGHT_LUNG if name.startswith("right") else LEFT_LUNG))
    total = HILAR_SEGMENTS
    for name in LOBES:
        supplied = points[lobe == LOBES.index(name)]
        if len(supplied) < 2:
            continue
        line = lines[name]
        targets = to_patient(patient, supplied)
        branches, branch, upstream = grow_tree(line[-1], line[-1] - line[-2], targets, rng, width * twig)
        parts.append(branches)
        segment.append(branch + total)
        parent += [int(p) + total if p >= 0 else HILAR_ORDER.index(name) for p in upstream]
        region += [RIGHT_LUNG if name.startswith("right") else LEFT_LUNG] * len(upstream)
        total += len(upstream)
    return Arteries(join(parts), np.concatenate(segment), np.array(parent), np.array(region))


def grow_tree(
    root: np.ndarray, heading: np.ndarray, targets: np.ndarray, rng: np.random.Generator, twig: float
) -> tuple[Tubes, np.ndarray, np.ndarray]:
    """Grow a tree from one point to many.

    Args:
        root: (3,) mm.
        heading: (3,) direction of the vessel at the root.
        targets: (n, 3) mm, one twig each.
        rng: the exam's stream for anatomy.
        twig: radius of a twig, mm.

    Returns:
        The pieces of all segments, the segment of each piece, and the parent of each segment (-1 at the root).
    """
    points = targets
    group = np.zeros(len(points), int)
    origin, direction = root[None, :].astype(float), heading[None, :] / np.linalg.norm(heading)
    upstream = np.array([-1])
    starts, ends, headings, counts, parents = [], [], [], [], []
    total = 0
    while len(points):
        child, size = _halve(points, group, rng)
        centre = np.stack([np.bincount(child, points[:, i], len(size)) for i in range(3)], axis=1)
        used = np.flatnonzero(size)
        centre, size, source = centre[used] / size[used, None], size[used], used // 2
        share = np.where(size == 1, 1.0, rng.uniform(0.32, 0.5, len(size)))[:, None]
        end = origin[source] + share * (centre - origin[source])
        starts.append(origin[source])
        ends.append(end)
        headings.append(direction[source])
        counts.append(size)
        parents.append(upstream[source])
        renumber = np.zeros(child.max() + 1, int)
        growing = size > 1
        renumber[used] = np.cumsum(growing) - 1
        keep = growing[np.searchsorted(used, child)]
        points, group = points[keep], renumber[child[keep]]
        upstream = (total + np.arange(len(size)))[growing]
        origin = end[growing]
        step = (end - starts[-1])[growing]
        direction = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-6)
        total += len(size)
    radius = twig * np.concatenate(counts) ** (1 / MURRAY)
    tubes, segment = _curve(np.concatenate(starts), np.concatenate(ends), np.concatenate(headings), radius)
    return tubes, segment, np.concatenate(parents)


def _halve(points: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split every group of points at a random quantile along its widest direction.

    Args:
        points: (n, 3) mm.
        group: (n,) group of each point.
        rng: the exam's stream for anatomy.

    Returns:
        The new group of each point (2g or 2g + 1 for group g), and the sizes of the new groups.
    """
    groups = int(group.max()) + 1
    size = np.bincount(group, minlength=groups)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = points @ turn
    mean = np.stack([np.bincount(group, turned[:, i], groups) for i in range(3)], axis=1) / size[:, None]
    spread = np.stack([np.bincount(group, (turned[:, i] - mean[group, i]) ** 2, groups) for i in range(3)], axis=1)
    key = turned[np.arange(len(points)), spread.argmax(axis=1)[group]]
    order = np.lexsort((key, group))
    rank = np.empty(len(points), int)
    rank[order] = np.arange(len(points)) - np.repeat(np.cumsum(size) - size, size)
    cut = np.clip(np.rint(size * rng.uniform(0.3, 0.7, groups)), 1, np.maximum(size - 1, 1))
    child = group * 2 + (rank >= cut[group])
    return child, np.bincount(child, minlength=groups * 2)


def _curve(starts: np.ndarray, ends: np.ndarray, headings: np.ndarray, radius: np.ndarray) -> tuple[Tubes, np.ndarray]:
    """Bend segments (quadratic Bezier) so that they leave along their parent's heading.

    Args:
        starts: (n, 3) mm.
        ends: (n, 3) mm.
        headings: (n, 3) unit vectors.
        radius: (n,) mm.

    Returns:
        Pieces of about 5 mm, and the segment of each piece.
    """
    length = np.linalg.norm(ends - starts, axis=1)
    pieces = np.clip(np.rint(length / 5), 1, 12).astype(int)
    bend = starts + headings * (0.35 * length)[:, None]
    segment = np.repeat(np.arange(len(pieces)), pieces)
    index = np.arange(len(segment)) - np.repeat(np.cumsum(pieces) - pieces, pieces)

    def at(t: np.ndarray) -> np.ndarray:
        t = t[:, None]
        return (1 - t) ** 2 * starts[segment] + 2 * t * (1 - t) * bend[segment] + t**2 * ends[segment]

    t0, t1 = index / pieces[segment], (index + 1) / pieces[segment]
    width = radius[segment]
    return Tubes(at(t0), at(t1), width * (1.05 - 0.1 * t0), width * (1.05 - 0.1 * t1)), segment


def build_veins(patient: Patient, rng: np.random.Generator, *, twigs: int = TWIGS) -> Tubes:
    """Build four pulmonary veins from the left atrium and their trees, independent of the arteries.

    Args:
        patient: the patient's dimensions.
        rng: the exam's stream for anatomy.
        twigs: number of twigs in both lungs.
    """
    # By side (-1 right, 1 left) and height (1 upper, -1 lower).
    ostia = {
        (-1, 1): [(-26, 12, -50), (-40, 2, -44), (-52, -6, -36)],
        (-1, -1): [(-24, 20, -62), (-38, 24, -70), (-50, 26, -80)],
        (1, 1): [(30, 12, -48), (42, 0, -36), (52, -8, -28)],
        (1, -1): [(28, 20, -60), (42, 27, -68), (54, 30, -78)],
    }
    twig = twig_radius(twigs)
    points = lung_points(patient, twigs, rng)
    lobe = lobe_of(points)
    lower = (lobe == 2) | (lobe == 5)
    parts = []
    for (side, height), control_points in ostia.items():
        drained = points[(np.sign(points[:, 0]) == side) & (lower == (height < 0))]
        line = jittered(patient, control_points, 2.0)
        size = twig * max(len(drained), 1) ** (1 / MURRAY) * patient.vessel
        parts.append(polyline(line, [size * 1.25, size * 1.05, size]))
        if len(drained) > 1:
            targets = to_patient(patient, drained)
            parts.append(grow_tree(line[-1], line[-1] - line[-2], targets, rng, patient.vessel * twig)[0])
    return join(parts)
