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
    """Paint all pieces: the voxels of all their boxes as one ragged list, in blocks."""
    first = np.stack([np.searchsorted(axis, low[:, i], "left") for i, axis in enumerate(axes)], axis=1)
    last = np.stack([np.searchsorted(axis, high[:, i], "right") for i, axis in enumerate(axes)], axis=1)
    size = np.maximum(last - first, 0)
    counts = size.prod(axis=1)
    order = np.flatnonzero(counts)
    ends = np.cumsum(counts[order])
    start = 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + BLOCK_VOXELS, "right")))
        _paint_block(volume, axes, tubes, first, size, counts, order[start:stop], soft)
        start = stop


def _paint_block(
    volume: np.ndarray, axes: tuple, tubes: Tubes, first: np.ndarray, size: np.ndarray, counts: np.ndarray,
    pieces: np.ndarray, soft: float,
) -> None:  # fmt: skip
    n = counts[pieces]
    piece = np.repeat(np.arange(len(pieces), dtype=np.int32), n)
    local = np.arange(len(piece), dtype=np.int32) - np.repeat((np.cumsum(n) - n).astype(np.int32), n)
    nx, ny = size[pieces, 0].astype(np.int32)[piece], size[pieces, 1].astype(np.int32)[piece]
    row, ix = np.divmod(local, nx)
    iz, iy = np.divmod(row, ny)
    corner = first[pieces].astype(np.int32)
    ix, iy, iz = ix + corner[piece, 0], iy + corner[piece, 1], iz + corner[piece, 2]
    direction = (tubes.end - tubes.start)[pieces]
    scaled = direction / np.maximum((direction**2).sum(axis=1), 1e-6)[:, None]
    offsets, along = [], np.zeros(len(piece), np.float32)
    for i, index in enumerate((ix, iy, iz)):
        offset = axes[i].astype(np.float32)[index] - tubes.start[pieces, i].astype(np.float32)[piece]
        along += offset * scaled[:, i].astype(np.float32)[piece]
        offsets.append(offset)
    np.clip(along, 0, 1, out=along)
    squared = np.zeros(len(piece), np.float32)
    for i, offset in enumerate(offsets):
        offset -= along * direction[:, i].astype(np.float32)[piece]
        squared += offset * offset
    radius = tubes.r0[pieces].astype(np.float32)[piece]
    radius += along * (tubes.r1 - tubes.r0)[pieces].astype(np.float32)[piece]
    cover = (radius - np.sqrt(squared)) / np.float32(soft) + np.float32(0.5)
    inside = np.flatnonzero(cover > 0)
    flat = (iz[inside].astype(np.int64) * volume.shape[1] + iy[inside]) * volume.shape[2] + ix[inside]
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
