"""Clots in the arteries: location, length and kind, chosen so that the exam has its target labels.

An acute clot is central in its artery with a rim of contrast, or fills and widens it; in the trunk it may be a saddle
embolus. A chronic clot is adherent to one wall, or is a web: a band across the lumen. Clots follow the arterial tree
across branchings. The share of positive slices is steered towards the exam's q.
"""

from dataclasses import dataclass, replace

import numpy as np

from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, LEFT, RIGHT
from input.phantom.difficulty import Difficulty
from input.phantom.raster import Tubes, join
from input.phantom.vessel_trees import (
    CENTRAL_REGIONS,
    LEFT_LUNG,
    LEFT_MAIN,
    RIGHT_LUNG,
    RIGHT_MAIN,
    TRUNK,
    Arteries,
)

WEB_TUBES = 5  # parallel tubes that form the band of a web
WEB_THICKNESS = (0.2, 0.3)  # relative to the diameter of the artery
SADDLE_SHARE = 0.4  # share of saddle emboli among acute central clots of exams with clots on both sides
MAX_EXTENSIONS = 80  # further clots that may be added to reach the target share of positive slices
OCCLUSIVE_WIDENING = 1.15  # relative diameter of an occluded artery


@dataclass(frozen=True)
class Clot:
    """One clot: the artery pieces that it follows, and how it fills them."""

    pieces: np.ndarray  # indices of artery pieces, upstream to downstream
    region: int  # region of the piece where it started
    chronic: bool
    occlusive: bool
    ratio: float  # diameter of the clot / diameter of the artery
    offset: np.ndarray  # (3,) unit vector: towards the wall of a chronic clot, or along a web
    hu: float
    web: bool = False  # a band across the lumen; `ratio` is then its relative thickness

    def as_row(self, arteries: Arteries) -> dict[str, float | int | str | bool]:
        """Return the clot's row of the truth table."""
        radius = arteries.tubes.r0[self.pieces]
        kind = "web" if self.web else "chronic" if self.chronic else "occlusive" if self.occlusive else "acute"
        return {
            "kind": kind, "region": self.region, "hu": round(self.hu, 1), "ratio": round(self.ratio, 3),
            "artery_mm": round(float(2 * np.median(radius)), 2), "pieces": len(self.pieces),
        }  # fmt: skip


def clot_tubes(clot: Clot, arteries: Arteries) -> Tubes:
    """Return the clot as tubes: narrower than the artery, tapered at both ends, eccentric when chronic.

    The tubes are in the order of `clot.pieces`, for a web repeated once per tube of the band.
    """
    tubes = arteries.tubes.take(clot.pieces)
    n = len(tubes)
    edges = np.linspace(-1, 1, n + 1)
    taper = np.sqrt(np.clip(1 - (np.abs(edges) * 0.92) ** 4, 0.1, 1))
    aside = clot.offset if clot.chronic else np.zeros(3)
    reach = (1 - clot.ratio) * 1.02
    # A web is several thin parallel tubes from wall to wall.
    shifts = np.linspace(-reach, reach, WEB_TUBES) if clot.web else [reach]
    parallel = [
        Tubes(
            tubes.start + aside * (tubes.r0 * shift)[:, None],
            tubes.end + aside * (tubes.r1 * shift)[:, None],
            tubes.r0 * clot.ratio * taper[:-1],
            tubes.r1 * clot.ratio * taper[1:],
        )
        for shift in shifts
    ]
    return join(parallel)


def widen_arteries(arteries: Arteries, clots: list[Clot]) -> Arteries:
    """Widen the arteries of the lungs where an occlusive clot fills them."""
    r0, r1 = arteries.tubes.r0.copy(), arteries.tubes.r1.copy()
    for clot in clots:
        if clot.occlusive:
            pieces = clot.pieces[arteries.region[arteries.segment[clot.pieces]] >= RIGHT_LUNG]
            r0[pieces] = arteries.tubes.r0[pieces] * OCCLUSIVE_WIDENING
            r1[pieces] = arteries.tubes.r1[pieces] * OCCLUSIVE_WIDENING
    return replace(arteries, tubes=replace(arteries.tubes, r0=r0, r1=r1))


class ClotPlacement:
    """Placement of the clots of one exam.

    Args:
        arteries: the exam's arterial tree.
        z: (n,) slice positions, mm, ascending.
        step: slice thickness, mm.
        difficulty: artery diameters, clot ratios and attenuation.
        rng: the exam's stream for clots.
    """

    def __init__(
        self, arteries: Arteries, z: np.ndarray, step: float, difficulty: Difficulty, rng: np.random.Generator
    ) -> None:
        self.arteries, self.z, self.step, self.difficulty, self.rng = arteries, z, step, difficulty, rng
        tubes = arteries.tubes
        self.middle = (tubes.start + tubes.end) / 2
        self.width = tubes.r0 + tubes.r1
        self.region = arteries.region[arteries.segment]
        self.length = np.linalg.norm(tubes.end - tubes.start, axis=1)
        self.inside = (self.middle[:, 2] > z[0] + 2 * step) & (self.middle[:, 2] < z[-1] - 2 * step)
        self.next, self.previous = _neighbours(arteries)
        self.covered = np.zeros(len(z), bool)
        self.clots: list[Clot] = []

    def place(self, labels: frozenset[str], q: float) -> list[Clot]:
        """Place clots that give the exam its labels and cover about a share of `q` of the slices.

        Args:
            labels: positive exam labels.
            q: target share of positive slices, 0-1.
        """
        target = max(1, round(q * len(self.z)))
        required = self._required(labels)
        mixed = ACUTE_AND_CHRONIC in labels
        chronic = self._chronic_flags(labels, max(len(required), 2 if mixed else 1))
        regions = sorted({region for group in required for region in group})
        if mixed and len(required) == 1:
            required = required * 2
        for i, group in enumerate(required):
            slices = max(1.0, (target - self.covered.sum()) / (len(required) - i))
            if {LEFT_MAIN, RIGHT_MAIN} <= set(group) and not chronic[i] and self.rng.random() < SADDLE_SHARE:
                self._add_saddle(slices)
            else:
                self._add(group, chronic[i], slices, first=True)
        for _ in range(MAX_EXTENSIONS):
            missing = target - int(self.covered.sum())
            if missing <= 0:
                break
            is_chronic = bool(self.rng.random() < 0.5) if mixed else CHRONIC in labels
            self._add(regions, is_chronic, min(missing, max(2.0, target * self.rng.uniform(0.2, 0.7))))
        return self.clots

    def _required(self, labels: frozenset[str]) -> list[list[int]]:
        """Return groups of regions; each group needs at least one clot."""
        groups = []
        if CENTRAL in labels:
            mains = [RIGHT_MAIN] * (RIGHT in labels) + [LEFT_MAIN] * (LEFT in labels)
            groups.append([TRUNK, *mains] if mains else [TRUNK])
        groups += [[RIGHT_LUNG]] * (RIGHT in labels) + [[LEFT_LUNG]] * (LEFT in labels)
        return groups

    def _chronic_flags(self, labels: frozenset[str], count: int) -> list[bool]:
        """Return for every required clot whether it is chronic."""
        if ACUTE_AND_CHRONIC in labels:
            flags = [True, False] + [bool(self.rng.random() < 0.5) for _ in range(count)]
            return [flags[i] for i in self.rng.permutation(2)] + flags[2:]
        return [CHRONIC in labels] * count

    def _add(self, regions: list[int], chronic: bool, slices: float, *, first: bool = False) -> None:
        """Add a clot in one of `regions` that covers about `slices` slices; `first`: not in a small artery."""
        start = self._start(regions, first)
        path = self._path(start, set(regions), slices)
        d, rng = self.difficulty, self.rng
        central = self.region[start] in CENTRAL_REGIONS
        occlusive = not chronic and not central and rng.random() < d.occlusive_share
        ratio = 1.02 if occlusive else float(rng.uniform(0.55, 0.75) if chronic else rng.uniform(*d.clot_ratio))
        if central and not chronic:
            # The trunk is wider than the leg veins where the clot formed.
            ratio *= float(rng.uniform(0.6, 0.85))
        web = bool(chronic and not central and d.web_share and rng.random() < d.web_share)
        if web:
            ratio = float(rng.uniform(*WEB_THICKNESS))
        along = self.arteries.tubes.end[start] - self.arteries.tubes.start[start]
        aside = np.cross(along, rng.normal(size=3))
        aside /= max(float(np.linalg.norm(aside)), 1e-6)
        hu = float(rng.uniform(*(d.chronic_hu if chronic else d.acute_hu)))
        self._keep(Clot(path, int(self.region[start]), chronic, occlusive, ratio, aside, hu, web))

    def _add_saddle(self, slices: float) -> None:
        """Add an acute saddle embolus: a clot on the bifurcation that extends into both main arteries."""
        rng = self.rng
        hu, ratio = float(rng.uniform(*self.difficulty.acute_hu)), float(rng.uniform(0.4, 0.62))
        for region in (RIGHT_MAIN, LEFT_MAIN):
            path = self._path(int(np.flatnonzero(self.region == region)[0]), {region}, slices)
            self._keep(Clot(path, region, False, False, ratio, np.zeros(3), hu))

    def _keep(self, clot: Clot) -> None:
        self.clots.append(clot)
        self.covered |= self._covers(clot.pieces, 1.0 if clot.web else clot.ratio)

    def _covers(self, path: np.ndarray, ratio: float) -> np.ndarray:
        """Return which slices, (n,) bool, a clot along `path` would be visible in."""
        tubes = self.arteries.tubes
        reach = self.width[path] / 2 * ratio * 0.7
        low = np.minimum(tubes.start[path, 2], tubes.end[path, 2]) - reach
        high = np.maximum(tubes.start[path, 2], tubes.end[path, 2]) + reach
        return ((self.z[:, None] + self.step / 2 > low) & (self.z[:, None] - self.step / 2 < high)).any(axis=1)

    def _start(self, regions: list[int], first: bool) -> int:
        """Sample the piece where a clot starts: uniform over z, with a preference for slices without a clot."""
        d = self.difficulty
        small = self.rng.random() < d.small_share and not first
        low, high = (d.small_artery_mm, d.clot_artery_mm[0]) if small else d.clot_artery_mm
        within = np.isin(self.region, regions) & self.inside
        central = np.isin(self.region, CENTRAL_REGIONS)
        allowed = within & (central | ((self.width > low) & (self.width < high)))
        if not allowed.any():
            allowed = within & (self.width >= np.quantile(self.width[within], 0.9))
        index = np.flatnonzero(allowed)
        level = np.floor((self.middle[index, 2] - self.z[0]) / 12.0).astype(int)
        weight = self.length[index] / np.bincount(level, weights=self.length[index])[level]
        nearest = np.clip(np.rint((self.middle[index, 2] - self.z[0]) / self.step).astype(int), 0, len(self.z) - 1)
        weight = weight * np.where(self.covered[nearest], 0.1, 1.0)
        return int(self.rng.choice(index, p=weight / weight.sum()))

    def _path(self, start: int, allowed: set[int], slices: float) -> np.ndarray:
        """Follow the tree downstream and upstream from `start` until about `slices` slices are covered."""
        path = [start]
        longest = self.rng.uniform(25, 70)
        forward, backward = True, True
        while (forward or backward) and self.length[path].sum() < longest:
            if self._covers(np.array(path), 0.8).sum() >= slices and len(path) > 1:
                break
            if forward:
                options = self._downstream(path[-1], allowed)
                forward = bool(options)
                if forward:
                    path.append(options[int(self.rng.integers(len(options)))])
            if backward:
                above = self.previous[path[0]]
                backward = above >= 0 and self.region[above] in allowed and bool(self.inside[above])
                if backward:
                    path.insert(0, above)
        return np.array(path)

    def _downstream(self, piece: int, allowed: set[int]) -> list[int]:
        """Return the next pieces that may contain a clot: in an allowed region, wide enough and on the grid."""
        narrowest = self.difficulty.small_artery_mm
        return [
            i for i in self.next[piece] if self.region[i] in allowed and self.width[i] > narrowest and self.inside[i]
        ]


def _neighbours(arteries: Arteries) -> tuple[list[list[int]], np.ndarray]:
    """Return the pieces downstream of every piece, and the piece upstream (-1 at the trunk)."""
    count = len(arteries.segment)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, segment in enumerate(arteries.segment.tolist()):
        first.setdefault(segment, i)
        last[segment] = i
    previous = np.arange(-1, count - 1)
    for segment, i in first.items():
        above = arteries.parent[segment]
        previous[i] = last[above] if above >= 0 else -1
    following: list[list[int]] = [[] for _ in range(count)]
    for i, above in enumerate(previous.tolist()):
        if above >= 0:
            following[above].append(i)
    return following, previous


def visible_clot_labels(areas: dict[tuple[int, bool], np.ndarray], visible_mm2: float) -> frozenset[str]:
    """Derive the clot labels of an exam from the clots that are visible.

    Args:
        areas: clot area (mm2) in every slice, (n,), by (region, chronic).
        visible_mm2: smallest area of a visible clot.
    """
    visible = {key for key, area in areas.items() if area.max(initial=0) >= visible_mm2}
    regions = {region for region, _ in visible}
    chronic = {is_chronic for _, is_chronic in visible}
    labels = set()
    if regions & set(CENTRAL_REGIONS):
        labels.add(CENTRAL)
    if regions & {LEFT_MAIN, LEFT_LUNG}:
        labels.add(LEFT)
    if regions & {RIGHT_MAIN, RIGHT_LUNG}:
        labels.add(RIGHT)
    if chronic == {True}:
        labels.add(CHRONIC)
    if chronic == {True, False}:
        labels.add(ACUTE_AND_CHRONIC)
    return frozenset(labels)
