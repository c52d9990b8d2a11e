"""Clots in the arteries: where, how long, acute or chronic, so that an exam's labels come true.

An acute clot lies in the middle of its artery with a rim of contrast, or fills and widens it; in the
trunk it may ride on the bifurcation. A chronic clot clings to one wall, or is a web: a band across the
lumen. Clots follow the arterial tree across branchings. The share of positive slices is steered to the exam's drawn q.
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

WEB_TUBES = 5  # that make a web's band
WEB_THICKNESS = (0.2, 0.3)  # over the artery's diameter
SADDLE_SHARE = 0.4  # of acute central clots in exams with clots on both sides


@dataclass(frozen=True)
class Clot:
    """One clot: the artery pieces it follows and how it fills them."""

    pieces: np.ndarray  # indices of artery pieces, upstream to downstream
    region: int  # of the piece it started from
    chronic: bool
    occlusive: bool
    ratio: float  # clot over artery diameter
    offset: np.ndarray  # (3,) unit vector: towards the wall a chronic clot clings to, or along a web
    hu: float
    web: bool = False  # a band across the lumen; `ratio` is then its thickness over the artery's diameter

    def as_row(self, arteries: Arteries) -> dict[str, float | int | str | bool]:
        """Facts of the clot for the truth table."""
        radius = arteries.tubes.r0[self.pieces]
        kind = "web" if self.web else "chronic" if self.chronic else "occlusive" if self.occlusive else "acute"
        return {
            "kind": kind, "region": self.region, "hu": round(self.hu, 1), "ratio": round(self.ratio, 3),
            "artery_mm": round(float(2 * np.median(radius)), 2), "pieces": len(self.pieces),
        }  # fmt: skip


def clot_tubes(clot: Clot, arteries: Arteries) -> Tubes:
    """The clot as tubes, its pieces in order (a web's once for every tube of it).

    Narrower than the artery, tapering at both ends, beside the axis when chronic.
    """
    tubes = arteries.tubes.take(clot.pieces)
    n = len(tubes)
    edges = np.linspace(-1, 1, n + 1)
    taper = np.sqrt(np.clip(1 - (np.abs(edges) * 0.92) ** 4, 0.1, 1))
    aside = np.zeros(3)
    if clot.chronic:
        aside = clot.offset
    reach = (1 - clot.ratio) * 1.02
    # A web is several thin tubes side by side, from wall to wall.
    shifts = np.linspace(-reach, reach, WEB_TUBES) if clot.web else [reach]
    beside = [
        Tubes(
            tubes.start + aside * (tubes.r0 * shift)[:, None],
            tubes.end + aside * (tubes.r1 * shift)[:, None],
            tubes.r0 * clot.ratio * taper[:-1],
            tubes.r1 * clot.ratio * taper[1:],
        )
        for shift in shifts
    ]
    return join(beside)


def widened(arteries: Arteries, clots: list[Clot]) -> Arteries:
    """The arteries, wider where a clot fills them."""
    r0, r1 = arteries.tubes.r0.copy(), arteries.tubes.r1.copy()
    for clot in clots:
        if clot.occlusive:
            pieces = clot.pieces[arteries.region[arteries.segment[clot.pieces]] >= RIGHT_LUNG]
            r0[pieces] = arteries.tubes.r0[pieces] * 1.15
            r1[pieces] = arteries.tubes.r1[pieces] * 1.15
    return replace(arteries, tubes=replace(arteries.tubes, r0=r0, r1=r1))


class Placement:
    """Places the clots of one exam.

    Args:
        arteries: the exam's arterial tree.
        z: (n,) slice positions, mm.
        step: slice thickness, mm.
        difficulty: widths, ratios and attenuations.
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

    def place(self, on: frozenset[str], q: float) -> list[Clot]:
        """Clots that make the labels `on` true and cover about the share `q` of the slices."""
        wanted = max(1, round(q * len(self.z)))
        required = self._required(on)
        kinds = self._kinds(on, max(len(required), 2 if ACUTE_AND_CHRONIC in on else 1))
        regions = sorted({region for group in required for region in group})
        if ACUTE_AND_CHRONIC in on and len(required) == 1:
            required = required * 2
        for i, group in enumerate(required):
            left = max(1.0, (wanted - self.covered.sum()) / (len(required) - i))
            if {LEFT_MAIN, RIGHT_MAIN} <= set(group) and not kinds[i] and self.rng.random() < SADDLE_SHARE:
                self._add_saddle(left)
            else:
                self._add(group, kinds[i], left, first=True)
        for _ in range(80):
            left = wanted - int(self.covered.sum())
            if left <= 0:
                break
            kind = bool(self.rng.random() < 0.5) if ACUTE_AND_CHRONIC in on else CHRONIC in on
            self._add(regions, kind, min(left, max(2.0, wanted * self.rng.uniform(0.2, 0.7))))
        return self.clots

    def _required(self, on: frozenset[str]) -> list[list[int]]:
        """Groups of regions, each of which must hold a clot."""
        groups = []
        if CENTRAL in on:
            mains = [RIGHT_MAIN] * (RIGHT in on) + [LEFT_MAIN] * (LEFT in on)
            groups.append([TRUNK, *mains] if mains else [TRUNK])
        groups += [[RIGHT_LUNG]] * (RIGHT in on) + [[LEFT_LUNG]] * (LEFT in on)
        return groups

    def _kinds(self, on: frozenset[str], count: int) -> list[bool]:
        """Chronic or not, for every required clot."""
        if ACUTE_AND_CHRONIC in on:
            kinds = [True, False] + [bool(self.rng.random() < 0.5) for _ in range(count)]
            return [kinds[i] for i in self.rng.permutation(2)] + kinds[2:]
        return [CHRONIC in on] * count

    def _add(self, regions: list[int], chronic: bool, slices: float, *, first: bool = False) -> None:
        start = self._start(regions, first)
        path = self._path(start, set(regions), slices)
        d, rng = self.difficulty, self.rng
        central = self.region[start] in CENTRAL_REGIONS
        occlusive = not chronic and not central and rng.random() < d.occlusive_share
        ratio = 1.02 if occlusive else float(rng.uniform(0.55, 0.75) if chronic else rng.uniform(*d.clot_ratio))
        if central and not chronic:
            # The trunk is wider than the leg veins where the clot was cast.
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
        """An acute clot that rides on the bifurcation: one worm into either main artery."""
        rng = self.rng
        hu, ratio = float(rng.uniform(*self.difficulty.acute_hu)), float(rng.uniform(0.4, 0.62))
        for region in (RIGHT_MAIN, LEFT_MAIN):
            path = self._path(int(np.flatnonzero(self.region == region)[0]), {region}, slices)
            self._keep(Clot(path, region, False, False, ratio, np.zeros(3), hu))

    def _keep(self, clot: Clot) -> None:
        self.clots.append(clot)
        self.covered |= self._covers(clot.pieces, 1.0 if clot.web else clot.ratio)

    def _covers(self, path: np.ndarray, ratio: float) -> np.ndarray:
        """Which slices a clot along `path` would show in."""
        tubes = self.arteries.tubes
        reach = self.width[path] / 2 * ratio * 0.7
        low = np.minimum(tubes.start[path, 2], tubes.end[path, 2]) - reach
        high = np.maximum(tubes.start[path, 2], tubes.end[path, 2]) + reach
        return ((self.z[:, None] + self.step / 2 > low) & (self.z[:, None] - self.step / 2 < high)).any(axis=1)

    def _start(self, regions: list[int], first: bool) -> int:
        """A piece to start from: evenly spread over z, and where no clot is yet when extending."""
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
        """Follow the tree down- and upstream from `start` until about `slices` slices are covered."""
        path = [start]
        longest = self.rng.uniform(25, 70)
        forward, backward = True, True
        while (forward or backward) and self.length[path].sum() < longest:
            if self._covers(np.array(path), 0.8).sum() >= slices and len(path) > 1:
                break
            if forward:
                options = [
                    p
                    for p in self.next[path[-1]]
                    if self.region[p] in allowed and self.width[p] > self.difficulty.small_artery_mm and self.inside[p]
                ]
                forward = bool(options)
                if forward:
                    path.append(options[int(self.rng.integers(len(options)))])
            if backward:
                above = self.previous[path[0]]
                backward = above >= 0 and self.region[above] in allowed and bool(self.inside[above])
                if backward:
                    path.insert(0, above)
        return np.array(path)


def _neighbours(arteries: Arteries) -> tuple[list[list[int]], np.ndarray]:
    """Pieces downstream of every piece, and the piece upstream (-1 at the trunk)."""
    count = len(arteries.segment)
    first, last = {}, {}
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


def drawn_labels(areas: dict[tuple[int, bool], np.ndarray], visible_mm2: float) -> frozenset[str]:
    """The clot labels that a drawn exam really shows.

    Args:
        areas: clot area (mm2) in every slice, (n,), by (region, chronic).
        visible_mm2: area from which a clot counts.
    """
    seen = {key for key, area in areas.items() if area.max(initial=0) >= visible_mm2}
    regions = {region for region, _ in seen}
    kinds = {chronic for _, chronic in seen}
    on = set()
    if regions & set(CENTRAL_REGIONS):
        on.add(CENTRAL)
    if regions & {LEFT_MAIN, LEFT_LUNG}:
        on.add(LEFT)
    if regions & {RIGHT_MAIN, RIGHT_LUNG}:
        on.add(RIGHT)
    if kinds == {True}:
        on.add(CHRONIC)
    if kinds == {True, False}:
        on.add(ACUTE_AND_CHRONIC)
    return frozenset(on)
