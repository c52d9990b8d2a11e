"""Right and left ventricle: short-axis diameters in axial slices, found from HU and geometry.

Along a line across the septum, from the back and left to the front and right, blood and muscle follow
each other as nowhere else: the left ventricle's wall, its lumen, the septum, the right ventricle's
lumen. Lines of one direction are laid through every slice at the heart's height; those that show the
pattern tell where the ventricles are, the septum's course tells the direction, and each diameter is
the widest lumen on any such line, as readers measure it (the widest short axes of the axial slices).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from features.chest import Chest
from features.lines import Line

HEART_ZONE = (0.02, 0.58)  # relative z of slices that may show both ventricles
HEART_DEPTH = 0.85  # rows behind this share of the lungs' depth hold no ventricle
START_DEGREES = (25.0, 45.0, 65.0)  # directions tried, from the front towards the patient's right
REACH_MM = 84.0  # half length of a line, and half width of the bundle of lines
SAMPLE_MM, LINE_MM = 1.0, 2.0
MUSCLE_HU = (-10.0, 160.0)  # mean of septum and wall on the grid
SEPTUM_MM = (3.0, 20.0)
WALL_MM = 4.0  # of muscle behind the left ventricle, at least
LV_MM, RV_MM = (12.0, 75.0), (12.0, 85.0)
MIN_BUNDLE_MM = 10.0  # neighbouring lines that show the pattern, in one slice
MAX_STEP_MM = 6.0  # septum's shift between neighbouring lines


@dataclass(frozen=True)
class Ventricles:
    """Both ventricles of one exam; lines in stored pixels."""

    rv_mm: float
    lv_mm: float
    rv: Line
    lv: Line
    confidence: float
    first_plane: float  # stored planes in which the pattern is seen
    last_plane: float

    @property
    def ratio(self) -> float:
        """RV over LV diameter."""
        return self.rv_mm / self.lv_mm


@dataclass(frozen=True)
class _Matches:
    """Lines with the pattern: slice, line, and the places (samples) of the four edges from back to front."""

    plane: np.ndarray
    line: np.ndarray
    edges: np.ndarray  # (n, 4): lumen of LV begins, ends, lumen of RV begins, ends

    def take(self, rows: np.ndarray) -> "_Matches":
        return _Matches(self.plane[rows], self.line[rows], self.edges[rows])

    def __len__(self) -> int:
        return len(self.plane)


@dataclass(frozen=True)
class _Bundle:
    """A bundle of parallel lines through a slice: `across` runs from LV to RV, `along` to the heart's tip."""

    centre: np.ndarray  # (y, x) grid pixels
    degrees: float

    @property
    def across(self) -> np.ndarray:
        angle = np.deg2rad(self.degrees)
        return np.array([-np.cos(angle), -np.sin(angle)])

    @property
    def along(self) -> np.ndarray:
        angle = np.deg2rad(self.degrees)
        return np.array([-np.sin(angle), np.cos(angle)])

    def place(self, line: np.ndarray, sample: np.ndarray, pixel_mm: float, sample_mm: float = SAMPLE_MM) -> np.ndarray:
        """(y, x) grid pixels of a sample on a line."""
        b = np.asarray(sample) * sample_mm - REACH_MM
        a = np.asarray(line) * LINE_MM - REACH_MM
        return self.centre + (np.multiply.outer(a, self.along) + np.multiply.outer(b, self.across)) / pixel_mm

    def sampled(self, planes: np.ndarray, pixel_mm: float, sample_mm: float = SAMPLE_MM) -> np.ndarray:
        """HU on all lines of all planes, float32 (z, line, sample); outside the picture air."""
        size = (int(2 * REACH_MM / sample_mm) + 1, int(2 * REACH_MM / LINE_MM) + 1)
        origin = self.place(0, 0, pixel_mm, sample_mm)
        step_b, step_a = self.across * sample_mm / pixel_mm, self.along * LINE_MM / pixel_mm
        matrix = np.array([[step_b[1], step_a[1], origin[1]], [step_b[0], step_a[0], origin[0]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.stack(
            [cv2.warpAffine(plane, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=-1000)
             for plane in planes]
        )  # fmt: skip


def find_ventricles(chest: Chest, blood_hu: float, noise_hu: float) -> Ventricles | None:
    """Find both ventricles and measure them; None where the pattern is not seen.

    Args:
        chest: the coarse grid.
        blood_hu: typical HU of blood with contrast in this exam.
        noise_hu: SD of a stored pixel.
    """
    rows = np.flatnonzero((chest.relative_z >= HEART_ZONE[0]) & (chest.relative_z <= HEART_ZONE[1]))
    threshold = blood_threshold(blood_hu)
    centre = _heart_centre(chest, rows, threshold)
    if centre is None:
        return None
    planes = chest.hu[rows]
    outside = ~chest.inside[rows] | (chest.depth > HEART_DEPTH)[None, :, None]
    planes = np.where(outside & (planes > threshold), np.float32(0), planes)
    degrees, found = _best_direction(planes, centre, chest, threshold)
    if found is None:
        return None
    bundle = _Bundle(centre, degrees)
    return _measured(chest, rows, planes, bundle, found, threshold, blood_hu, noise_hu)


def blood_threshold(blood_hu: float) -> float:
    """HU between muscle (60) and this exam's blood; nearer to muscle, since one side's blood may be less bright."""
    return max(110.0, 60.0 + 0.42 * (blood_hu - 60.0))


def _heart_centre(chest: Chest, rows: np.ndarray, threshold: float) -> np.ndarray | None:
    """(y, x) of the middle of blood at the heart's height, grid pixels."""
    blood = (chest.hu[rows] > threshold) & chest.inside[rows] & (chest.depth < 0.7)[None, :, None]
    counts = blood.sum(axis=0)
    if counts.sum() * chest.pixel_mm**2 * chest.step_mm < 60_000:  # 60 ml
        return None
    y = np.average(np.arange(counts.shape[0]), weights=counts.sum(axis=1))
    x = np.average(np.arange(counts.shape[1]), weights=counts.sum(axis=0))
    return np.array([y, x])


def _best_direction(
    planes: np.ndarray, centre: np.ndarray, chest: Chest, threshold: float
) -> tuple[float, _Matches | None]:
    """The direction across the septum that most lines agree with, refined by the septum's own course."""
    best, most = (45.0, None), 0
    for start in START_DEGREES:
        degrees = start
        for _ in range(3):
            found = _search(planes, _Bundle(centre, degrees), chest, threshold)
            if len(found) > most:
                most, best = len(found), (degrees, found)
            if len(found) < 6:
                break
            turn = _septum_turn(found)
            degrees = float(np.clip(degrees + turn, 5, 85))
            if abs(turn) < 3:
                break
    return best


def _septum_turn(found: _Matches) -> float:
    """Degrees by which the lines must turn to cross the septum squarely: from its slope, over all slices."""
    middle = (found.edges[:, 1] + found.edges[:, 2]) / 2 * SAMPLE_MM
    place = found.line * LINE_MM
    top = bottom = 0.0
    for plane in np.unique(found.plane):
        own = found.plane == plane
        a, b = place[own] - place[own].mean(), middle[own] - middle[own].mean()
        top, bottom = top + float(a @ b), bottom + float(a @ a)
    return float(np.rad2deg(np.arctan2(top, bottom))) if bottom else 0.0


def _search(planes: np.ndarray, bundle: _Bundle, chest: Chest, threshold: float) -> _Matches:
    hu = bundle.sampled(planes, chest.pixel_mm)
    matches = match_lines(hu, threshold)
    # The left ventricle lies on the patient's left, at least with its middle.
    middle = bundle.place(matches.line, 0, chest.pixel_mm) if len(matches) else np.zeros((0, 2))
    b = matches.edges[:, :2].mean(axis=1) * SAMPLE_MM / chest.pixel_mm
    column = middle[:, 1] + b * bundle.across[1]
    offset = np.interp(column, np.arange(len(chest.offset_mm)), chest.offset_mm)
    return _groups(matches.take(offset > -8))


def match_lines(hu: np.ndarray, threshold: float) -> _Matches:
    """Lines that show wall, lumen, septum, lumen.

    Args:
        hu: (z, line, sample), samples 1 mm apart from the back to the front.
        threshold: HU above which a sample is blood.
    """
    bright = hu > threshold
    bright[:, :, 1:-1] |= bright[:, :, :-2] & bright[:, :, 2:]  # a single dark sample is noise
    bright[:, :, [0, -1]] = False
    change = np.diff(bright.reshape(len(hu) * hu.shape[1], -1).astype(np.int8), axis=1)
    row, start = np.nonzero(change == 1)
    _, stop = np.nonzero(change == -1)
    start, stop = start + 1, stop + 1  # half open
    keep = stop - start >= 5
    row, start, stop = row[keep], start[keep], stop[keep]
    pair = row[1:] == row[:-1]
    row, edges = row[1:][pair], np.stack([start[:-1], stop[:-1], start[1:], stop[1:]], axis=1)[pair]
    if not len(row):
        return _Matches(row, row, edges)
    total = np.concatenate([np.zeros((len(hu) * hu.shape[1], 1), np.float32),
                            np.cumsum(hu.reshape(len(hu) * hu.shape[1], -1), axis=1)], axis=1)  # fmt: skip

    def mean(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        first = np.maximum(first, 0)
        return (total[row, last] - total[row, first]) / np.maximum(last - first, 1)

    lv, septum, rv = (edges[:, i + 1] - edges[:, i] for i in range(3))
    wall = mean(edges[:, 0] - round(WALL_MM) - 1, edges[:, 0] - 1)
    gap = mean(edges[:, 1], edges[:, 2])
    good = (
        _within(lv, LV_MM) & _within(rv, RV_MM) & _within(septum, SEPTUM_MM)
        & _within(gap, MUSCLE_HU) & _within(wall, (MUSCLE_HU[0], threshold + 20))
    )  # fmt: skip
    return _Matches(row[good] // hu.shape[1], row[good] % hu.shape[1], edges[good])


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values >= bounds[0]) & (values <= bounds[1])


def _groups(matches: _Matches) -> _Matches:
    """Of each slice the largest group of neighbouring lines whose septum runs on from line to line."""
    kept = []
    for plane in np.unique(matches.plane):
        own = np.flatnonzero(matches.plane == plane)
        middle = matches.edges[own, 1:3].mean(axis=1)
        jump = (np.diff(matches.line[own]) > 2) | (np.abs(np.diff(middle)) * SAMPLE_MM > MAX_STEP_MM)
        group = np.concatenate([[0], np.cumsum(jump)])
        sizes = np.bincount(group)
        if sizes.max() * LINE_MM >= MIN_BUNDLE_MM:
            kept.append(own[group == sizes.argmax()])
    return matches.take(np.concatenate(kept) if kept else np.zeros(0, int))


def _measured(
    chest: Chest, rows: np.ndarray, planes: np.ndarray, bundle: _Bundle, found: _Matches, threshold: float,
    blood_hu: float, noise_hu: float,
) -> Ventricles:  # fmt: skip
    """The widest lumina of the slices in which the pattern is seen."""
    lv = _widest(found, 0)
    rv = _widest(found, 2)
    planes_seen = len(np.unique(found.plane))
    lines = {}
    for name, (match, column, _) in (("lv", lv), ("rv", rv)):
        ends = bundle.place(found.line[match], found.edges[match, [column, column + 1]] - 0.5, chest.pixel_mm)
        lines[name] = Line(float(chest.planes[rows[found.plane[match]]]), *(chest.stored(ends.ravel())))
    confidence = min(1.0, planes_seen * chest.step_mm / 30) * min(1.0, len(found) / 60)
    seen = chest.planes[rows[[found.plane.min(), found.plane.max()]]]
    return Ventricles(
        rv[2], lv[2], lines["rv"], lines["lv"], float(confidence), first_plane=float(seen[0]), last_plane=float(seen[1])
    )


def _widest(found: _Matches, column: int) -> tuple[int, int, float]:
    """(match, edge column, mm) of the widest lumen, steadied over neighbouring lines."""
    width = (found.edges[:, column + 1] - found.edges[:, column]).astype(float)
    steady = width.copy()
    same = (found.plane[1:] == found.plane[:-1]) & (np.diff(found.line) == 1)
    inner = np.flatnonzero(same[1:] & same[:-1]) + 1
    steady[inner] = (width[inner - 1] + width[inner] + width[inner + 1]) / 3
    lone = np.ones(len(width), bool)
    lone[inner] = False
    steady[lone] -= 2
    match = int(steady.argmax())
    return match, column, float(steady[match]) * SAMPLE_MM
