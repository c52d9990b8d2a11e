"""Faults that turn a clean exam into one that must not be read without a warning; for benchmarks.acceptance.

Seven kinds (`TUNED`) may be looked at while thresholds are chosen; eight (`HELD_OUT`) only score the result. Each shift
changes HU and positions of a series as it is read, before the lung box is found.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from input.dicom import Series

HU_RANGE = (-1024, 3071)
Shift = Callable[[Series, np.random.Generator], Series]


def _with_hu(series: Series, hu: np.ndarray) -> Series:
    return dataclasses.replace(series, hu=np.clip(np.round(hu), *HU_RANGE).astype(np.int16))


def _with_planes(series: Series, rows: np.ndarray) -> Series:
    """The series with some of its planes, given as ascending rows."""
    sops = tuple(np.array(series.sop_uids)[rows].tolist())
    return dataclasses.replace(series, hu=series.hu[rows], z_mm=series.z_mm[rows], sop_uids=sops)


def _lung(hu: np.ndarray) -> np.ndarray:
    """Rough mask of aerated lung, bool (z, y, x): dark regions that do not touch the image's border."""
    labels, count = ndimage.label(hu < -500)
    rims = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    outside = np.isin(np.arange(count + 1), np.unique(np.concatenate([rim.ravel() for rim in rims])))
    outside[0] = True
    return ~outside[labels]


def hu_too_high(series: Series, rng: np.random.Generator) -> Series:
    """Stored values read without their intercept."""
    return _with_hu(series, series.hu.astype(float) + 1024)


def unenhanced(series: Series, rng: np.random.Generator) -> Series:
    """The same patient without contrast: blood at 45 HU, bone unchanged."""
    blood = (series.hu > 80) & (series.hu < 700)
    return _with_hu(series, np.where(blood, 45 + rng.normal(0, 12, series.hu.shape), series.hu))


def no_lungs(series: Series, rng: np.random.Generator) -> Series:
    """Another part of the body: soft tissue in place of the lungs."""
    return _with_hu(series, np.where(_lung(series.hu), 45 + rng.normal(0, 12, series.hu.shape), series.hu))


def upside_down(series: Series, rng: np.random.Generator) -> Series:
    """The order of the planes contradicts the anatomy: the lungs' bases are on top."""
    return dataclasses.replace(series, hu=series.hu[::-1].copy())


def missing_middle(series: Series, rng: np.random.Generator) -> Series:
    """A third of the planes is missing in one piece."""
    count = len(series.hu)
    start = int(rng.integers(count // 4, count // 2))
    return _with_planes(series, np.r_[0:start, start + count // 3 : count])


def noisy(series: Series, rng: np.random.Generator) -> Series:
    """Far too little dose: correlated noise of 90 HU."""
    noise = ndimage.gaussian_filter(rng.normal(0, 1, series.hu.shape), (0, 0.8, 0.8))
    return _with_hu(series, series.hu + 90 * noise / noise.std())


def cut_above_the_heart(series: Series, rng: np.random.Generator) -> Series:
    """Only the upper 40 % of the planes were sent."""
    return _with_planes(series, np.arange(round(0.6 * len(series.hu)), len(series.hu)))


def wrapped_12_bit(series: Series, rng: np.random.Generator) -> Series:
    """Signed 12-bit values read as unsigned: HU below zero become 4096 + HU."""
    return _with_hu(series, np.where(series.hu < 0, series.hu.astype(float) + 4096, series.hu))


def mirrored(series: Series, rng: np.random.Generator) -> Series:
    """Left and right are exchanged: the heart is on the right."""
    return dataclasses.replace(series, hu=series.hu[:, :, ::-1].copy())


def narrow_field_of_view(series: Series, rng: np.random.Generator) -> Series:
    """A field of view around the heart that cuts both lungs: padding outside a circle of 75 mm radius."""
    rows, columns = series.hu.shape[1:]
    y = (np.arange(rows) - rows / 2)[:, None] * series.spacing_mm[0]
    x = (np.arange(columns) - columns / 2)[None] * series.spacing_mm[1]
    return _with_hu(series, np.where(np.hypot(y, x) < 75, series.hu, HU_RANGE[0]))


def metal(series: Series, rng: np.random.Generator) -> Series:
    """A large implant in the spine over half of the planes, with dark and bright streaks."""
    hu = series.hu.astype(float)
    count, rows, columns = hu.shape
    y = (np.arange(rows) - 0.66 * rows)[:, None] * series.spacing_mm[0]
    x = (np.arange(columns) - columns / 2)[None] * series.spacing_mm[1]
    distance, angle = np.hypot(y, x), np.arctan2(y, x)
    planes = slice(count // 4, 3 * count // 4)
    streaks = 260 * np.sin(9 * angle + rng.uniform(0, 6)) * np.exp(-distance / 90)
    hu[planes] += np.where(series.hu[planes] > HU_RANGE[0], streaks, 0)
    hu[planes, distance < 11] = HU_RANGE[1]
    return _with_hu(series, hu)


def moving(series: Series, rng: np.random.Generator) -> Series:
    """Breathing and coughing: every plane is shifted by up to 14 mm and shows two positions at once."""
    hu = np.empty(series.hu.shape, float)
    for row, plane in enumerate(series.hu.astype(float)):
        first, second = (rng.uniform(-14, 14, 2) / series.spacing_mm for _ in range(2))
        hu[row] = (ndimage.shift(plane, first, order=1, mode="nearest") + plane) / 2
        hu[row] = ndimage.shift(hu[row], second, order=1, mode="nearest")
    return _with_hu(series, hu)


def windowed(series: Series, rng: np.random.Generator) -> Series:
    """Grey values of a screenshot in the PE window, 0 to 255, in place of HU."""
    return _with_hu(series, np.clip((series.hu.astype(float) + 250) / 700 * 255, 0, 255))


def blurred(series: Series, rng: np.random.Generator) -> Series:
    """A smooth kernel and coarse pixels: vessels under a centimetre disappear."""
    sigma = (0.0, *(6 / mm for mm in series.spacing_mm))
    return _with_hu(series, ndimage.gaussian_filter(series.hu.astype(float), sigma))


def one_lung(series: Series, rng: np.random.Generator) -> Series:
    """One lung is opaque: pneumonectomy, complete atelectasis or a massive effusion."""
    half = np.arange(series.hu.shape[2]) < series.hu.shape[2] / 2
    side = half if rng.random() < 0.5 else ~half
    opaque = _lung(series.hu) & side
    return _with_hu(series, np.where(opaque, 25 + rng.normal(0, 12, series.hu.shape), series.hu))


TUNED: dict[str, Shift] = {
    shift.__name__: shift
    for shift in (hu_too_high, unenhanced, no_lungs, upside_down, missing_middle, noisy, cut_above_the_heart)
}
HELD_OUT: dict[str, Shift] = {
    shift.__name__: shift
    for shift in (wrapped_12_bit, mirrored, narrow_field_of_view, metal, moving, windowed, blurred, one_lung)
}
