"""Rasterization: voxel grids, and the anti-aliased coverage of tubes and ellipsoids on them.

Points are (x, y, z) in mm, LPS (x to the patient's left, y to the back, z to the head); arrays are (z, y, x).
Coverage is the share of a voxel that a shape fills, 0-1.
"""

from dataclasses import dataclass

import numpy as np

#: Sub-slice distance along z, mm: thicker slices are supersampled, so a vessel within a slice is averaged.
FINE_STEP_MM = 1.8
#: Tubes are painted in blocks of about this many voxels, to bound the memory.
BLOCK_VOXELS = 300_000

#: Index slices (z, y, x) of a part of a volume.
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Voxel centres of an exam or a part of it, in patient coordinates (mm)."""

    x: np.ndarray  # (nx,) ascending, to the patient's left
    y: np.ndarray  # (ny,) ascending, to the back
    z: np.ndarray  # (nz,) ascending, to the head
    step: float  # slice thickness and slice distance

    @property
    def pixel(self) -> float:
        """Pixel size in mm (square pixels)."""
        return float(self.x[1] - self.x[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nz, ny, nx)."""
        return len(self.z), len(self.y), len(self.x)

    @property
    def fine(self) -> int:
        """Number of sub-slices that are averaged per slice."""
        return max(1, round(self.step / FINE_STEP_MM))

    def box(self, low: np.ndarray, high: np.ndarray) -> Box:
        """Return the box between two points (x, y, z), mm; it may be empty."""
        ranges = []
        for axis, a, b, half in (
            (self.z, low[2], high[2], self.step / 2),
            (self.y, low[1], high[1], 0),
            (self.x, low[0], high[0], 0),
        ):
            start = int(np.searchsorted(axis, a - half, "left"))
            ranges.append(slice(start, max(start, int(np.searchsorted(axis, b + half, "right")))))
        return ranges[0], ranges[1], ranges[2]

    def part(self, box: Box) -> "Grid":
        """Return the grid of a box."""
        return Grid(self.x[box[2]], self.y[box[1]], self.z[box[0]], self.step)

    def open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, z as float32 arrays that broadcast to (nz, ny, nx)."""
        return (
            self.x.astype(np.float32)[None, None, :],
            self.y.astype(np.float32)[None, :, None],
            self.z.astype(np.float32)[:, None, None],
        )


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of round cross-section from `start` to `end`, with radius `r0` to `r1`."""

    start: np.ndarray  # (n, 3) mm
    end: np.ndarray  # (n, 3) mm
    r0: np.ndarray  # (n,) mm
    r1: np.ndarray  # (n,) mm

    def __len__(self) -> int:
        return len(self.r0)

    def take(self, chosen: np.ndarray) -> "Tubes":
        """Return the pieces with these indices, or where a boolean mask is true."""
        return Tubes(self.start[chosen], self.end[chosen], self.r0[chosen], self.r1[chosen])

    def thicker(self, by: float) -> "Tubes":
        """Return the same pieces with radii larger by `by` mm."""
        return Tubes(self.start, self.end, self.r0 + by, self.r1 + by)


def join(parts: list[Tubes]) -> Tubes:
    """Concatenate several sets of pieces."""
    return Tubes(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end", "r0", "r1")))


def polyline(points: list | np.ndarray, radii: list | np.ndarray | float, spacing: float = 6.0) -> Tubes:
    """Interpolate a smooth tube through points (Catmull-Rom spline).

    Args:
        points: (n, 3) mm.
        radii: (n,) mm, or one radius for all points.
        spacing: approximate length of a piece, mm.
    """
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    fine, widths = [points[:1]], [radii[:1]]
    for i in range(len(points) - 1):
        a, b, c, d = padded[i : i + 4]
        t = np.linspace(0, 1, max(1, round(float(np.linalg.norm(c - b)) / spacing)) + 1)[1:, None]
        fine.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3))
        widths.append(radii[i] + (radii[i + 1] - radii[i]) * t[:, 0])
    line, width = np.concatenate(fine), np.concatenate(widths)
    return Tubes(line[:-1], line[1:], width[:-1], width[1:])


def tube_coverage(grid: Grid, tubes: Tubes) -> tuple[Box, np.ndarray]:
    """Rasterize tubes.

    Every piece is painted in its own small box at `grid.fine` sub-slices per slice; pieces join by the maximum, and
    the sub-slices of a slice are averaged (partial volume).

    Returns:
        The box of the grid that the tubes touch, and their coverage in it, float32 (z, y, x).
    """
    soft = max(grid.pixel, 0.9)
    reach = np.maximum(tubes.r0, tubes.r1)[:, None] + soft / 2
    low, high = np.minimum(tubes.start, tubes.end) - reach, np.maximum(tubes.start, tubes.end) + reach
    empty = (slice(0, 0), slice(0, 0), slice(0, 0))
    if not len(tubes):
        return empty, np.zeros((0, 0, 0), np.float32)
    box = grid.box(low.min(axis=0), high.max(axis=0))
    part = grid.part(box)
    if 0 in part.shape:
        return empty, np.zeros((0, 0, 0), np.float32)
    fine_z = (part.z[:, None] + ((np.arange(grid.fine) + 0.5) / grid.fine - 0.5) * grid.step).ravel()
    scratch = np.zeros((len(fine_z), len(part.y), len(part.x)), np.float32)
    _paint(scratch, (part.x, part.y, fine_z), tubes, low, high, soft)
    return box, scratch.reshape(len(part.z), grid.fine, *scratch.shape[1:]).mean(axis=1, dtype=np.float32)


def _paint(volume: np.ndarray, axes: tuple, tubes: Tubes, low: np.ndarray, high: np.ndarray, soft: float) -> None:
    """Paint all pieces: the voxels near their axes as one ragged list, in blocks.

    Args:
        volume: coverage (z, y, x), changed in place.
        axes: coordinates x, y, z of the volume, mm; x in equal steps.
        tubes: the n pieces.
        low: (n, 3) the corner of each piece's box, mm.
        high: (n, 3) the opposite corner.
        soft: width of the edge, mm.
    """
    first = np.stack([np.searchsorted(axis, low[:, i], "left") for i, axis in enumerate(axes)], axis=1)
    last = np.stack([np.searchsorted(axis, high[:, i], "right") for i, axis in enumerate(axes)], axis=1)
    size = np.maximum(last - first, 0)
    pieces = np.flatnonzero(size.prod(axis=1))
    piece, number = _ragged(size[pieces, 1] * size[pieces, 2])
    piece = pieces[piece]
    iz, iy = np.divmod(number, size[piece, 1])
    iy, iz = iy + first[piece, 1], iz + first[piece, 2]
    start, stop = _row_bounds(axes, tubes, piece, iy, iz, soft)
    start, stop = np.maximum(start, first[piece, 0]), np.minimum(stop, last[piece, 0])
    kept = np.flatnonzero(stop > start)
    counts = (stop - start)[kept]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(kept):
        end = max(begin + 1, int(np.searchsorted(ends, (ends[begin - 1] if begin else 0) + BLOCK_VOXELS, "right")))
        rows = kept[begin:end]
        _paint_rows(volume, axes, tubes, piece[rows], (start[rows], iy[rows], iz[rows]), counts[begin:end], soft)
        begin = end


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate lists of the given lengths: the list of every entry, and its number in the list."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _row_bounds(
    axes: tuple, tubes: Tubes, piece: np.ndarray, iy: np.ndarray, iz: np.ndarray, soft: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bound the voxels of rows along x that a piece can reach: those near the infinite line through it.

    Args:
        axes: coordinates x, y, z of the volume, mm; x in equal steps.
        tubes: the pieces.
        piece: (rows,) piece of each row.
        iy: (rows,) its index along y.
        iz: (rows,) its index along z.
        soft: width of the edge, mm.

    Returns:
        The first index along x and the one past the last, (rows,); equal where the row is out of reach.
    """
    direction = tubes.end - tubes.start
    unit = (direction / np.maximum(np.linalg.norm(direction, axis=1), 1e-6)[:, None])[piece]
    reach = (np.maximum(tubes.r0, tubes.r1) + soft / 2 + 1e-3)[piece]
    y, z = axes[1][iy] - tubes.start[piece, 1], axes[2][iz] - tubes.start[piece, 2]
    along = y * unit[:, 1] + z * unit[:, 2]
    # At x from the start, the squared distance from the line is across * x^2 - 2 * slope * x + y^2 + z^2 - along^2.
    across = np.maximum(1 - unit[:, 0] ** 2, 1e-9)
    slope = unit[:, 0] * along
    square = slope**2 - across * (y**2 + z**2 - along**2 - reach**2)
    half = np.sqrt(np.maximum(square, 0)) / across
    middle = tubes.start[piece, 0] + slope / across
    step = axes[0][1] - axes[0][0] if len(axes[0]) > 1 else 1.0
    bounds = (np.stack([middle - half, middle + half]) - axes[0][0]) / step
    bounds = np.clip(bounds, -1, len(axes[0]) + 1)
    start, stop = np.ceil(bounds[0] - 1e-3).astype(int), np.floor(bounds[1] + 1e-3).astype(int) + 1
    return start, np.where(square < 0, start, stop)


def _paint_rows(
    volume: np.ndarray, axes: tuple, tubes: Tubes, piece: np.ndarray, first: tuple[np.ndarray, np.ndarray, np.ndarray],
    counts: np.ndarray, soft: float,
) -> None:  # fmt: skip
    """Paint rows along x, given by piece, indices (x, y, z) of the first voxel, and number of voxels, (rows,) each."""
    row, number = _ragged(counts)

    def repeated(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[row]

    ix = first[0][row] + number
    direction = (tubes.end - tubes.start)[piece].astype(np.float32)
    squared_length = ((tubes.end - tubes.start)[piece] ** 2).sum(axis=1)
    scaled = ((tubes.end - tubes.start)[piece] / np.maximum(squared_length, 1e-6)[:, None]).astype(np.float32)
    start = tubes.start[piece].astype(np.float32)
    y, z = (axes[i].astype(np.float32)[first[i]] - start[:, i] for i in (1, 2))
    x = axes[0].astype(np.float32)[ix] - repeated(start[:, 0])
    along = x * repeated(scaled[:, 0])
    along += repeated(y * scaled[:, 1])
    along += repeated(z * scaled[:, 2])
    np.clip(along, 0, 1, out=along)
    squared = np.zeros(len(row), np.float32)
    for i, offset in enumerate((x, repeated(y), repeated(z))):
        offset -= along * repeated(direction[:, i])
        squared += offset * offset
    radius = repeated(tubes.r0[piece])
    radius += along * repeated((tubes.r1 - tubes.r0)[piece])
    cover = (radius - np.sqrt(squared)) / np.float32(soft) + np.float32(0.5)
    inside = np.flatnonzero(cover > 0)
    base = (first[2] * volume.shape[1] + first[1]) * volume.shape[2]
    flat = base[row[inside]] + ix[inside]
    np.maximum.at(volume.reshape(-1), flat, np.minimum(cover[inside], np.float32(1)))


def ellipsoid_coverage(grid: Grid, centre: np.ndarray, axes: np.ndarray, semi: np.ndarray) -> tuple[Box, np.ndarray]:
    """Rasterize an ellipsoid with a soft edge.

    Args:
        grid: coordinates of the volume.
        centre: (3,) mm.
        axes: (3, 3) unit vectors as rows.
        semi: (3,) semi-axes in mm along the rows of `axes`.

    Returns:
        The box of the ellipsoid, and its coverage in it, float32 (z, y, x).
    """
    extent = np.sqrt(((axes * np.asarray(semi)[:, None]) ** 2).sum(axis=0)) + grid.pixel
    box = grid.box(np.asarray(centre) - extent, np.asarray(centre) + extent)
    distance = ellipsoid_distance(grid.part(box), centre, axes, semi)
    return box, np.clip(0.5 - distance / max(grid.pixel, 0.9), 0, 1)


def ellipsoid_distance(grid: Grid, centre: np.ndarray, axes: np.ndarray, semi: np.ndarray) -> np.ndarray:
    """Approximate the signed distance (mm) to the surface of an ellipsoid, negative inside.

    Args:
        grid: coordinates of the volume.
        centre: (3,) mm.
        axes: (3, 3) unit vectors as rows.
        semi: (3,) semi-axes in mm along the rows of `axes`.

    Returns:
        float32 (z, y, x).
    """
    x, y, z = grid.open()
    x, y, z = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    value = np.zeros(grid.shape, np.float32)
    for axis, length in zip(axes, semi, strict=True):
        a = (np.asarray(axis) / length).astype(np.float32)
        value += (a[0] * x + a[1] * y + a[2] * z) ** 2
    root = np.sqrt(value)
    # First-order distance along the ray from the centre, with the mean semi-axis as the scale.
    return (root - 1) * np.float32(np.mean(semi))
