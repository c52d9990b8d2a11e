"""A thorax of ellipses for tests: body, two lungs, spine and enhanced blood; much simpler than `input.phantom`."""

import numpy as np

#: Attenuation, HU.
AIR, LUNG, MUSCLE, BLOOD, BONE = -1000, -850, 46, 350, 600


def ellipse(
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    centre_mm: tuple[float, float],
    radii_mm: tuple[float, float],
) -> np.ndarray:
    """Return the mask of an ellipse, bool (y, x).

    Args:
        shape: (y, x) pixels of the image.
        spacing_mm: (y, x) pixel spacing.
        centre_mm: (y, x) from the centre of the image.
        radii_mm: (y, x) semi-axes.
    """
    y, x = (
        (np.arange(size) - (size - 1) / 2) * pixel - centre
        for size, pixel, centre in zip(shape, spacing_mm, centre_mm, strict=True)
    )
    return (y[:, None] / radii_mm[0]) ** 2 + (x[None] / radii_mm[1]) ** 2 <= 1


def make_thorax(
    n_slices: int = 12,
    side: int = 128,
    pixel_mm: float = 3.0,
    *,
    noise: float = 12.0,
    right: bool = True,
    left: bool = True,
    seed: int = 0,
    shift_mm: float = 0.0,
) -> np.ndarray:
    """Generate a thorax, int16 HU (z, y, x), feet to head, with the patient's right on the left of the image.

    The outer edges of the lungs are at x = -130 and 130 mm, y = -80 and 80 mm from the centre of the thorax.

    Args:
        n_slices: number of slices; the first and last two have no lungs, unless there are fewer than five slices.
        side: rows and columns.
        pixel_mm: pixel spacing.
        noise: standard deviation of the noise, HU.
        right: with the right lung.
        left: with the left lung.
        seed: seed of the noise.
        shift_mm: displacement of the thorax along x.
    """
    spacing, shape = (pixel_mm, pixel_mm), (side, side)

    def centre(y: float, x: float) -> tuple[float, float]:
        return y, x + shift_mm

    body = ellipse(shape, spacing, centre(0, 0), (115, 165))
    right_lung = ellipse(shape, spacing, centre(0, -80), (80, 50))
    left_lung = ellipse(shape, spacing, centre(0, 80), (80, 50))
    hu = np.full((n_slices, *shape), AIR, np.float32)
    hu[:, body] = MUSCLE
    with_lungs = slice(2, n_slices - 2) if n_slices >= 5 else slice(None)
    hu[with_lungs, right * right_lung | left * left_lung] = LUNG
    hu[:, ellipse(shape, spacing, centre(-5, 0), (28, 24))] = BLOOD
    hu[:, ellipse(shape, spacing, centre(75, 0), (16, 18))] = BONE
    hu += np.random.default_rng(seed).normal(0, noise, hu.shape)
    return np.clip(hu, -1024, 3071).astype(np.int16)
