"""Geometry of the thorax as fields in mm: thoracic cage, mediastinum, diaphragm, pericardium and lungs.

The cage is a rounded ellipse whose semi-axes change with height. The lungs are the cage without the mediastinum (a
table of half-widths), the heart, the spine and the organs below the diaphragm. Reference coordinates are those of the
reference anatomy: patient coordinates less `Patient.shift`, divided by `Patient.scale`.
"""

from dataclasses import dataclass

import numpy as np

from input.phantom.patient import Patient
from input.phantom.raster import Grid

Z_KNOTS = np.array([-220, -170, -120, -60, -20, 20, 50, 75, 95, 106, 112], float)
#: Half width and half depth of the inner surface of the cage at the heights Z_KNOTS, mm.
HALF_WIDTH = np.array([118, 122, 122, 119, 115, 108, 96, 78, 52, 26, 6], float)
HALF_DEPTH = np.array([88, 88, 87, 84, 80, 75, 68, 57, 42, 22, 5], float)

MEDIASTINUM_Y = np.array([-95, -80, -60, -35, -10, 15, 40, 60, 80], float)
MEDIASTINUM_Z = np.array([-120, -80, -40, -15, 10, 40, 70, 95], float)
#: Distance of the edges of the mediastinum from the midline, mm; rows by z, columns by y.
RIGHT_EDGE = np.array(
    [
        [12, 12, 30, 40, 42, 28, 18, 21, 24],
        [6, 8, 22, 44, 48, 26, 16, 20, 24],
        [5, 5, 12, 36, 44, 36, 17, 20, 24],
        [4, 4, 8, 30, 40, 36, 18, 20, 24],
        [4, 4, 10, 30, 38, 28, 20, 21, 25],
        [8, 9, 20, 32, 32, 24, 20, 22, 25],
        [22, 24, 30, 36, 34, 28, 24, 26, 28],
        [38, 38, 38, 38, 36, 34, 32, 34, 36],
    ],
    float,
)
LEFT_EDGE = np.array(
    [
        [30, 34, 50, 56, 44, 30, 24, 22, 24],
        [12, 16, 44, 52, 44, 28, 22, 21, 24],
        [6, 7, 26, 42, 44, 36, 22, 20, 24],
        [4, 4, 14, 34, 44, 38, 22, 20, 24],
        [4, 4, 12, 30, 38, 32, 24, 21, 25],
        [8, 9, 20, 32, 36, 34, 28, 22, 25],
        [22, 24, 30, 36, 36, 32, 28, 26, 28],
        [38, 38, 38, 38, 36, 34, 32, 34, 36],
    ],
    float,
)


@dataclass(frozen=True)
class CageField:
    """The thoracic cage evaluated on a grid."""

    x: np.ndarray  # reference mm, broadcastable
    y: np.ndarray
    z: np.ndarray
    rho: np.ndarray  # (z, y, x), relative radius: 1 on the inner surface
    outside: np.ndarray  # (z, y, x), mm outside the inner surface; negative inside
    angle: np.ndarray  # (z, y, x), from -1 (front) to 1 (back)


def cage_field(patient: Patient, grid: Grid) -> CageField:
    """Evaluate the cage on a grid."""
    x, y, z = reference_axes(patient, grid)
    a, b = cage_axes(patient, z)
    u, v = (x / a) ** 2, (y / b) ** 2
    # A squircle: flatter sides and back than an ellipse.
    rho = np.sqrt(np.maximum(u + v - np.float32(0.55) * u * v / (u + v + np.float32(1e-6)), 1e-6))
    radius = np.sqrt(x * x + y * y)
    outside = radius - radius / rho
    angle = v / (u + v + np.float32(1e-6)) * np.sign(y)
    return CageField(x, y, z, rho, outside, angle)


def reference_axes(patient: Patient, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map x, y, z of a grid to reference coordinates; float32, broadcastable."""
    x, y, z = (
        ((axis - np.float32(shift)) / np.float32(scale)).astype(np.float32)
        for axis, shift, scale in zip(grid.open(), patient.shift, patient.scale, strict=True)
    )
    return x, y, z


def cage_axes(patient: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half width and half depth of the cage (reference mm) at heights z, constant beyond its ends."""
    kyphosis = 1 + patient.kyphosis / 400
    a = np.interp(z, Z_KNOTS, HALF_WIDTH).astype(np.float32)
    b = (np.interp(z, Z_KNOTS, HALF_DEPTH) * kyphosis).astype(np.float32)
    return a, b


def mediastinum_edges(y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x of the right (negative) and left (positive) edge of the mediastinum, mm; y and z broadcast."""
    fy = np.interp(y, MEDIASTINUM_Y, np.arange(len(MEDIASTINUM_Y)))
    fz = np.interp(z, MEDIASTINUM_Z, np.arange(len(MEDIASTINUM_Z)))
    iy, iz = np.minimum(fy.astype(int), len(MEDIASTINUM_Y) - 2), np.minimum(fz.astype(int), len(MEDIASTINUM_Z) - 2)
    ty, tz = fy - iy, fz - iz
    edges = []
    for table in (RIGHT_EDGE, LEFT_EDGE):
        low = table[iz, iy] * (1 - ty) + table[iz, iy + 1] * ty
        high = table[iz + 1, iy] * (1 - ty) + table[iz + 1, iy + 1] * ty
        edges.append((low * (1 - tz) + high * tz).astype(np.float32))
    return -edges[0], edges[1]


def dome_height(patient: Patient, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the height of the diaphragm (reference mm).

    Args:
        patient: the patient's dimensions.
        x: reference mm.
        y: reference mm.
        rho: relative radius in the cage; the arrays broadcast.
    """
    top = np.where(x < 0, np.float32(-98), np.float32(-110)) + np.float32(patient.dome)
    across = np.where(x < 0, x + 60, x - 62) / np.float32(75)
    along = (y + 12) / np.float32(75)
    back = np.maximum(y, 0) / np.float32(80)
    return top - 22 * (across * across + along * along) - 42 * back * back - 18 * rho * rho * rho


def heart_outline(patient: Patient) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, axes (rows) and semi-axes of the pericardium, reference mm."""
    angle = np.deg2rad(38) + patient.tilt
    u = np.array([np.cos(angle) * 0.94, -np.sin(angle) * 0.94, -0.34])
    v = np.array([-np.sin(angle), -np.cos(angle), 0.0])
    w = np.cross(u, v)
    return np.array([12.0, -28.0, -76.0]), np.stack([u, v, w]), np.array([66.0, 50.0, 50.0]) * patient.heart


def lung_margin(patient: Patient, cage: CageField) -> np.ndarray:
    """Return the approximate depth in the lung (mm, negative outside), (z, y, x) or (n,) as the cage."""
    x, y, z = cage.x, cage.y, cage.z
    right, left = mediastinum_edges(y, z)
    margin = np.minimum(-cage.outside, np.maximum(x - left, right - x))
    np.minimum(margin, z - dome_height(patient, x, y, cage.rho), out=margin)
    # The spine and the heart indent the lungs.
    spine = np.sqrt((x / 1.1) ** 2 + (y - 62) ** 2) - np.float32(19)
    np.minimum(margin, spine, out=margin)
    centre, axes, semi = heart_outline(patient)
    value = 0
    for axis, length in zip(axes, semi, strict=True):
        a = (axis / length).astype(np.float32)
        value = (
            value
            + (
                a[0] * (x - np.float32(centre[0]))
                + a[1] * (y - np.float32(centre[1]))
                + a[2] * (z - np.float32(centre[2]))
            )
            ** 2
        )
    np.minimum(margin, (np.sqrt(value) - 1) * np.float32(50), out=margin)
    return margin


def lung_points(patient: Patient, count: int, rng: np.random.Generator, margin: float = 4.0) -> np.ndarray:
    """Sample points uniformly in the lungs.

    Args:
        patient: the patient's dimensions.
        count: number of points.
        rng: random generator.
        margin: least depth below the surface of the lung, mm.

    Returns:
        (count, 3) reference mm.
    """
    accepted: list[np.ndarray] = []
    total = 0
    while total < count:
        points = rng.uniform([-122, -90, -175], [122, 90, 108], (count * 4, 3))
        inside = points[point_margin(patient, points) > margin]
        accepted.append(inside)
        total += len(inside)
    return np.concatenate(accepted)[:count]


def point_margin(patient: Patient, points: np.ndarray) -> np.ndarray:
    """Return the depth in the lung, as `lung_margin`, of reference points (n, 3)."""
    x, y, z = points.astype(np.float32).T
    a, b = cage_axes(patient, z)
    u, v = (x / a) ** 2, (y / b) ** 2
    rho = np.sqrt(np.maximum(u + v - np.float32(0.55) * u * v / (u + v + np.float32(1e-6)), 1e-6))
    radius = np.sqrt(x * x + y * y)
    return lung_margin(patient, CageField(x, y, z, rho, radius - radius / rho, rho))
