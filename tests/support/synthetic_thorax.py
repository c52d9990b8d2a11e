"""A thorax of ellipses for tests: body, two lungs, spine, and blood with contrast; the phantom's poor cousin."""

import numpy as np

AIR, LUNG, MUSCLE, BLOOD, BONE = -1000, -850, 46, 350, 600


def ellipse(shape, spacing_mm, centre_mm, radii_mm):
    """bool (y, x); centre and radii in mm as (y, x) from the picture's centre."""
    y, x = (
        (np.arange(size) - (size - 1) / 2) * pixel - centre
        for size, pixel, centre in zip(shape, spacing_mm, centre_mm, strict=True)
    )
    return (y[:, None] / radii_mm[0]) ** 2 + (x[None] / radii_mm[1]) ** 2 <= 1


def draw_thorax(n_slices=12, side=128, pixel_mm=3.0, *, noise=12.0, right=True, left=True, seed=0, shift_mm=0.0):
    """int16 HU (z, y, x), feet to head; lungs in slices 2 .. n-3 (all slices of a series under five).

    The patient's right is on the picture's left. The lungs' outer edges lie at x = -130 and 130 mm,
    y = -80 and 80 mm, from the centre moved by `shift_mm` along x.
    """
    spacing, shape = (pixel_mm, pixel_mm), (side, side)

    def place(y, x):
        return y, x + shift_mm

    body = ellipse(shape, spacing, place(0, 0), (115, 165))
    lungs = right * ellipse(shape, spacing, place(0, -80), (80, 50)) | left * ellipse(
        shape, spacing, place(0, 80), (80, 50)
    )
    hu = np.full((n_slices, *shape), AIR, np.float32)
    hu[:, body] = MUSCLE
    with_lungs = slice(2, n_slices - 2) if n_slices >= 5 else slice(None)
    hu[with_lungs, lungs] = LUNG
    hu[:, ellipse(shape, spacing, place(-5, 0), (28, 24))] = BLOOD
    hu[:, ellipse(shape, spacing, place(75, 0), (16, 18))] = BONE
    hu += np.random.default_rng(seed).normal(0, noise, hu.shape)
    return np.clip(hu, -1024, 3071).astype(np.int16)
