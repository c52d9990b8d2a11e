"""The heart: four chambers with their walls, and the RV/LV ratio as a radiologist would measure it.

The left ventricle is an ellipsoid whose long axis points to the left, to the front and down. The right ventricle is
a larger ellipsoid in front of it, less the left ventricle and the septum, so it wraps around the septum. Diameters
are the widest extents across the septum in an axial slice.
"""

from dataclasses import dataclass, replace

import numpy as np

from input.phantom.patient import Patient, to_patient
from input.phantom.raster import Grid, ellipsoid_coverage, ellipsoid_distance
from input.phantom.thorax import heart_outline

SEPTUM_MM = 9.0
WALL_MM = 9.0
RV_WALL_MM = 3.5


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: centre (3,), unit axes as rows (3, 3) and semi-axes (3,); mm."""

    centre: np.ndarray
    axes: np.ndarray
    semi: np.ndarray

    def grown(self, by: float) -> "Ellipsoid":
        """Return the ellipsoid with every semi-axis longer by `by` mm."""
        return Ellipsoid(self.centre, self.axes, self.semi + by)


@dataclass(frozen=True)
class Heart:
    """Lumina of the chambers and the pericardium, in patient coordinates."""

    pericardium: Ellipsoid
    left_ventricle: Ellipsoid
    right_ventricle: Ellipsoid  # without `septal_side`, see `right_ventricle_distance`
    septal_side: Ellipsoid
    right_atrium: Ellipsoid
    left_atrium: Ellipsoid
    across: np.ndarray  # (3,) unit vector in the axial plane from LV to RV, across the septum
    rv_mm: float  # diameter across the septum
    lv_mm: float

    @property
    def ratio(self) -> float:
        """RV/LV diameter ratio."""
        return self.rv_mm / self.lv_mm


def build_heart(patient: Patient, ratio: float) -> Heart:
    """Build the chambers so that the RV/LV ratio measured on them is `ratio`, within about 1 %.

    The sum of both diameters is that of the patient's heart: a dilated right ventricle compresses the left one.
    """
    rng = patient.jitter
    size = float(np.mean(patient.scale)) * patient.heart
    diameter_sum = float(rng.normal(78, 3.5)) * size
    middle = to_patient(patient, [(13, -28, -78)])[0] + rng.normal(0, 2, 3)
    atria = (
        Ellipsoid(_moved(patient, (-37, -10, -76)), np.eye(3), np.array([22, 25, 30]) * size * rng.normal(1, 0.06)),
        Ellipsoid(_moved(patient, (2, 14, -56)), np.eye(3), np.array([35, 17, 21]) * size * rng.normal(1, 0.06)),
    )
    centre, axes, semi = heart_outline(patient)
    pericardium = Ellipsoid(to_patient(patient, [centre])[0], axes, semi * float(np.mean(patient.scale)) - 1.5)
    nominal = ratio
    for _ in range(4):
        heart = _ventricles(patient, middle, diameter_sum, nominal, size, pericardium, atria)
        # The heart is tilted, so diameters on axial slices differ a little from the axes of the ellipsoids.
        if abs(heart.ratio / ratio - 1) < 0.01:
            break
        nominal *= ratio / heart.ratio
    return heart


def _moved(patient: Patient, point: tuple[float, float, float]) -> np.ndarray:
    return to_patient(patient, [point])[0] + patient.jitter.normal(0, 1.5, 3)


def _ventricles(
    patient: Patient, middle: np.ndarray, diameter_sum: float, ratio: float, size: float, pericardium: Ellipsoid,
    atria: tuple[Ellipsoid, Ellipsoid],
) -> Heart:  # fmt: skip
    lv = diameter_sum / (1 + ratio)
    rv = diameter_sum - lv
    angle = np.deg2rad(40) + patient.tilt
    flat = np.array([np.cos(angle), -np.sin(angle), 0.0])
    across = np.array([-np.sin(angle), -np.cos(angle), 0.0])
    long = flat * 0.94 + np.array([0, 0, -0.34])
    axes = np.stack([long, across, np.cross(long, across)])
    # The two ventricles together stay centred in the pericardium.
    centre = middle - across * ((rv - lv) / 2 + 4) + flat * 6
    left = Ellipsoid(centre, axes, np.array([41 * size, lv / 2, max(lv / 2, 20) * 1.15]))
    # On the axis across the septum the right ventricle ends `rv` beyond the septum; its near part overlaps the
    # septal ellipsoid and is cut away.
    inward = min(0.55 * rv, 12.0)
    along = lv / 2 + SEPTUM_MM - inward + (rv + inward) / 2
    right = Ellipsoid(centre + across * along + flat * 2, axes, np.array([44 * size, (rv + inward) / 2, 37 * size]))
    left, right = _behind_sternum(patient, left, right)
    heart = Heart(pericardium, left, right, left.grown(SEPTUM_MM), *atria, across, rv, lv)
    rv_mm, lv_mm = measure_diameters(heart)
    return replace(heart, rv_mm=rv_mm, lv_mm=lv_mm)


def _behind_sternum(patient: Patient, left: Ellipsoid, right: Ellipsoid) -> tuple[Ellipsoid, Ellipsoid]:
    """Move both ventricles back together until the right one clears the sternum."""
    front = right.centre[1] - float(np.sqrt(((right.axes[:, 1] * right.semi) ** 2).sum()))
    limit = patient.shift[1] - 74 * patient.scale[1]
    back = np.array([0, max(0.0, limit - front), 0])
    return replace(left, centre=left.centre + back), replace(right, centre=right.centre + back)


def right_ventricle_distance(heart: Heart, grid: Grid) -> np.ndarray:
    """Approximate the signed distance (mm, negative inside) to the lumen of the right ventricle, (z, y, x)."""
    outer, septal = heart.right_ventricle, heart.septal_side
    return np.maximum(
        ellipsoid_distance(grid, outer.centre, outer.axes, outer.semi),
        -ellipsoid_distance(grid, septal.centre, septal.axes, septal.semi),
    )


def measure_diameters(heart: Heart, pixel: float = 0.7, step: float = 4.0) -> tuple[float, float]:
    """Measure the RV and LV diameters (mm) on axial slices of the lumina.

    The diameter of a lumen is its widest extent along `across` in any axial slice through the ventricles (the
    contest's readers compared the widest short-axis diameters on four-chamber slices).

    Args:
        heart: the chambers.
        pixel: pixel size of the slices, mm.
        step: slice distance, mm.
    """
    centre = (heart.left_ventricle.centre + heart.right_ventricle.centre) / 2
    reach = 75.0
    axis = np.arange(-reach, reach, pixel)
    grid = Grid(centre[0] + axis, centre[1] + axis, centre[2] + np.arange(-28.0, 28.1, step), step)
    left = heart.left_ventricle
    rv = right_ventricle_distance(heart, grid) < 0
    lv = ellipsoid_distance(grid, left.centre, left.axes, left.semi) < 0
    return (
        widest_extent(rv.astype(np.float32), grid, heart.across),
        widest_extent(lv.astype(np.float32), grid, heart.across),
    )


def widest_extent(cover: np.ndarray, grid: Grid, across: np.ndarray) -> float:
    """Measure the widest chord (mm) of a lumen along `across` in any axial slice.

    Args:
        cover: coverage of the lumen, (z, y, x), 0-1.
        grid: coordinates of `cover`.
        across: unit vector in the axial plane.
    """
    pixel = grid.pixel
    x, y, _ = grid.open()
    offset = (-across[1] * x + across[0] * y)[0] / pixel
    line = np.rint(offset - offset.min()).astype(int)
    area = np.stack([np.bincount(line.ravel(), weights=plane.ravel()) for plane in cover])
    # A line one pixel wide contains chord / pixel pixels; the mean of three lines reduces the rounding error.
    chords = (area[:, :-2] + area[:, 1:-1] + area[:, 2:]) / 3 * pixel
    return float(chords.max())


def paint_heart(volume: np.ndarray, heart: Heart, grid: Grid, hu: dict[str, float]) -> dict[str, np.ndarray]:
    """Blend the heart into a volume.

    Args:
        volume: HU, (z, y, x), changed in place.
        heart: the chambers.
        grid: coordinates of the volume.
        hu: attenuation of "fat", "muscle", "rv", "lv", "ra", "la".

    Returns:
        Coverage (z, y, x) of the lumina "lv" and "rv".
    """
    _blend_ellipsoid(volume, grid, heart.pericardium, hu["fat"])
    for wall in (heart.left_ventricle.grown(WALL_MM), heart.right_atrium.grown(2), heart.left_atrium.grown(2)):
        _blend_ellipsoid(volume, grid, wall, hu["muscle"])
    _blend_ellipsoid(volume, grid, heart.right_ventricle.grown(RV_WALL_MM), hu["muscle"])
    _blend_ellipsoid(volume, grid, heart.right_atrium, hu["ra"])
    _blend_ellipsoid(volume, grid, heart.left_atrium, hu["la"])
    lumina = {"lv": _blend_ellipsoid(volume, grid, heart.left_ventricle, hu["lv"])}
    cover = np.zeros(grid.shape, np.float32)
    outer = heart.right_ventricle
    extent = np.full(3, float(outer.semi.max()) + 3)
    box = grid.box(outer.centre - extent, outer.centre + extent)
    cover[box] = np.clip(0.5 - right_ventricle_distance(heart, grid.part(box)) / max(grid.pixel, 0.9), 0, 1)
    volume[box] += cover[box] * (np.float32(hu["rv"]) - volume[box])
    lumina["rv"] = cover
    return lumina


def _blend_ellipsoid(volume: np.ndarray, grid: Grid, shape: Ellipsoid, value: float) -> np.ndarray:
    """Blend an ellipsoid of attenuation `value` (HU) into the volume; returns its coverage (z, y, x)."""
    box, cover = ellipsoid_coverage(grid, shape.centre, shape.axes, shape.semi)
    volume[box] += cover * (np.float32(value) - volume[box])
    whole = np.zeros(grid.shape, np.float32)
    whole[box] = cover
    return whole
