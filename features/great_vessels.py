"""Pulmonary trunk, ascending aorta and left atrium: widths and how bright their blood is, from HU and geometry.

In axial slices above the heart the ascending aorta is a disc right of the patient's middle and the trunk a disc
or oval to its left and front. Discs are the largest circles that fit into contrast-filled blood; they are followed
from slice to slice. Widths are short axes: the narrowest diameter through the disc's centre, between the places
where HU falls half way to soft tissue.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from features.chest_grid import Chest
from features.measured_line import Line

TRUNK_ZONE = (0.42, 0.74)  # relative z of slices that may show trunk and ascending aorta
ABOVE_HEART = 0.04  # where the heart's top is known, the search begins so far above it
FRONT_DEPTH, BACK_DEPTH = 0.05, 0.66  # rows of both, as shares of the lungs' depth
RADIUS_MM = (7.0, 26.0)
AORTA_MM, TRUNK_MM = (-48.0, 14.0), (-6.0, 55.0)  # from the patient's middle, positive to the left
BETWEEN_MM, BEHIND_MM = (15.0, 58.0), 30.0  # trunk's centre beside the aorta's, and at most so far behind it
DRIFT_MM = (12.0, 26.0)  # shift of aorta and trunk from one grid plane to the next; the trunk bends and divides
LEVEL_MM = (8.0, 28.0)  # below the trunk's top: where its width is read
ATRIUM_MM, ATRIUM_DEPTH = 24.0, (0.42, 0.7)
ATRIUM_BELOW_MM = (12.0, 60.0)
TISSUE_HU = 50.0
DENSE_HU = 700.0  # undiluted contrast: the upper vena cava beside the aorta, not the aorta
RAYS = 48  # directions in which a wall is looked for


@dataclass(frozen=True)
class Vessels:
    """What was found of one exam's great vessels; None or NaN where it was not."""

    trunk_mm: float
    aorta_mm: float
    trunk: Line | None
    aorta: Line | None
    artery_hu: float
    atrium_hu: float
    aorta_hu: float


@dataclass(frozen=True)
class _Disc:
    """A circle of blood in one grid plane, in grid pixels."""

    plane: int
    y: float
    x: float
    radius: float


def find_vessels(chest: Chest, threshold: float, heart_top: float = np.nan) -> Vessels:
    """Find trunk, ascending aorta and left atrium.

    Args:
        chest: the coarse grid.
        threshold: HU between soft tissue and blood with contrast.
        heart_top: the highest stored plane that shows both ventricles, where known; what is searched lies above.
    """
    bottom = TRUNK_ZONE[0]
    if np.isfinite(heart_top):
        bottom = np.interp(heart_top, chest.planes, chest.relative_z) + ABOVE_HEART
    planes = np.flatnonzero((chest.relative_z > bottom) & (chest.relative_z <= TRUNK_ZONE[1]))
    pairs = _longest_track([_pair(chest, int(plane), threshold) for plane in planes], chest)
    if not pairs:
        return Vessels(np.nan, np.nan, None, None, np.nan, np.nan, np.nan)
    top = pairs[-1][0].plane * chest.step_mm
    level = [pair for pair in pairs if LEVEL_MM[0] <= top - pair[0].plane * chest.step_mm <= LEVEL_MM[1]] or pairs
    aorta_mm, aorta = _short_axis(chest, [pair[0] for pair in level])
    trunk_mm, trunk = _short_axis(chest, [pair[1] for pair in level])
    return Vessels(
        trunk_mm, aorta_mm, trunk, aorta, _level(chest, [pair[1] for pair in level], threshold),
        _atrium_hu(chest, level[0][0].plane, threshold), _level(chest, [pair[0] for pair in level], threshold),
    )  # fmt: skip


def _discs(chest: Chest, plane: int, threshold: float, rows: tuple[float, float], half_width_mm: float) -> list[_Disc]:
    """The largest circles in a plane's blood, largest first, at most five."""
    region = (chest.depth > rows[0])[:, None] & (chest.depth < rows[1])[:, None]
    region = region & (np.abs(chest.offset_mm) < half_width_mm)[None]
    blood = ((chest.hu[plane] > threshold) & (chest.hu[plane] < DENSE_HU) & chest.inside[plane]).view(np.uint8)
    outlines, _ = cv2.findContours(blood, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    blood = cv2.drawContours(blood, outlines, -1, 1, cv2.FILLED)  # a clot inside a vessel is no hole
    distance = cv2.distanceTransform(blood * region, cv2.DIST_L2, 5)
    low, high = (radius / chest.pixel_mm for radius in RADIUS_MM)
    y, x = np.arange(distance.shape[0])[:, None], np.arange(distance.shape[1])[None]
    found = []
    for _ in range(5):
        place = np.unravel_index(distance.argmax(), distance.shape)
        radius = float(distance[place])
        if radius < low:
            break
        if radius <= high:
            found.append(_Disc(plane, float(place[0]), float(place[1]), radius))
        distance = np.where((y - place[0]) ** 2 + (x - place[1]) ** 2 < (1.25 * radius) ** 2, 0, distance)
    return found


def _pair(chest: Chest, plane: int, threshold: float) -> tuple[_Disc, _Disc] | None:
    """Aorta and trunk of one plane: the two discs that lie to each other as these do, largest together."""
    discs = _discs(chest, plane, threshold, (FRONT_DEPTH, BACK_DEPTH), 62.0)
    best, most = None, 0.0
    for aorta in discs:
        for trunk in discs:
            beside = (trunk.x - aorta.x) * chest.pixel_mm
            behind = (trunk.y - aorta.y) * chest.pixel_mm
            fits = (
                AORTA_MM[0] < _offset(chest, aorta) < AORTA_MM[1]
                and TRUNK_MM[0] < _offset(chest, trunk) < TRUNK_MM[1]
                and BETWEEN_MM[0] < beside < BETWEEN_MM[1] and abs(behind) < BEHIND_MM
            )  # fmt: skip
            if fits and aorta.radius + trunk.radius > most:
                best, most = (aorta, trunk), aorta.radius + trunk.radius
    return best


def _offset(chest: Chest, disc: _Disc) -> float:
    return float(chest.offset_mm[0] + disc.x * chest.pixel_mm)


def _longest_track(pairs: list[tuple[_Disc, _Disc] | None], chest: Chest) -> list[tuple[_Disc, _Disc]]:
    """The longest run of planes, feet to head, in which both discs move on smoothly."""
    best, run = [], []
    for pair in [*pairs, None]:
        if pair and run and _follows(run[-1], pair, chest):
            run.append(pair)
        else:
            best = run if len(run) > len(best) else best
            run = [pair] if pair else []
    return best if len(best) * chest.step_mm >= 10 else []


def _follows(before: tuple[_Disc, _Disc], after: tuple[_Disc, _Disc], chest: Chest) -> bool:
    shifts = [np.hypot(a.y - b.y, a.x - b.x) * chest.pixel_mm for a, b in zip(before, after, strict=True)]
    return all(shift < limit for shift, limit in zip(shifts, DRIFT_MM, strict=True))


def _short_axis(chest: Chest, discs: list[_Disc]) -> tuple[float, Line | None]:
    """Median over planes of the narrowest diameter (mm), and the line of the plane that shows the median."""
    measured = [(width, line) for width, line in (_narrowest(chest, disc) for disc in discs) if np.isfinite(width)]
    if not measured:
        return np.nan, None
    measured.sort(key=lambda each: each[0])
    width, line = measured[(len(measured) - 1) // 2]
    return width, line


def _narrowest(chest: Chest, disc: _Disc) -> tuple[float, Line | None]:
    """The narrowest diameter through a disc's centre, mm, between places of half contrast."""
    plane = chest.hu[disc.plane]
    samples = np.arange(0, 1.9 * disc.radius, 0.25)
    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    y = disc.y + np.multiply.outer(np.sin(angle), samples)
    x = disc.x + np.multiply.outer(np.cos(angle), samples)
    hu = cv2.remap(plane, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderValue=-1000)
    # Of a vessel full of clot only the rim is bright; a clot in the middle is no wall.
    half = (np.percentile(hu[:, samples < 0.9 * disc.radius], 80) + TISSUE_HU) / 2
    below = hu < half
    below[:, samples < 0.75 * disc.radius] = False
    reach = np.where(below.any(axis=1), samples[below.argmax(axis=1)], np.nan)
    reach = np.where(np.isnan(reach), np.inf, reach)  # no wall in sight: another vessel touches
    steady = (np.roll(reach, 1) + reach + np.roll(reach, -1)) / 3
    across = steady[: RAYS // 2] + steady[RAYS // 2 :]
    ray = int(across.argmin())
    ends = (steady[ray], steady[ray + RAYS // 2])
    if not np.isfinite(sum(ends)):
        return np.nan, None
    step = np.array([np.sin(angle[ray]), np.cos(angle[ray])])
    places = [
        chest.stored(np.array([disc.y, disc.x]) + sign * end * step) for sign, end in zip((1, -1), ends, strict=True)
    ]
    line = Line(float(chest.planes[disc.plane]), *map(float, np.concatenate(places)))
    return float(sum(ends) * chest.pixel_mm), line


def _level(chest: Chest, discs: list[_Disc], threshold: float) -> float:
    """Median HU of the blood within discs, clots left out; NaN without discs."""
    values = []
    for disc in discs:
        reach = int(disc.radius * 0.6)
        rows = slice(max(int(disc.y) - reach, 0), int(disc.y) + reach + 1)
        part = chest.hu[disc.plane, rows, max(int(disc.x) - reach, 0) : int(disc.x) + reach + 1]
        values.append(part[part > threshold])
    values = np.concatenate(values) if values else np.zeros(0)
    return float(np.median(values)) if len(values) else np.nan


def _atrium_hu(chest: Chest, level: int, threshold: float) -> float:
    """Median HU of the left atrium: the disc in the middle, below the trunk, in front of the spine."""
    below = (level - np.arange(len(chest.hu))) * chest.step_mm
    planes = np.flatnonzero((below >= ATRIUM_BELOW_MM[0]) & (below <= ATRIUM_BELOW_MM[1]))
    discs = [disc for plane in planes for disc in _discs(chest, int(plane), threshold, ATRIUM_DEPTH, ATRIUM_MM)[:1]]
    return _level(chest, [disc for disc in discs if disc.radius * chest.pixel_mm > 8], threshold)
