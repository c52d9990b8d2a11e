"""Great vessels, airways, and the artery and vein trees that fill both lungs.

A lung's tree grows by repeated halving: the points to be supplied are split in two, a branch runs
part of the way towards each half's centre, and so on until every point has its own twig. Widths
follow a Murray-type law, r = r_twig * n ** (1 / exponent) for n twigs downstream (Murray 1926;
exponents of 2.2-3 are reported for pulmonary arteries).
"""

from dataclasses import dataclass

import numpy as np

from input.phantom.patient import Patient, jittered, place
from input.phantom.raster import Tubes, join, polyline
from input.phantom.thorax import lung_points

TWIG_MM = 0.85
MURRAY = 2.45
TWIGS = 520  # of one kind of vessel in both lungs

#: Regions of the arterial tree. Central is the trunk or a main artery; the mains belong to their side too.
TRUNK, RIGHT_MAIN, LEFT_MAIN, RIGHT_LUNG, LEFT_LUNG = 1, 2, 3, 4, 5
CENTRAL_REGIONS = (TRUNK, RIGHT_MAIN, LEFT_MAIN)
RIGHT_REGIONS = (RIGHT_MAIN, RIGHT_LUNG)
LEFT_REGIONS = (LEFT_MAIN, LEFT_LUNG)


@dataclass(frozen=True)
class Arteries:
    """The pulmonary arteries as pieces of vessel segments (between two branchings)."""

    tubes: Tubes  # (n pieces)
    segment: np.ndarray  # (n,) the segment of each piece; a segment's pieces lie in order
    parent: np.ndarray  # (segments,) index of the segment upstream, -1 at the trunk
    region: np.ndarray  # (segments,)


def hilum(patient: Patient) -> dict[str, np.ndarray]:
    """Where the large pulmonary vessels run, reference mm moved to the patient: name -> (n, 3)."""
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
    joints: dict[tuple, np.ndarray] = {}
    moved = {}
    for name, points in lines.items():
        # Shared end points move together, so that the tree stays connected.
        moved[name] = np.stack([joints.setdefault(p, jittered(patient, [p], 2.0)[0]) for p in points])
    return moved


LOBES = ("right_upper", "right_middle", "right_lower", "left_upper", "lingula", "left_lower")


def lobe_of(points: np.ndarray) -> np.ndarray:
    """Which lobe (index into LOBES) a reference point lies in: fissures as planes."""
    x, y, z = points.T
    behind = z < -28 + 0.95 * (y - 5)  # below and behind the oblique fissure
    upper = z > -28
    right = np.where(behind, 2, np.where(upper, 0, 1))
    left = np.where(behind, 5, np.where(upper, 3, 4))
    return np.where(x < 0, right, left)


def twig_radius(twigs: int) -> float:
    """Radius (mm) of a twig, so that a lobe's artery is as wide whatever the number of twigs in both lungs."""
    return TWIG_MM * (TWIGS / twigs) ** (1 / MURRAY)


def draw_arteries(patient: Patient, rng: np.random.Generator, *, twigs: int = TWIGS, dilation: float = 1.0) -> Arteries:
    """Trunk, main, lobar, segmental and subsegmental arteries of both lungs.

    Args:
        patient: sizes and shapes.
        rng: the exam's stream for anatomy.
        twigs: last branches in both lungs.
        dilation: width of the trunk and the main arteries over their usual one.
    """
    lines = hilum(patient)
    width = patient.vessel
    twig = twig_radius(twigs)
    points = lung_points(patient, twigs, rng)
    lobe = lobe_of(points)
    trunk, right, left = ([13.6, 13.8, 13.5, 12.5], [11, 10, 9.8, 9.2], [11, 10.2, 9.6, 8.8])
    # The widening fades towards the hilum.
    fading = np.linspace(dilation, 1 + (dilation - 1) / 2, 4)
    radii = {
        "trunk": np.array(trunk) * dilation, "right_main": right * fading, "left_main": left * fading,
        "right_inter": [7.6, 7.0, 6.4], "left_inter": [7.4, 6.8, 6.2],
    }  # fmt: skip
    order = ("trunk", "right_main", "left_main", "right_inter", "left_inter", *LOBES)
    parents = {
        "right_main": "trunk", "left_main": "trunk", "right_inter": "right_main", "left_inter": "left_main",
        "right_upper": "right_main", "left_upper": "left_main", "right_middle": "right_inter",
        "right_lower": "right_inter", "lingula": "left_inter", "left_lower": "left_inter",
    }  # fmt: skip
    regions = {"trunk": TRUNK, "right_main": RIGHT_MAIN, "left_main": LEFT_MAIN}
    parts, segment, parent, region = [], [], [], []
    for i, name in enumerate(order):
        count = int((lobe == LOBES.index(name)).sum()) if name in LOBES else 0
        size = twig * max(count, 1) ** (1 / MURRAY) if name in LOBES else 0
        tubes = polyline(lines[name], np.array(radii.get(name, [size * 1.15, size * 1.05, size])) * width)
        parts.append(tubes)
        segment.append(np.full(len(tubes), i))
        parent.append(order.index(parents[name]) if name in parents else -1)
        region.append(regions.get(name, RIGHT_LUNG if name.startswith("right") else LEFT_LUNG))
    total = len(order)
    for name in LOBES:
        own = points[lobe == LOBES.index(name)]
        if len(own) < 2:
            continue
        line = lines[name]
        branches, branch, up = grow_tree(line[-1], line[-1] - line[-2], place(patient, own), rng, width * twig)
        parts.append(branches)
        segment.append(branch + total)
        parent += [int(p) + total if p >= 0 else order.index(name) for p in up]
        region += [RIGHT_LUNG if name.startswith("right") else LEFT_LUNG] * len(up)
        total += len(up)
    return Arteries(join(parts), np.concatenate(segment), np.array(parent), np.array(region))


def grow_tree(
    root: np.ndarray, heading: np.ndarray, targets: np.ndarray, rng: np.random.Generator, twig: float
) -> tuple[Tubes, np.ndarray, np.ndarray]:
    """Grow a tree from `root` (3,) to all `targets` (n, 3), mm; `twig` is the radius of a last branch.

    Returns:
        the pieces of all segments, each piece's segment, and each segment's parent (-1 at the root).
    """
    points = targets
    group = np.zeros(len(points), int)
    origin, direction = root[None, :].astype(float), heading[None, :] / np.linalg.norm(heading)
    above = np.array([-1])
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
        parents.append(above[source])
        renumber = np.zeros(child.max() + 1, int)
        growing = size > 1
        renumber[used] = np.cumsum(growing) - 1
        keep = growing[np.searchsorted(used, child)]
        points, group = points[keep], renumber[child[keep]]
        above = (total + np.arange(len(size)))[growing]
        origin = end[growing]
        step = (end - starts[-1])[growing]
        direction = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-6)
        total += len(size)
    radius = twig * np.concatenate(counts) ** (1 / MURRAY)
    tubes, segment = _curve(np.concatenate(starts), np.concatenate(ends), np.concatenate(headings), radius)
    return tubes, segment, np.concatenate(parents)


def _halve(points: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split every group at a random quantile of its widest direction: child numbers 2g, 2g+1 and their sizes."""
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
    """Segments that leave along their parent's heading, as pieces of about 5 mm (quadratic Bezier)."""
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


def draw_veins(patient: Patient, rng: np.random.Generator, *, twigs: int = TWIGS) -> Tubes:
    """Four pulmonary veins from the left atrium and their trees, apart from the arteries'."""
    mouths = {
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
    for (side, height), line in mouths.items():
        own = points[(np.sign(points[:, 0]) == side) & (lower == (height < 0))]
        line = jittered(patient, line, 2.0)
        size = twig * max(len(own), 1) ** (1 / MURRAY) * patient.vessel
        parts.append(polyline(line, [size * 1.25, size * 1.05, size]))
        if len(own) > 1:
            parts.append(grow_tree(line[-1], line[-1] - line[-2], place(patient, own), rng, patient.vessel * twig)[0])
    return join(parts)


def draw_great_vessels(patient: Patient) -> dict[str, Tubes]:
    """Aorta with its arch and branches, superior and inferior vena cava, azygos vein."""

    def line(points: list, radii: list | float) -> Tubes:
        return polyline(jittered(patient, points, 1.5), np.asarray(radii) * patient.vessel)

    aorta = line(
        [(2, -20, -62), (-8, -30, -44), (-17, -32, -20), (-18, -30, 8), (-11, -22, 28), (4, -8, 38), (18, 10, 36),
         (26, 28, 24), (27, 38, 4), (25, 41, -40), (22, 42, -90), (16, 42, -150), (8, 40, -220)],
        [15, 16.5, 16, 15.5, 15, 14, 13.5, 13, 12.5, 12, 11.5, 11, 10],
    )  # fmt: skip
    branches = [
        line([(-8, -18, 34), (-14, -14, 60), (-20, -10, 100)], [6.5, 6, 5]),
        line([(4, -8, 40), (6, -6, 65), (10, -4, 105)], [4.5, 4, 3.5]),
        line([(16, 6, 40), (22, 8, 62), (32, 6, 100)], [5.5, 5, 4.5]),
    ]
    cava = line(
        [(-33, -10, -64), (-33, -14, -40), (-31, -18, -10), (-30, -22, 20), (-29, -26, 48)], [10.5, 10, 9.5, 9, 8.5]
    )
    brachiocephalic = [
        line([(-29, -26, 48), (-32, -26, 70), (-44, -20, 100)], [8, 7, 6.5]),
        line([(-29, -26, 46), (-6, -38, 52), (16, -38, 60), (36, -28, 84)], [6.5, 6.5, 6.5, 6]),
    ]
    lower_cava = line([(-32, -6, -88), (-30, 6, -108), (-27, 14, -150), (-24, 20, -220)], [12, 12, 11.5, 11])
    azygos = line(
        [(-31, -14, 2), (-30, 4, 6), (-18, 28, 2), (-10, 40, -20), (-8, 42, -90), (-6, 42, -200)],
        [4, 4, 3.6, 3.2, 3, 3],
    )
    oesophagus = line([(4, 22, 110), (6, 28, 40), (5, 31, 0), (6, 36, -40), (9, 36, -90), (16, 30, -140)], 7.0)
    return {
        "oesophagus": oesophagus,
        "aorta": join([aorta, *branches]),
        "cava": cava,
        "brachiocephalic": join(brachiocephalic),
        "lower_cava": lower_cava,
        "azygos": azygos,
    }


def draw_airways(patient: Patient, arteries: Arteries) -> Tubes:
    """Trachea, bronchi, and a bronchus beside every artery wider than 4 mm; lumina."""

    def line(points: list, radii: list | float) -> Tubes:
        return polyline(jittered(patient, points, 1.2), np.asarray(radii))

    main = [
        line([(1, 12, 120), (1, 14, 60), (0, 17, 6)], [8.5, 8.5, 8.8]),
        line([(0, 17, 6), (-10, 19, -6), (-24, 20, -16)], [7.8, 7.2, 6.6]),
        line([(-24, 20, -16), (-34, 20, -10), (-46, 15, 0)], [5, 4.6, 4]),
        line([(-24, 20, -16), (-32, 22, -34), (-40, 24, -54), (-44, 28, -70)], [5.8, 5.2, 4.5, 3.6]),
        line([(0, 17, 6), (14, 21, -8), (30, 23, -20), (38, 22, -26)], [7.4, 6.6, 6, 5.4]),
        line([(38, 22, -26), (48, 14, -20), (54, 6, -8)], [4.6, 4, 3.4]),
        line([(38, 22, -26), (43, 29, -40), (46, 34, -56)], [5, 4.4, 3.6]),
    ]
    tubes = arteries.tubes
    peripheral = (arteries.region[arteries.segment] >= RIGHT_LUNG) & (tubes.r0 > 1.9) & (tubes.r0 < 5)
    chosen = tubes.take(peripheral & (arteries.segment >= 11))
    # The bronchus runs on the artery's inner, rear side, touching it.
    aside = np.cross(chosen.end - chosen.start, [0.25, 0.15, 1.0])
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-6)
    offset = aside * (chosen.r0 * 1.7 + 0.6)[:, None]
    beside = Tubes(chosen.start + offset, chosen.end + offset, chosen.r0 * 0.72, chosen.r1 * 0.72)
    return join([*main, beside])
