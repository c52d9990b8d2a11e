"""Pulmonary trunk, ascending aorta and left atrium: diameters and blood HU, measured from HU and geometry.

In axial slices above the heart, the ascending aorta is a disc to the right of the patient's midline, and the trunk is
a disc or oval to the left and front of it. Discs are the largest circles that fit into contrast-filled blood; they are
tracked from slice to slice. Diameters are short axes: the narrowest diameter through the disc's centre, between the
points where HU falls halfway to soft tissue.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from features.chest_grid import Chest
from features.measured_line import Line

TRUNK_ZONE = (0.42, 0.74)  # relative z of slices that may show trunk and ascending aorta
ABOVE_HEART = 0.04  # relative z between the top of the heart, where known, and the lowest slice searched
FRONT_DEPTH, BACK_DEPTH = 0.05, 0.66  # rows of both vessels, as fractions of the lungs' depth
RADIUS_MM = (7.0, 26.0)
AORTA_MM, TRUNK_MM = (-48.0, 14.0), (-6.0, 55.0)  # offset from the midline, positive to the left
BETWEEN_MM, BEHIND_MM = (15.0, 58.0), 30.0  # trunk centre relative to the aorta's: to the left, and largest y offset
DRIFT_MM = (12.0, 26.0)  # largest shift of aorta and trunk between grid planes; the trunk bends and divides
LEVEL_MM = (8.0, 28.0)  # depth below the top of the track at which diameters are measured
ATRIUM_MM, ATRIUM_DEPTH = 24.0, (0.42, 0.7)
ATRIUM_BELOW_MM = (12.0, 60.0)
TISSUE_HU = 50.0
DENSE_HU = 700.0  # undiluted contrast: the superior vena cava beside the aorta, not the aorta
RAYS = 48  # directions in which the wall is searched


@dataclass(frozen=True)
class Vessels:
    """Measurements of the great vessels of one exam; None or NaN for what was not found."""

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
        heart_top: the highest stored plane that shows both ventricles, where known; only planes above it are searched.
    """
    bottom = TRUNK_ZONE[0]
    if np.isfinite(heart_top):
        bottom = np.interp(heart_top, chest.planes, chest.relative_z) + ABOVE_HEART
    planes = np.flatnonzero((chest.relative_z > bottom) & (chest.relative_z <= TRUNK_ZONE[1]))
    pairs = _longest_track([_aorta_and_trunk(chest, int(plane), threshold) for plane in planes], chest)
    if not pairs:
        return Vessels(np.nan, np.nan, None, None, np.nan, np.nan, np.nan)
    top = pairs[-1][0].plane * chest.step_mm
    level = [pair for pair in pairs if LEVEL_MM[0] <= top - pair[0].plane * chest.step_mm <= LEVEL_MM[1]] or pairs
    aorta_mm, aorta = _short_axis(chest, [pair[0] for pair in level])
    trunk_mm, trunk = _short_axis(chest, [pair[1] for pair in level])
    return Vessels(
        trunk_mm, aorta_mm, trunk, aorta, _blood_hu(chest, [pair[1] for pair in level], threshold),
        _atrium_hu(chest, level[0][0].plane, threshold), _blood_hu(chest, [pair[0] for pair in level], threshold),
    )  # fmt: skip


def _discs(chest: Chest, plane: int, threshold: float, rows: tuple[float, float], half_width_mm: float) -> list[_Disc]:
    """The largest circles in the blood of a plane, largest first, at most five."""
    region = (chest.depth > rows[0])[:, None] & (chest.depth < rows[1])[:, None]
    region = region & (np.abs(chest.offset_mm) < half_width_mm)[None]
    blood = ((chest.hu[plane] > threshold) & (chest.hu[plane] < DENSE_HU) & chest.inside[plane]).view(np.uint8)
    outlines, _ = cv2.findContours(blood, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    blood = cv2.drawContours(blood, outlines, -1, 1, cv2.FILLED)  # a clot inside a vessel is not a hole
    distance = cv2.distanceTransform(blood * region, cv2.DIST_L2, 5)
    low, high = (radius / chest.pixel_mm for radius in RADIUS_MM)
    y, x = np.arange(distance.shape[0])[:, None], np.arange(distance.shape[1])[None]
    discs = []
    for _ in range(5):
        centre = np.unravel_index(distance.argmax(), distance.shape)
        radius = float(distance[centre])
        if radius < low:
            break
        if radius <= high:
            discs.append(_Disc(plane, float(centre[0]), float(centre[1]), radius))
        distance = np.where((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (1.25 * radius) ** 2, 0, distance)
    return discs


def _aorta_and_trunk(chest: Chest, plane: int, threshold: float) -> tuple[_Disc, _Disc] | None:
    """The pair of discs of one plane whose arrangement fits aorta and trunk and whose radii have the largest sum."""
    discs = _discs(chest, plane, threshold, (FRONT_DEPTH, BACK_DEPTH), 62.0)
    best, largest = None, 0.0
    for aorta in discs:
        for trunk in discs:
            beside = (trunk.x - aorta.x) * chest.pixel_mm
            behind = (trunk.y - aorta.y) * chest.pixel_mm
            fits = (
                AORTA_MM[0] < _offset_mm(chest, aorta) < AORTA_MM[1]
                and TRUNK_MM[0] < _offset_mm(chest, trunk) < TRUNK_MM[1]
                and BETWEEN_MM[0] < beside < BETWEEN_MM[1] and abs(behind) < BEHIND_MM
            )  # fmt: skip
            if fits and aorta.radius + trunk.radius > largest:
                best, largest = (aorta, trunk), aorta.radius + trunk.radius
    return best


def _offset_mm(chest: Chest, disc: _Disc) -> float:
    return float(chest.offset_mm[0] + disc.x * chest.pixel_mm)


def _longest_track(pairs: list[tuple[_Disc, _Disc] | None], chest: Chest) -> list[tuple[_Disc, _Disc]]:
    """The longest run of planes, feet to head, in which both discs shift smoothly; empty when under 10 mm long."""
    longest: list[tuple[_Disc, _Disc]] = []
    track: list[tuple[_Disc, _Disc]] = []
    for pair in [*pairs, None]:
        if pair and track and _follows(track[-1], pair, chest):
            track.append(pair)
        else:
            longest = track if len(track) > len(longest) else longest
            track = [pair] if pair else []
    return longest if len(longest) * chest.step_mm >= 10 else []


def _follows(before: tuple[_Disc, _Disc], after: tuple[_Disc, _Disc], chest: Chest) -> bool:
    shifts = [np.hypot(a.y - b.y, a.x - b.x) * chest.pixel_mm for a, b in zip(before, after, strict=True)]
    return all(shift < limit for shift, limit in zip(shifts, DRIFT_MM, strict=True))


def _short_axis(chest: Chest, discs: list[_Disc]) -> tuple[float, Line | None]:
    """Median over planes of the narrowest diameter (mm), and the line in the plane that shows the median."""
    diameters = [(width, line) for width, line in (_narrowest(chest, disc) for disc in discs) if np.isfinite(width)]
    if not diameters:
        return np.nan, None
    diameters.sort(key=lambda diameter: diameter[0])
    return diameters[(len(diameters) - 1) // 2]


def _narrowest(chest: Chest, disc: _Disc) -> tuple[float, Line | None]:
    """The narrowest diameter through a disc's centre, mm, between the points of half contrast."""
    plane = chest.hu[disc.plane]
    samples = np.arange(0, 1.9 * disc.radius, 0.25)
    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    y = disc.y + np.multiply.outer(np.sin(angle), samples)
    x = disc.x + np.multiply.outer(np.cos(angle), samples)
    hu = cv2.remap(plane, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderValue=-1000)
    # In a vessel full of clot only the rim is bright; a clot in the middle is not a wall.
    half = (np.percentile(hu[:, samples < 0.9 * disc.radius], 80) + TISSUE_HU) / 2
    below = hu < half
    below[:, samples < 0.75 * disc.radius] = False
    reach = np.where(below.any(axis=1), samples[below.argmax(axis=1)], np.nan)
    reach = np.where(np.isnan(reach), np.inf, reach)  # no wall within reach: another vessel touches
    smooth = (np.roll(reach, 1) + reach + np.roll(reach, -1)) / 3
    across = smooth[: RAYS // 2] + smooth[RAYS // 2 :]
    ray = int(across.argmin())
    lengths = (smooth[ray], smooth[ray + RAYS // 2])
    if not np.isfinite(sum(lengths)):
        return np.nan, None
    step = np.array([np.sin(angle[ray]), np.cos(angle[ray])])
    ends = [
        chest.stored(np.array([disc.y, disc.x]) + sign * length * step)
        for sign, length in zip((1, -1), lengths, strict=True)
    ]
    line = Line(float(chest.planes[disc.plane]), *map(float, np.concatenate(ends)))
    return float(sum(lengths) * chest.pixel_mm), line


def _blood_hu(chest: Chest, discs: list[_Disc], threshold: float) -> float:
    """Median HU of the blood within discs, excluding clots; NaN without discs."""
    parts = []
    for disc in discs:
        reach = int(disc.radius * 0.6)
        rows = slice(max(int(disc.y) - reach, 0), int(disc.y) + reach + 1)
        part = chest.hu[disc.plane, rows, max(int(disc.x) - reach, 0) : int(disc.x) + reach + 1]
        parts.append(part[part > threshold])
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(np.median(values)) if len(values) else np.nan


def _atrium_hu(chest: Chest, level: int, threshold: float) -> float:
    """Median HU of the left atrium: the disc near the midline, below the trunk, in front of the spine."""
    below = (level - np.arange(len(chest.hu))) * chest.step_mm
    planes = np.flatnonzero((below >= ATRIUM_BELOW_MM[0]) & (below <= ATRIUM_BELOW_MM[1]))
    discs = [disc for plane in planes for disc in _discs(chest, int(plane), threshold, ATRIUM_DEPTH, ATRIUM_MM)[:1]]
    return _blood_hu(chest, [disc for disc in discs if disc.radius * chest.pixel_mm > 8], threshold)
