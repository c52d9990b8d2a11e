"""Right and left ventricle: short-axis diameters in axial slices, measured from HU and geometry.

Parallel lines are sampled in every slice at the height of the heart. The lines that show the pattern of both ventricles
(see features.septum_lines) locate them, and the course of the septum gives the direction of the lines. Each diameter
is the widest lumen on any such line, as radiologists measure it (the widest short axes of the axial slices).
"""

from dataclasses import dataclass

import numpy as np

from features.chest_grid import Chest
from features.measured_line import Line
from features.septum_lines import LINE_MM, MUSCLE_HU, SAMPLE_MM, LineBundle, LineMatches, largest_groups, match_lines

HEART_ZONE = (0.02, 0.58)  # relative z of slices that may show both ventricles
HEART_DEPTH = 0.85  # rows behind this fraction of the lungs' depth show no ventricle
START_DEGREES = (30.0, 55.0)  # initial directions, from the front towards the patient's right
COARSE = 2.0  # factor on the spacing of samples and lines while the direction is searched
BLOOD_SHARE = 0.42  # threshold between muscle and blood: one side's blood may be less bright than the other's
DRIFT_MM = 15.0  # shift of the septum between neighbouring slices
SHARE_OF_LINES = 0.4  # slices with fewer lines than this fraction of the best slice's do not show both ventricles
MIN_CONFIDENCE = 0.15  # below it the pattern is chance, and no number is given
NEAR_WIDEST = 0.8  # the RV is measured where the LV has this fraction of its width, clear of the atrium


@dataclass(frozen=True)
class Ventricles:
    """Both ventricles of one exam.

    Attributes:
        rv_mm, lv_mm: diameters.
        rv, lv: their lines, in stored pixels.
        confidence: 0-1.
        first_plane, last_plane: stored planes in which the pattern is seen.
    """

    rv_mm: float
    lv_mm: float
    rv: Line
    lv: Line
    confidence: float
    first_plane: float
    last_plane: float

    @property
    def ratio(self) -> float:
        """RV over LV diameter."""
        return self.rv_mm / self.lv_mm


def find_ventricles(chest: Chest, blood_hu: float, noise_hu: float) -> Ventricles | None:
    """Find both ventricles and measure them; None where the pattern is not found.

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
    if not len(seen):
        return None
    heart_planes = np.arange(seen.min(), seen.max() + 1)
    matches = _one_heart(_search(planes[heart_planes], bundle, chest, threshold), chest.step_mm)
    if not len(matches):
        return None
    heart = _measured(chest, rows[heart_planes], bundle, matches, (blood_hu - MUSCLE_HU) / max(noise_hu, 1.0))
    return heart if heart.confidence >= MIN_CONFIDENCE else None


def blood_threshold(blood_hu: float) -> float:
    """HU between muscle and this exam's blood."""
    return max(110.0, MUSCLE_HU + BLOOD_SHARE * (blood_hu - MUSCLE_HU))


def _heart_centre(chest: Chest, rows: np.ndarray, threshold: float) -> np.ndarray | None:
    """(y, x) of the mean position of blood at the height of the heart, grid pixels; None below 60 ml."""
    blood = (chest.hu[rows] > threshold) & chest.inside[rows] & (chest.depth < 0.7)[None, :, None]
    counts = blood.sum(axis=0)
    if counts.sum() * chest.pixel_mm**2 * chest.step_mm < 60_000:  # 60 ml
        return None
    y = np.average(np.arange(counts.shape[0]), weights=counts.sum(axis=1))
    x = np.average(np.arange(counts.shape[1]), weights=counts.sum(axis=0))
    return np.array([y, x])


def _best_direction(
    planes: np.ndarray, centre: np.ndarray, chest: Chest, threshold: float
) -> tuple[LineBundle, np.ndarray]:
    """Find the direction across the septum with most matching lines.

    The slope of the septum shows how to turn lines that cross it obliquely.

    Args:
        planes: HU (z, y, x) on the grid; other bright structures are masked out.
        centre: (y, x) of the heart, grid pixels.
        chest: the coarse grid.
        threshold: HU above which a sample is blood.

    Returns:
        The bundle of lines, and the indices of the planes with matches.
    """
    best, most = (LineBundle(centre, START_DEGREES[0], chest.pixel_mm), np.zeros(0, int)), 0
    for start in START_DEGREES:
        degrees = start
        for _ in range(3):
            bundle = LineBundle(centre, degrees, chest.pixel_mm)
            matches = _one_heart(_search(planes, bundle, chest, threshold, COARSE), chest.step_mm)
            if len(matches) > most:
                most, best = len(matches), (bundle, np.unique(matches.plane))
            turn = _septum_turn(matches) if len(matches) >= 6 else 0.0
            degrees = float(np.clip(degrees + turn, 5, 85))
            if abs(turn) < 3:
                break
    return best


def _septum_turn(matches: LineMatches) -> float:
    """Degrees by which to turn the lines to cross the septum at a right angle: from its slope, over all slices."""
    top = bottom = 0.0
    for plane in np.unique(matches.plane):
        rows = matches.plane == plane
        line_mm, septum = matches.line_mm[rows], matches.septum[rows]
        a, b = line_mm - line_mm.mean(), septum - septum.mean()
        top, bottom = top + float(a @ b), bottom + float(a @ a)
    return float(np.rad2deg(np.arctan2(top, bottom))) if bottom else 0.0


def _search(
    planes: np.ndarray, bundle: LineBundle, chest: Chest, threshold: float, coarseness: float = 1.0
) -> LineMatches:
    """Grouped lines with the pattern whose left ventricle is on the patient's left."""
    line_mm = LINE_MM * coarseness
    matches = match_lines(bundle.sampled(planes, coarseness), threshold, SAMPLE_MM * coarseness, line_mm)
    column = bundle.to_grid(matches.line_mm, matches.edges[:, :2].mean(axis=1))[:, 1]
    offset = np.interp(column, np.arange(len(chest.offset_mm)), chest.offset_mm)
    return largest_groups(matches.take(offset > -8), line_mm)


def _one_heart(matches: LineMatches, step_mm: float) -> LineMatches:
    """Keep the matches of neighbouring slices around the one with most lines, while the septum shifts smoothly."""
    if not len(matches):
        return matches
    counts = np.bincount(matches.plane)
    septum = np.bincount(matches.plane, matches.septum) / np.maximum(counts, 1)
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
    return matches.take((matches.plane >= ends[0]) & (matches.plane <= ends[1]))


def _measured(chest: Chest, rows: np.ndarray, bundle: LineBundle, matches: LineMatches, contrast: float) -> Ventricles:
    """Measure the widest lumina of the slices that show the pattern.

    Args:
        chest: the coarse grid.
        rows: (z,) grid planes that `matches.plane` refers to.
        bundle: the lines.
        matches: those with the pattern; at least one.
        contrast: blood minus muscle over the noise SD.
    """
    widths = _smoothed_widths(matches)
    lv = int(widths[:, 0].argmax())
    widest = np.zeros(int(matches.plane.max()) + 1)
    np.maximum.at(widest, matches.plane, widths[:, 0])
    clear = widths[:, 0] >= NEAR_WIDEST * widest[matches.plane]
    rv = int(np.where(clear, widths[:, 1], 0).argmax())

    def line_of(match: int, columns: list[int]) -> Line:
        ends = bundle.to_grid(matches.line_mm[match], matches.edges[match, columns])
        plane = float(chest.planes[rows[matches.plane[match]]])
        return Line(plane, *map(float, chest.stored(ends.ravel())))

    seen = chest.planes[rows[[matches.plane.min(), matches.plane.max()]]]
    return Ventricles(
        rv_mm=float(widths[rv, 1]),
        lv_mm=float(widths[lv, 0]),
        rv=line_of(rv, [2, 3]),
        lv=line_of(lv, [0, 1]),
        confidence=_confidence(matches, chest.step_mm, contrast),
        first_plane=float(seen[0]),
        last_plane=float(seen[1]),
    )


def _confidence(matches: LineMatches, step_mm: float, contrast: float) -> float:
    """0-1, from how much of the ventricles is seen and from the contrast-to-noise ratio of the blood."""
    slices = len(np.unique(matches.plane))
    lines = len(matches) / slices
    return float(min(1.0, slices * step_mm / 30) * min(1.0, lines * LINE_MM / 40) * min(1.0, contrast / 10))


def _smoothed_widths(matches: LineMatches) -> np.ndarray:
    """(n, 2) widths as means over three neighbouring lines; 1 mm is subtracted where a line lacks two neighbours."""
    smoothed = matches.widths - 1.0
    same = (matches.plane[1:] == matches.plane[:-1]) & (np.diff(matches.line_mm) < 1.5 * LINE_MM)
    inner = np.flatnonzero(same[1:] & same[:-1]) + 1
    smoothed[inner] = (matches.widths[inner - 1] + matches.widths[inner] + matches.widths[inner + 1]) / 3
    return smoothed
