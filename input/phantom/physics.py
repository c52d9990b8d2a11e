"""Acquisition effects: contrast phase, streak artifacts, breathing motion, noise and reconstruction kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import correlate1d

from input.phantom.raster import Grid

#: Slices computed at once where every step reads what the one before wrote: they fit into a processor's cache.
CACHED_SLICES = 4


def cached_parts(count: int) -> Iterator[slice]:
    """Divide `count` slices into parts of CACHED_SLICES."""
    for start in range(0, count, CACHED_SLICES):
        yield slice(start, start + CACHED_SLICES)


@dataclass(frozen=True)
class Contrast:
    """Attenuation of blood by vessel, HU."""

    artery: float
    vein: float
    aorta: float
    cava: float
    right_heart: float
    left_heart: float
    lower_cava: float


@dataclass(frozen=True)
class Scanner:
    """Reconstruction of an exam, independent of its content."""

    manufacturer: str
    kernel: str
    blur_mm: float  # standard deviation of the point spread function
    sharpen: float  # strength of unsharp masking; 0 for a smooth kernel
    noise_sd: float  # HU
    grain_mm: float  # correlation length of the noise


#: Manufacturer, kernel, blur_mm, sharpen, grain_mm.
SCANNERS = (
    ("GE MEDICAL SYSTEMS", "STANDARD", 0.65, 0.0, 0.8),
    ("SIEMENS", "B30f", 0.75, 0.0, 0.95),
    ("SIEMENS", "B45f", 0.5, 0.25, 0.6),
    ("Philips", "B", 0.7, 0.0, 0.85),
    ("TOSHIBA", "FC08", 0.6, 0.0, 0.75),
    ("GE MEDICAL SYSTEMS", "LUNG", 0.4, 0.5, 0.5),
)
SCANNER_SHARES = (0.34, 0.26, 0.12, 0.14, 0.1, 0.04)


def sample_contrast(rng: np.random.Generator, *, poor: bool) -> Contrast:
    """Sample the contrast phase; `poor` gives one that a reader would call indeterminate (artery below 190 HU)."""
    artery = float(np.clip(rng.normal(385, 62), 290, 540))
    weak = float(rng.uniform(90, 185))
    vein = float(rng.uniform(270, 410))
    aorta = float(np.clip(vein + rng.normal(-5, 30), 250, 410))
    cava = float(np.exp(rng.uniform(np.log(320), np.log(1300))))
    if poor:
        # Either the scan was too late (all blood grey) or too early (cava bright, pulmonary vessels dark).
        late = rng.random() < 0.6
        artery, cava = weak, float(rng.uniform(120, 260)) if late else cava
        vein = weak * float(rng.uniform(0.8, 1.2)) if late else float(rng.uniform(50, 120))
        aorta = vein
    lower_cava = float(rng.uniform(50, 140))
    return Contrast(artery, vein, aorta, cava, artery * float(rng.uniform(0.92, 1.08)), vein, lower_cava)


def sample_scanner(rng: np.random.Generator, noise_sd: tuple[float, float]) -> Scanner:
    """Sample manufacturer, kernel and noise level; `noise_sd` is the range of the noise, HU."""
    name, kernel, blur, sharpen, grain = SCANNERS[rng.choice(len(SCANNERS), p=SCANNER_SHARES)]
    return Scanner(name, kernel, blur, sharpen, float(rng.uniform(*noise_sd)), grain)


def smooth(volume: np.ndarray, sd_pixels: float) -> np.ndarray:
    """Smooth a volume (z, y, x) in the axial plane with a Gaussian kernel of standard deviation `sd_pixels`."""
    if sd_pixels < 0.15:
        return volume
    reach = 1 if sd_pixels < 0.75 else int(np.ceil(2.5 * sd_pixels))
    if reach == 1:
        # Three taps with exactly this variance; cheaper than a sampled Gaussian.
        side = min(sd_pixels**2 / 2, 1 / 3)
        weights = np.array([side, 1 - 2 * side, side], np.float32)
    else:
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sd_pixels) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
    return correlate1d(correlate1d(volume, weights, axis=2, mode="nearest"), weights, axis=1, mode="nearest")


def add_streaks(volume: np.ndarray, grid: Grid, source: np.ndarray, strength: float, rng: np.random.Generator) -> None:
    """Add dark and bright streaks around a vein with undiluted contrast medium.

    Args:
        volume: HU, changed in place.
        grid: coordinates of the volume.
        source: (nz, 2) x, y of the vein in every slice, NaN where it is absent.
        strength: amplitude at the wall of the vein, HU.
        rng: the exam's stream for physics.
    """
    phases = rng.uniform(0, 2 * np.pi, (len(grid.z), 3))
    for i, (sx, sy) in enumerate(source):
        if not np.isfinite(sx):
            continue
        xs = slice(*np.searchsorted(grid.x, [sx - 80, sx + 80]).tolist())
        ys = slice(*np.searchsorted(grid.y, [sy - 80, sy + 80]).tolist())
        x, y = (grid.x[xs] - sx).astype(np.float32)[None, :], (grid.y[ys] - sy).astype(np.float32)[:, None]
        radius, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
        fan = (
            np.sin(5 * angle + phases[i, 0])
            + 0.8 * np.sin(9 * angle + phases[i, 1])
            + 0.6 * np.sin(15 * angle + phases[i, 2])
        )
        volume[i, ys, xs] += np.float32(strength) * fan * np.exp(-radius / 26) * np.clip((radius - 6) / 6, 0, 1)


def breathe(volume: np.ndarray, grid: Grid, amplitude_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Simulate breathing motion: every slice becomes the mean of copies shifted along y and x.

    The amplitude varies from slice to slice, since the table moves during the breath.

    Args:
        volume: HU, (z, y, x); not changed.
        grid: coordinates of the volume.
        amplitude_mm: largest shift, mm.
        rng: the exam's stream for physics.

    Returns:
        The blurred volume, (z, y, x).
    """
    relative = np.abs(np.sin(grid.z / 17.0 + rng.uniform(0, 6.3))) * 0.6 + 0.4
    moved = np.empty_like(volume)
    for i, plane in enumerate(volume):
        dy = round(amplitude_mm * float(relative[i]) / grid.pixel)
        dx = round(dy * float(rng.uniform(-0.6, 0.6)))
        copies = [np.roll(plane, (k * dy, k * dx), (0, 1)) for k in (-1, 1)]
        jump = round(float(rng.normal(0, amplitude_mm / 3)) / grid.pixel)
        moved[i] = np.roll(0.25 * plane + 0.4 * copies[0] + 0.35 * copies[1], jump, 0)
    return moved


def finish(volume: np.ndarray, grid: Grid, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Apply point spread, edge enhancement and correlated noise.

    Args:
        volume: HU, (z, y, x); not changed.
        grid: coordinates of the volume.
        scanner: kernel and noise level.
        rng: the exam's stream for noise.

    Returns:
        HU, float32 (z, y, x).
    """
    noise = rng.standard_normal(volume.shape, np.float32)
    for planes in cached_parts(len(noise)):
        noise[planes] = smooth(noise[planes], scanner.grain_mm / grid.pixel)
    sd = float(noise[len(noise) // 2].std())
    # Noise is lower where the rays pass through little tissue: at the front, back and sides.
    profile = np.float32(scanner.noise_sd / sd) * (
        1.15 - 0.35 * np.hypot(grid.x[None, :] / 150, grid.y[:, None] / 120).clip(0, 1.4)
    ).astype(np.float32)
    for planes in cached_parts(len(noise)):
        sharp = smooth(volume[planes], scanner.blur_mm / grid.pixel)
        if scanner.sharpen:
            sharp = sharp + np.float32(scanner.sharpen) * (sharp - smooth(sharp, 1.1 / grid.pixel))
        noise[planes] *= profile
        noise[planes] += sharp
    return noise
