"""Organs below the diaphragm in the lowest slices: liver dome, spleen, stomach with its gas bubble."""

import numpy as np

from input.phantom.patient import Patient, to_patient
from input.phantom.raster import Box, Grid, ellipsoid_coverage
from input.phantom.thorax import CageField, dome_height

#: Attenuation, HU.
LIVER, SPLEEN, STOMACH, GAS, DIAPHRAGM = 75.0, 95.0, 32.0, -960.0, 50.0


def paint_abdomen(volume: np.ndarray, patient: Patient, cage: CageField, grid: Grid) -> None:
    """Fill the thoracic cage below the diaphragm; the part above it is not changed.

    Args:
        volume: HU, (z, y, x), changed in place.
        patient: the patient's dimensions.
        cage: the cage, evaluated on `grid`.
        grid: coordinates of the volume.
    """
    under = dome_height(patient, cage.x, cage.y, cage.rho) - cage.z
    has_abdomen = (under > 0).any(axis=(1, 2))
    n_slices = len(volume) if has_abdomen.all() else int(np.argmin(has_abdomen))
    if not n_slices:
        return
    part = slice(0, n_slices)
    inside = cage.outside[part] < 1
    depth = under[part]
    organ = np.full(depth.shape, -92, np.float32)
    edge = 34 - 0.35 * np.abs(cage.y + 10) - cage.x
    organ += np.clip(edge / 3, 0, 1) * np.float32(LIVER + 92)
    below = Grid(grid.x, grid.y, grid.z[part], grid.step)
    _fill_ellipsoid(organ, below, patient, (88, 38, -150), (26, 40, 44), SPLEEN)
    box = _fill_ellipsoid(organ, below, patient, (54, -8, -146), (36, 44, 34), STOMACH)
    # Gas rises: to the front of a supine patient, to the back of a prone one.
    up = 1 if patient.prone else -1
    gas = (organ[box] == np.float32(STOMACH)) & ((cage.y[:, box[1]] * up) > 4)
    organ[box][gas] = GAS
    organ[depth < 3.0] = DIAPHRAGM
    np.copyto(volume[part], organ, where=inside & (depth > 0))


def _fill_ellipsoid(target: np.ndarray, grid: Grid, patient: Patient, centre: tuple, semi: tuple, value: float) -> Box:
    """Set the voxels of an upright ellipsoid (reference mm) to `value`; returns its box."""
    box, cover = ellipsoid_coverage(grid, to_patient(patient, [centre])[0], np.eye(3), np.array(semi) * patient.scale)
    view = target[box]
    view[cover > 0.5] = value
    return box
