"""What lies below the diaphragm in the last slices: liver dome, stomach with its air bubble, spleen."""

import numpy as np

from input.phantom.patient import Patient, place
from input.phantom.raster import Grid, ellipsoid_coverage
from input.phantom.thorax import CageField, dome_height

LIVER, SPLEEN, STOMACH, GAS, DIAPHRAGM = 75.0, 95.0, 32.0, -960.0, 50.0


def paint_abdomen(volume: np.ndarray, patient: Patient, cage: CageField, grid: Grid) -> None:
    """Fill the cage below the diaphragm; the rest of the cage is left alone. HU, in place."""
    under = dome_height(patient, cage.x, cage.y, cage.rho) - cage.z
    first = int(np.argmin((under > 0).any(axis=(1, 2)))) if not (under > 0).any(axis=(1, 2)).all() else len(volume)
    part = slice(0, first)
    if not first:
        return
    inside = cage.outside[part] < 1
    depth = under[part]
    organ = np.full(depth.shape, -92, np.float32)
    edge = 34 - 0.35 * np.abs(cage.y + 10) - cage.x
    organ += np.clip(edge / 3, 0, 1) * np.float32(LIVER + 92)
    below = Grid(grid.x, grid.y, grid.z[part], grid.step)
    _blend(organ, below, patient, (88, 38, -150), (26, 40, 44), SPLEEN)
    box = _blend(organ, below, patient, (54, -8, -146), (36, 44, 34), STOMACH)
    up = 1 if patient.prone else -1
    gas = (organ[box] == np.float32(STOMACH)) & ((cage.y[:, box[1]] * up) > 4)
    organ[box][gas] = GAS
    organ[depth < 3.0] = DIAPHRAGM
    np.copyto(volume[part], organ, where=inside & (depth > 0))


def _blend(
    target: np.ndarray, grid: Grid, patient: Patient, centre: tuple, semi: tuple, value: float
) -> tuple[slice, slice, slice]:
    box, cover = ellipsoid_coverage(grid, place(patient, [centre])[0], np.eye(3), np.array(semi) * patient.scale)
    view = target[box]
    view[cover > 0.5] = value
    return box
