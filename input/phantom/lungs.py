"""The aerated lungs: density gradient, texture, emphysema, opacities and pleural fluid."""

import numpy as np

from input.phantom.patient import Patient, to_patient
from input.phantom.raster import Grid
from input.phantom.thorax import CageField, cage_axes, lung_margin

FLUID = 8.0  # HU
TEXTURE_MODES = 10


def paint_lungs(volume: np.ndarray, patient: Patient, cage: CageField, grid: Grid, texture: np.ndarray) -> None:
    """Blend both lungs into a volume.

    Args:
        volume: HU, (z, y, x), changed in place.
        patient: the patient's dimensions and lung disease.
        cage: the thoracic cage, evaluated on `grid`.
        grid: coordinates of the volume.
        texture: of the lung on `grid`, from `Texture.field`; overwritten.
    """
    margin = lung_margin(patient, cage)
    cover = np.clip(margin / np.float32(max(grid.pixel, 0.9)) + np.float32(0.5), 0, 1)
    # Gravity compresses the dependent lung: it is denser at the back of a supine patient.
    down = -1 if patient.prone else 1
    lung = texture  # grows into the attenuation of the lung, in place
    lung += np.float32(patient.lung_hu) + np.float32(down * patient.lung_gradient / 160) * cage.y
    _add_opacities(lung, patient, grid)
    _add_fluid(lung, patient, cage, down)
    lung -= volume
    lung *= cover
    volume += lung


class Texture:
    """A smooth random field: a sum of a few axial patterns whose weights vary with height.

    As a sum of outer products, a slab costs one matrix product. Emphysema raises the amplitude.
    """

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.waves = rng.normal(0, 1 / 9.0, (TEXTURE_MODES, 2))  # cycles of about 20-60 mm
        self.phases = rng.uniform(0, 2 * np.pi, (TEXTURE_MODES, 2))
        self.pitch = rng.uniform(12, 45, TEXTURE_MODES)
        self.sd = 9.0 + 28.0 * patient.emphysema

    def field(self, grid: Grid) -> np.ndarray:
        """Evaluate the field on a grid: HU, float32 (z, y, x)."""
        angle = (
            self.waves[:, 0, None, None] * grid.x[None, None, :]
            + self.waves[:, 1, None, None] * grid.y[None, :, None]
            + self.phases[:, 0, None, None]
        )
        planes = np.sin(angle.astype(np.float32)).reshape(TEXTURE_MODES, -1)
        weights = np.sin(grid.z[:, None] / self.pitch + self.phases[:, 1]) * (2 * self.sd / np.sqrt(TEXTURE_MODES))
        return (weights.astype(np.float32) @ planes).reshape(grid.shape)


def _add_opacities(lung: np.ndarray, patient: Patient, grid: Grid) -> None:
    """Add ground glass and consolidation: soft round patches of added density."""
    for x, y, z, radius, density in patient.opacities:
        centre = to_patient(patient, [(x, y, z)])[0]
        box = grid.box(centre - 1.6 * radius, centre + 1.6 * radius)
        gx, gy, gz = grid.part(box).open()
        distance = ((gx - centre[0]) ** 2 + (gy - centre[1]) ** 2 + (gz - centre[2]) ** 2) / np.float32(radius**2)
        target = lung[box]
        target += np.clip(1.3 - distance, 0, 1) * np.float32(density) * (20 - target)


def _add_fluid(lung: np.ndarray, patient: Patient, cage: CageField, down: int) -> None:
    """Add pleural fluid: the dependent pleural space is filled up to a level, with compressed lung above it."""
    if not any(patient.effusion):
        return
    _, depth = cage_axes(patient, cage.z)
    for side, height in zip((-1, 1), patient.effusion, strict=True):
        if height:
            into = np.where(cage.x * side > 0, down * cage.y - (depth - np.float32(height)), np.float32(-99))
            lung += np.clip((into + 9) / 9, 0, 1) * np.float32(0.75) * (30 - lung)
            lung += np.clip(into / 2, 0, 1) * (np.float32(FLUID) - lung)
