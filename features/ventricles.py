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

from features.chest_grid import Chest
from features.measured_line import Line

HEART_ZONE = (0.02, 0.58)  # relative z of slices that may show both ventricles
HEART_DEPTH = 0.85  # rows behind this share of the lungs' depth hold no ventricle
START_DEGREES = (30.0, 55.0)  # directions tried first, from the front towards the patient's right
REACH_MM = 84.0  # half length of a line, and half width of the bundle of lines
SAMPLE_MM, LINE_MM = 1.0, 2.0
COARSE = 2.0  # samples and lines are so many times further apart while the direction is searched
BLOOD_SHARE = 0.42  # threshold between muscle and blood: one side's blood may be less bright than the other's
MUSCLE_HU = 60.0
SEPTUM_HU = (-10.0, 160.0)  # mean of the septum on the grid
WALL_HU = 0.0  # mean of the wall behind the left ventricle, at least; fat and lung are darker
SEPTUM_MM = (3.0, 20.0)
WALL_MM = (1.5, 6.0)  # where the wall is looked for, behind the lumen
LV_MM, RV_MM = (12.0, 75.0), (12.0, 85.0)
MIN_BUNDLE_MM = 12.0  # neighbouring lines that show the pattern, in one slice
MAX_STEP_MM = 7.0  # a wall's shift between neighbouring lines; more is another chamber or vessel that joins
DRIFT_MM = 15.0  # the septum's shift between neighbouring slices
SHARE_OF_LINES = 0.4  # slices with fewer lines than this share of the best slice's show no four chambers
MIN_CONFIDENCE = 0.15  # below it the pattern is chance: no number rather than a guess
NEAR_WIDEST = 0.8  # the right ventricle is read where the left one has this share of its width: clear of the atrium


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
    """Lines with the pattern: slice, line, and where four edges lie on it, mm from its middle, back to front."""

    plane: np.ndarray
    line_mm: np.ndarray  # the line's own place in the bundle, positive towards the heart's tip
    edges: np.ndarray  # (n, 4): the left ventricle's lumen begins, ends, the right one's begins, ends

    def take(self, rows: np.ndarray) -> "_Matches":
        return _Matches(self.plane[rows], self.line_mm[rows], self.edges[rows])

    def __len__(self) -> int:
        return len(self.plane)

    @property
    def septum(self) -> np.ndarray:
        """(n,) the septum's middle on each line, mm."""
        return self.edges[:, 1:3].mean(axis=1)

    @property
    def widths(self) -> np.ndarray:
        """(n, 2) lumina of LV and RV, mm."""
        return self.edges[:, [1, 3]] - self.edges[:, [0, 2]]


@dataclass(frozen=True)
class _Bundle:
    """Parallel lines through a slice: `across` runs from LV to RV, `along` to the heart's tip; grid pixels (y, x)."""

    centre: np.ndarray
    degrees: float
    pixel_mm: float

    @property
    def across(self) -> np.ndarray:
        angle = np.deg2rad(self.degrees)
        return np.array([-np.cos(angle), -np.sin(angle)])

    @property
    def along(self) -> np.ndarray:
        angle = np.deg2rad(self.degrees)
        return np.array([-np.sin(angle), np.cos(angle)])

    def place(self, line_mm: np.ndarray | float, sample_mm: np.ndarray | float) -> np.ndarray:
        """(..., 2) grid pixels (y, x) of places on lines."""
        line, sample = np.asarray(line_mm)[..., None], np.asarray(sample_mm)[..., None]
        return self.centre + (line * self.along + sample * self.across) / self.pixel_mm

    def sampled(self, planes: np.ndarray, times: float = 1.0) -> np.ndarray:
        """HU on all lines of all planes, float32 (z, line, sample); outside the picture air."""
        sample_mm, line_mm = SAMPLE_MM * times, LINE_MM * times
        size = (int(2 * REACH_MM / sample_mm) + 1, int(2 * REACH_MM / line_mm) + 1)
        origin = self.place(-REACH_MM, -REACH_MM)
        step_b, step_a = self.across * sample_mm / self.pixel_mm, self.along * line_mm / self.pixel_mm
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
    outside = ~chest.inside[rows] | (chest.depth > HEART_DEPTH)[None, :, None]
    planes = np.where(outside & (chest.hu[rows] > threshold), np.float32(0), chest.hu[rows])
    bundle, seen = _best_direction(planes, centre, chest, threshold)
    if len(seen):
        chosen = np.arange(seen.min(), seen.max() + 1)
        found = _one_heart(_search(planes[chosen], bundle, chest, threshold), chest.step_mm)
        if len(found):
            heart = _measured(chest, rows[chosen], bundle, found, (blood_hu - MUSCLE_HU) / max(noise_hu, 1.0))
            return heart if heart.confidence >= MIN_CONFIDENCE else None
    return None


def blood_threshold(blood_hu: float) -> float:
    """HU between muscle and this exam's blood."""
    return max(110.0, MUSCLE_HU + BLOOD_SHARE * (blood_hu - MUSCLE_HU))


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
) -> tuple[_Bundle, np.ndarray]:
    """The direction across the septum that most lines agree with, and the planes that show it.

    The septum's own course tells how to turn lines that cross it at a slant.
    """
    best, most = (_Bundle(centre, START_DEGREES[0], chest.pixel_mm), np.zeros(0, int)), 0
    for start in START_DEGREES:
        degrees = start
        for _ in range(3):
            bundle = _Bundle(centre, degrees, chest.pixel_mm)
            found = _one_heart(_search(planes, bundle, chest, threshold, COARSE), chest.step_mm)
            if len(found) > most:
                most, best = len(found), (bundle, np.unique(found.plane))
            turn = _septum_turn(found) if len(found) >= 6 else 0.0
            degrees = float(np.clip(degrees + turn, 5, 85))
            if abs(turn) < 3:
                break
    return best


def _septum_turn(found: _Matches) -> float:
    """Degrees by which the lines must turn to cross the septum squarely: from its slope, over all slices."""
    top = bottom = 0.0
    for plane in np.unique(found.plane):
        own = found.plane == plane
        a, b = found.line_mm[own] - found.line_mm[own].mean(), found.septum[own] - found.septum[own].mean()
        top, bottom = top + float(a @ b), bottom + float(a @ a)
    return float(np.rad2deg(np.arctan2(top, bottom))) if bottom else 0.0


def _search(planes: np.ndarray, bundle: _Bundle, chest: Chest, threshold: float, times: float = 1.0) -> _Matches:
    """Lines with the pattern whose left ventricle lies on the patient's left, neighbours in groups."""
    matches = match_lines(bundle.sampled(planes, times), threshold, SAMPLE_MM * times, LINE_MM * times)
    column = bundle.place(matches.line_mm, matches.edges[:, :2].mean(axis=1))[:, 1]
    offset = np.interp(column, np.arange(len(chest.offset_mm)), chest.offset_mm)
    return _groups(matches.take(offset > -8), LINE_MM * times)


def match_lines(hu: np.ndarray, threshold: float, sample_mm: float, line_mm: float) -> _Matches:
    """Lines that show wall, lumen, septum, lumen.

    Args:
        hu: (z, line, sample), samples from the back to the front, lines and samples centred on the bundle.
        threshold: HU above which a sample is blood.
        sample_mm, line_mm: distance of samples and of lines.
    """
    lines = hu.shape[1]
    hu = hu.reshape(-1, hu.shape[2])
    bright = hu > threshold
    bright[:, 1:-1] |= bright[:, :-2] & bright[:, 2:]  # a single dark sample is noise
    bright[:, [0, -1]] = False
    change = np.diff(bright.view(np.int8), axis=1)
    row, start = np.nonzero(change == 1)
    stop = np.nonzero(change == -1)[1]
    keep = (stop - start) * sample_mm >= 5
    row, start, stop = row[keep], start[keep] + 1, stop[keep] + 1  # half open
    pair = row[1:] == row[:-1]
    row, edges = row[1:][pair], np.stack([start[:-1], stop[:-1], start[1:], stop[1:]], axis=1)[pair]
    lengths = np.diff(edges, axis=1) * sample_mm
    good = _within(lengths[:, 0], LV_MM) & _within(lengths[:, 1], SEPTUM_MM) & _within(lengths[:, 2], RV_MM)
    row, edges = row[good], edges[good]
    hu = hu[row]
    total = np.cumsum(hu, axis=1, dtype=np.float32)
    near, far = (max(1, round(each / sample_mm)) for each in WALL_MM)
    septum = _run_means(total, edges[:, 1], edges[:, 2])
    wall = _run_means(total, edges[:, 0] - far, edges[:, 0] - near)
    good = np.flatnonzero(_within(septum, SEPTUM_HU) & _within(wall, (WALL_HU, threshold + 20)))
    places = _half_edges(hu[good], total[good], edges[good]) * sample_mm - REACH_MM
    return _Matches(row[good] // lines, (row[good] % lines) * line_mm - REACH_MM, places)


def _run_means(total: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n,) mean of samples first:last of every line, from the lines' cumulative sums (n, sample)."""
    row, first, last = np.arange(len(total)), np.maximum(first, 1), np.maximum(last, 2)
    return (total[row, last - 1] - total[row, first - 1]) / np.maximum(last - first, 1)


def _half_edges(hu: np.ndarray, total: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, 4) places, in samples, where HU pass half way between muscle and each lumen's own blood.

    The threshold that found a lumen lies off that half way, so its edge is looked for anew from the lumen's inside
    to 3 samples beyond, and placed between two samples along a straight line.
    """
    places = np.empty(edges.shape)
    row = np.arange(len(hu))
    for lumen in (0, 2):
        first, last = edges[:, lumen], edges[:, lumen + 1]
        quarter = (last - first) // 4
        half = (MUSCLE_HU + _run_means(total, first + quarter, last - quarter)) / 2
        for column, inner, outward in ((lumen, first + quarter, -1), (lumen + 1, last - 1 - quarter, 1)):
            steps = np.arange(int((quarter.max() if len(quarter) else 0) + 4))
            index = np.clip(inner[:, None] + outward * steps, 0, hu.shape[1] - 1)
            values = hu[row[:, None], index]
            below = values < half[:, None]
            below[:, -1] = True
            at = np.maximum(below.argmax(axis=1), 1)
            inside, outside = values[row, at - 1], values[row, at]
            fraction = np.clip((inside - half) / np.maximum(inside - outside, 1e-3), 0, 1)
            places[:, column] = inner + outward * (at - 1 + fraction)
    return places


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values >= bounds[0]) & (values <= bounds[1])


def _groups(matches: _Matches, line_mm: float) -> _Matches:
    """Of each slice the largest group of neighbouring lines whose walls run on from line to line."""
    kept = []
    for plane in np.unique(matches.plane):
        own = np.flatnonzero(matches.plane == plane)
        shift = np.abs(np.diff(matches.edges[own], axis=0)).max(axis=1) * LINE_MM / line_mm
        jump = (np.diff(matches.line_mm[own]) > 2.5 * line_mm) | (shift > MAX_STEP_MM)
        group = np.concatenate([[0], np.cumsum(jump)])
        sizes = np.bincount(group)
        if sizes.max() * line_mm >= MIN_BUNDLE_MM:
            kept.append(own[group == sizes.argmax()])
    return matches.take(np.concatenate(kept) if kept else np.zeros(0, int))


def _one_heart(found: _Matches, step_mm: float) -> _Matches:
    """The matches of neighbouring slices, about the one with most lines, through which the septum moves smoothly."""
    if not len(found):
        return found
    counts = np.bincount(found.plane)
    septum = np.bincount(found.plane, found.septum) / np.maximum(counts, 1)
    best = int(counts.argmax())
    enough = counts >= max(SHARE_OF_LINES * counts[best], 1)
    ends = []
    for direction in (-1, 1):
        plane = best
        while (
            0 <= plane + direction < len(counts) and enough[plane + direction]
            and abs(septum[plane + direction] - septum[plane]) < DRIFT_MM * max(step_mm / 5, 1)
        ):  # fmt: skip
            plane += direction
        ends.append(plane)
    return found.take((found.plane >= ends[0]) & (found.plane <= ends[1]))


def _measured(chest: Chest, rows: np.ndarray, bundle: _Bundle, found: _Matches, contrast: float) -> Ventricles:
    """The widest lumina of the slices in which the pattern is seen."""
    widths = _steady(found)
    lv = int(widths[:, 0].argmax())
    widest = np.zeros(int(found.plane.max()) + 1)
    np.maximum.at(widest, found.plane, widths[:, 0])
    clear = widths[:, 0] >= NEAR_WIDEST * widest[found.plane]
    rv = int(np.where(clear, widths[:, 1], 0).argmax())
    lines = []
    for match, columns in ((rv, [2, 3]), (lv, [0, 1])):
        ends = bundle.place(found.line_mm[match], found.edges[match, columns])
        lines.append(Line(float(chest.planes[rows[found.plane[match]]]), *map(float, chest.stored(ends.ravel()))))
    seen = chest.planes[rows[[found.plane.min(), found.plane.max()]]]
    return Ventricles(
        float(widths[rv, 1]), float(widths[lv, 0]), *lines, _confidence(found, chest.step_mm, contrast),
        first_plane=float(seen[0]), last_plane=float(seen[1]),
    )  # fmt: skip


def _confidence(found: _Matches, step_mm: float, contrast: float) -> float:
    """0-1 from how much of the ventricles is seen and how far blood stands out of the noise."""
    slices = len(np.unique(found.plane))
    lines = len(found) / slices
    return float(min(1.0, slices * step_mm / 30) * min(1.0, lines * LINE_MM / 40) * min(1.0, contrast / 10))


def _steady(found: _Matches) -> np.ndarray:
    """(n, 2) widths as means over three neighbouring lines; a line without two neighbours counts 1 mm less."""
    steady = found.widths - 1.0
    same = (found.plane[1:] == found.plane[:-1]) & (np.diff(found.line_mm) < 1.5 * LINE_MM)
    inner = np.flatnonzero(same[1:] & same[:-1]) + 1
    steady[inner] = (found.widths[inner - 1] + found.widths[inner] + found.widths[inner + 1]) / 3
    return steady
