"""The lung box: the extent of the lungs, found from HU without learning, on a coarse grid in a few ms.

Lungs are the largest air-like regions inside the body. Air around the patient touches the image's border or is too
empty (about -1000 HU); bowel gas and trachea are small or empty. A consolidated side is completed by symmetry about
the body's midline. Where no lungs are found, the box is the body's, and its `found` is False.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from features.masks import grow, shrink

AIR_HU = -400  # below: air or lung
EMPTY_HU = -980  # below: air without tissue
MIN_LUNG_AREA_MM2 = 2500.0  # both lungs together, in the slice that shows most lung
MIN_SHARE_OF_LARGEST = 0.08  # smaller regions are gas elsewhere or fragments
MIN_DEPTH_OF_WIDTH = 0.55  # shallower lungs have lost their dependent part to consolidation
MIN_SIDE_OF_OTHER = 0.75  # a side narrower than this fraction of the other is completed by symmetry
MAX_COARSE_SLICES = 48
#: Assumed where the spacing is unknown (the 256-pixel derivative): a field of view of 360 mm, usual for CTPA.
NOMINAL_PIXEL_MM = 1.4
THIN_RADIUS = 2  # coarse pixels: structures thinner than five of them are not body

Extent = list[tuple[float, float]]


@dataclass(frozen=True)
class Box:
    """A half-open box in pixels of the series.

    Attributes:
        y0, y1, x0, x1: in-plane bounds.
        z0, z1: the slices that show lung.
        middle_x: pixel column of the patient's midline (larger columns: the patient's left).
        found: False when no lungs were found and the box is the body's.
    """

    y0: int
    y1: int
    x0: int
    x1: int
    z0: int
    z1: int
    middle_x: float
    found: bool

    def as_dict(self) -> dict[str, float | bool]:
        """Plain values for JSON."""
        return asdict(self)


def find_lung_box(
    hu_zyx: np.ndarray,
    spacing_mm: tuple[float, float],
    *,
    margin_mm: float = 10.0,
    max_box_mm: float = 420.0,
    grid_mm: float = 4.0,
) -> Box:
    """Find the in-plane box of the lungs and the slices that show them.

    Args:
        hu_zyx: HU (z, y, x), +x to the patient's left, +y to the back; one slice or more.
        spacing_mm: (y, x) pixel spacing; where NaN, pixels are assumed to measure `NOMINAL_PIXEL_MM`.
        margin_mm: added on every side, then clipped to the image.
        max_box_mm: a longer side is clipped about its centre.
        grid_mm: spacing of the coarse grid; a finer one costs time and gains little.
    """
    spacing_mm = known_spacing(spacing_mm, NOMINAL_PIXEL_MM)
    z_step = -(-len(hu_zyx) // MAX_COARSE_SLICES)
    y_step, x_step = (max(1, round(grid_mm / spacing)) for spacing in spacing_mm)
    # Samples, not means: lung and body differ by hundreds of HU, which noise does not bridge.
    coarse = hu_zyx[::z_step, y_step // 2 :: y_step, x_step // 2 :: x_step]
    steps = (z_step, y_step, x_step)
    pixel_mm2 = spacing_mm[0] * y_step * spacing_mm[1] * x_step
    body = _extent(_body(coarse), 0.5)
    lungs = _lungs(coarse)
    if lungs is not None and lungs.sum(axis=(1, 2)).max() * pixel_mm2 < MIN_LUNG_AREA_MM2:
        lungs = None
    middle = (body[2][0] + body[2][1]) / 2
    extent = body
    if lungs is not None:
        extent = _complete(_extent(lungs, 0.1), middle, y_step * spacing_mm[0], x_step * spacing_mm[1])
    (y0, y1), (x0, x1) = (
        _in_pixels(extent[axis], steps[axis], hu_zyx.shape[axis], spacing_mm[axis - 1], margin_mm, max_box_mm)
        for axis in (1, 2)
    )
    z0, z1 = int(extent[0][0]) * z_step, min(len(hu_zyx), int(extent[0][1]) * z_step)
    return Box(y0, y1, x0, x1, z0, max(z1, z0 + 1), float(middle * x_step), lungs is not None)


def known_spacing(spacing_mm: tuple[float, float], default_mm: float) -> tuple[float, float]:
    """Return the spacing, or `default_mm` on both axes where it is unknown (NaN)."""
    return spacing_mm if np.isfinite(spacing_mm).all() else (default_mm, default_mm)


def _lungs(coarse: np.ndarray) -> np.ndarray | None:
    """Mask of the lungs on the coarse grid; None when no region looks like lung."""
    air = coarse < AIR_HU
    labels, count = ndimage.label(air)
    if count == 0:
        return None
    flat = labels.ravel()
    voxels = np.bincount(flat, minlength=count + 1)
    lung_like = np.bincount(flat[(coarse > EMPTY_HU).ravel()], minlength=count + 1) / np.maximum(voxels, 1)
    rims = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    at_rim = np.bincount(np.concatenate([rim.ravel() for rim in rims]), minlength=count + 1)
    rim_share = at_rim / sum(rim.size for rim in rims)
    # In a narrow field of view the lungs touch the border a little; room air fills the border.
    usable = (rim_share < 0.05) & (lung_like > 0.6)
    usable[0] = False
    if not usable.any():
        return None
    voxels = np.where(usable, voxels, 0)
    return (voxels >= MIN_SHARE_OF_LARGEST * voxels.max())[labels]


def _body(coarse: np.ndarray) -> np.ndarray:
    """Mask of the largest region that is not air, without the table and thin objects around the patient."""
    solid = coarse >= AIR_HU
    labels, count = ndimage.label(grow(shrink(solid, THIN_RADIUS), THIN_RADIUS))
    if count == 0:
        return np.ones_like(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def _extent(mask: np.ndarray, percent: float) -> Extent:
    """First and last index (half open) of the mask along each axis, excluding `percent` of it at either end."""
    extents: Extent = []
    for axis in range(3):
        profile = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        cumulated = np.cumsum(profile) / profile.sum()
        first = int(np.searchsorted(cumulated, percent / 100, side="right"))
        last = int(np.searchsorted(cumulated, 1 - percent / 100))
        extents.append((first, last + 1))
    return extents


def _complete(extent: Extent, middle: float, y_mm: float, x_mm: float) -> Extent:
    """Restore what consolidation hides: widen a narrow side by symmetry, deepen a shallow box to the back."""
    z, (y0, y1), (x0, x1) = extent
    right, left = middle - x0, x1 - middle
    wider = max(right, left)
    x0 = middle - max(right, MIN_SIDE_OF_OTHER * wider)
    x1 = middle + max(left, MIN_SIDE_OF_OTHER * wider)
    depth = MIN_DEPTH_OF_WIDTH * (x1 - x0) * x_mm / y_mm
    return [z, (y0, max(y1, y0 + depth)), (x0, x1)]


def _in_pixels(
    extent: tuple[float, float], step: int, size: int, pixel_mm: float, margin_mm: float, max_mm: float
) -> tuple[int, int]:
    """Convert a coarse extent to pixels with margin, within the image and not longer than `max_mm`."""
    low, high = extent[0] * step - margin_mm / pixel_mm, extent[1] * step + margin_mm / pixel_mm
    low, high = max(0.0, low), min(float(size), high)
    excess = (high - low) - max_mm / pixel_mm
    if excess > 0:
        low, high = low + excess / 2, high - excess / 2
    first = int(np.floor(low + 0.5))
    return first, max(first + 1, min(size, int(np.floor(high + 0.5))))
