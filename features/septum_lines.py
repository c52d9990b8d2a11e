"""Lines across the septum of the heart: sampling a bundle of parallel lines and matching the ventricles' HU pattern.

Along a line across the septum, from the back and left to the front and right, HU follow a pattern that no other
anatomy shows: wall and lumen of the left ventricle, septum, lumen of the right ventricle.
"""

from dataclasses import dataclass

import cv2
import numpy as np

REACH_MM = 84.0  # half length of a line, and half width of the bundle
SAMPLE_MM, LINE_MM = 1.0, 2.0
MUSCLE_HU = 60.0
SEPTUM_HU = (-10.0, 160.0)  # mean of the septum on the grid
WALL_HU = 0.0  # lowest mean of the wall behind the left ventricle; fat and lung are darker
SEPTUM_MM = (3.0, 20.0)
WALL_MM = (1.5, 6.0)  # distance behind the lumen at which the wall is sampled
LV_MM, RV_MM = (12.0, 75.0), (12.0, 85.0)
MIN_BUNDLE_MM = 12.0  # smallest extent of neighbouring lines with the pattern, in one slice
MAX_STEP_MM = 7.0  # a wall's shift between neighbouring lines; more means that another chamber or vessel joins


@dataclass(frozen=True)
class LineMatches:
    """Lines that show the pattern.

    Attributes:
        plane: (n,) index of the slice.
        line_mm: (n,) offset of the line in its bundle, positive towards the apex of the heart.
        edges: (n, 4) start and end of the left, then of the right ventricle's lumen, in mm from the line's middle,
            back to front.
    """

    plane: np.ndarray
    line_mm: np.ndarray
    edges: np.ndarray

    def take(self, rows: np.ndarray) -> "LineMatches":
        """The matches at indices or under a mask."""
        return LineMatches(self.plane[rows], self.line_mm[rows], self.edges[rows])

    def __len__(self) -> int:
        return len(self.plane)

    @property
    def septum(self) -> np.ndarray:
        """(n,) middle of the septum on each line, mm."""
        return self.edges[:, 1:3].mean(axis=1)

    @property
    def widths(self) -> np.ndarray:
        """(n, 2) widths of the lumina of LV and RV, mm."""
        return self.edges[:, [1, 3]] - self.edges[:, [0, 2]]


@dataclass(frozen=True)
class LineBundle:
    """Parallel lines through a slice: `across` points from LV to RV, `along` to the apex; grid pixels (y, x).

    Attributes:
        centre: (y, x) of the bundle's middle.
        degrees: direction of the lines, from the front towards the patient's right.
        pixel_mm: spacing of the grid.
    """

    centre: np.ndarray
    degrees: float
    pixel_mm: float

    @property
    def across(self) -> np.ndarray:
        """Unit vector (y, x) along a line."""
        angle = np.deg2rad(self.degrees)
        return np.array([-np.cos(angle), -np.sin(angle)])

    @property
    def along(self) -> np.ndarray:
        """Unit vector (y, x) from line to line."""
        angle = np.deg2rad(self.degrees)
        return np.array([-np.sin(angle), np.cos(angle)])

    def to_grid(self, line_mm: np.ndarray | float, sample_mm: np.ndarray | float) -> np.ndarray:
        """Convert positions on lines to grid pixels (..., 2), (y, x)."""
        line, sample = np.asarray(line_mm)[..., None], np.asarray(sample_mm)[..., None]
        return self.centre + (line * self.along + sample * self.across) / self.pixel_mm

    def sampled(self, planes: np.ndarray, coarseness: float = 1.0) -> np.ndarray:
        """Sample HU on all lines of all planes, float32 (z, line, sample); outside the image is air."""
        sample_mm, line_mm = SAMPLE_MM * coarseness, LINE_MM * coarseness
        size = (int(2 * REACH_MM / sample_mm) + 1, int(2 * REACH_MM / line_mm) + 1)
        origin = self.to_grid(-REACH_MM, -REACH_MM)
        step_b, step_a = self.across * sample_mm / self.pixel_mm, self.along * line_mm / self.pixel_mm
        matrix = np.array([[step_b[1], step_a[1], origin[1]], [step_b[0], step_a[0], origin[0]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.stack(
            [cv2.warpAffine(plane, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=-1000)
             for plane in planes]
        )  # fmt: skip


def match_lines(hu: np.ndarray, threshold: float, sample_mm: float, line_mm: float) -> LineMatches:
    """Find the lines that show wall, lumen, septum, lumen.

    Args:
        hu: (z, line, sample), samples from the back to the front, lines and samples centred on the bundle.
        threshold: HU above which a sample is blood.
        sample_mm, line_mm: spacing of samples and of lines.
    """
    lines = hu.shape[1]
    hu = hu.reshape(-1, hu.shape[2])
    row, edges = _lumen_pairs(hu, threshold, sample_mm)
    hu = hu[row]
    total = np.cumsum(hu, axis=1, dtype=np.float32)
    near, far = (max(1, round(distance / sample_mm)) for distance in WALL_MM)
    septum = _run_means(total, edges[:, 1], edges[:, 2])
    wall = _run_means(total, edges[:, 0] - far, edges[:, 0] - near)
    good = np.flatnonzero(_within(septum, SEPTUM_HU) & _within(wall, (WALL_HU, threshold + 20)))
    edges_mm = _half_edges(hu[good], total[good], edges[good]) * sample_mm - REACH_MM
    return LineMatches(row[good] // lines, (row[good] % lines) * line_mm - REACH_MM, edges_mm)


def _lumen_pairs(hu: np.ndarray, threshold: float, sample_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring runs of blood on a line whose widths and distance suit two ventricles.

    Args:
        hu: (line, sample).
        threshold: HU above which a sample is blood.
        sample_mm: spacing of samples.

    Returns:
        (n,) index of the line, and (n, 4) start and end (half open) of both runs, in samples.
    """
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
    widths = np.diff(edges, axis=1) * sample_mm
    good = _within(widths[:, 0], LV_MM) & _within(widths[:, 1], SEPTUM_MM) & _within(widths[:, 2], RV_MM)
    return row[good], edges[good]


def _run_means(total: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n,) mean of samples first:last of every line, from the lines' cumulative sums (n, sample)."""
    row, first, last = np.arange(len(total)), np.maximum(first, 1), np.maximum(last, 2)
    return (total[row, last - 1] - total[row, first - 1]) / np.maximum(last - first, 1)


def _half_edges(hu: np.ndarray, total: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, 4) positions, in samples, where HU cross the midpoint between muscle and each lumen's own blood.

    The threshold that found a lumen differs from that midpoint, so its edges are searched again from inside the lumen
    to 3 samples beyond, and interpolated linearly between two samples.

    Args:
        hu: (n, sample).
        total: (n, sample) cumulative sums of `hu`.
        edges: (n, 4) start and end (half open) of both lumina, in samples.
    """
    crossings = np.empty(edges.shape)
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
            crossings[:, column] = inner + outward * (at - 1 + fraction)
    return crossings


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values >= bounds[0]) & (values <= bounds[1])


def largest_groups(matches: LineMatches, line_mm: float) -> LineMatches:
    """Keep, in each slice, the largest group of neighbouring lines whose walls are continuous from line to line.

    Args:
        matches: sorted by slice and line.
        line_mm: spacing of the lines.
    """
    groups = []
    for plane in np.unique(matches.plane):
        rows = np.flatnonzero(matches.plane == plane)
        shift = np.abs(np.diff(matches.edges[rows], axis=0)).max(axis=1) * LINE_MM / line_mm
        jump = (np.diff(matches.line_mm[rows]) > 2.5 * line_mm) | (shift > MAX_STEP_MM)
        group = np.concatenate([[0], np.cumsum(jump)])
        sizes = np.bincount(group)
        if sizes.max() * line_mm >= MIN_BUNDLE_MM:
            groups.append(rows[group == sizes.argmax()])
    return matches.take(np.concatenate(groups) if groups else np.zeros(0, int))
