"""The chest wall around the thoracic cage (ribs, muscle, fat, skin), spine, sternum, scapulae and CT table.

The tissue of a voxel outside the cage depends on its distance from the cage and its angle around the chest, so the
whole wall takes a few table look-ups.
"""

import numpy as np

from input.phantom.patient import Patient, to_patient
from input.phantom.raster import Grid, Tubes, join, polyline
from input.phantom.thorax import CageField, cage_axes, reference_axes

#: Attenuation, HU.
AIR, FAT, MUSCLE, SKIN, MARROW, CORTEX, CARTILAGE = -1000.0, -100.0, 46.0, 20.0, 220.0, 680.0, 110.0
RIB_PITCH_MM = 25.0
ANGLES = 512  # table entries from front (-1) to back (1)


def wall_layers(patient: Patient, z: np.ndarray) -> dict[str, np.ndarray]:
    """Tabulate the outer surfaces of muscle and fat.

    Args:
        patient: the patient's dimensions.
        z: (n,) heights, reference mm.

    Returns:
        "muscle" and "fat": distance (mm) from the inner surface of the cage, float32 (n, ANGLES); columns run from
        the front to the back.
    """
    t = np.linspace(-1, 1, ANGLES)
    upper = np.clip((z + 50) / 70, 0, 1)[:, None]
    shoulder = np.clip((z - 25) / 70, 0, 1)[:, None]
    pectoral = np.interp(t, [-1, -0.97, -0.8, -0.3, 0.0, 0.2], [0, 3, 14, 12, 4, 0])
    lateral = np.interp(t, [-0.6, -0.2, 0.15, 0.5, 0.75], [0, 7, 12, 8, 0])
    spinal = np.interp(t, [0.0, 0.3, 0.6, 0.85, 0.95, 1.0], [0, 6, 14, 21, 23, 21])
    girdle = np.interp(t, [-0.6, -0.15, 0.25, 0.65, 0.95], [0, 15, 24, 13, 0])
    muscle = 9.5 + patient.muscle * (
        pectoral * upper + lateral * (0.4 + 0.6 * upper) + spinal + girdle * (0.25 * upper + 1.4 * shoulder)
    )
    fat = patient.fat * np.interp(t, [-1, -0.5, 0, 0.6, 1], [0.8, 0.9, 1.0, 1.0, 0.85])
    breast = patient.breast * np.interp(t, [-1, -0.93, -0.65, -0.25, 0.05], [0, 0.35, 1, 0.45, 0])
    breast = breast * np.exp(-(((z + 45) / 45) ** 2))[:, None]
    return {"muscle": muscle.astype(np.float32), "fat": (muscle + fat + breast).astype(np.float32)}


def paint_wall(volume: np.ndarray, patient: Patient, cage: CageField) -> None:
    """Fill the volume outside the cage: air, skin, fat, muscle, ribs.

    Args:
        volume: HU, (z, y, x), overwritten.
        patient: the patient's dimensions.
        cage: the cage, evaluated on the volume's grid.
    """
    volume.fill(AIR)
    heights = np.asarray(cage.z).reshape(-1)
    layers = wall_layers(patient, heights)
    limit = float(layers["fat"].max()) + 2.5
    flat = np.flatnonzero((cage.outside > -1.5) & (cage.outside < limit))
    s = cage.outside.reshape(-1)[flat]
    column = ((cage.angle.reshape(-1)[flat] + 1) * np.float32((ANGLES - 1) / 2)).astype(np.int32)
    row = (flat // (volume.shape[1] * volume.shape[2])).astype(np.int32)
    entry = row * ANGLES + column
    muscle, fat = layers["muscle"].reshape(-1)[entry], layers["fat"].reshape(-1)[entry]
    value = np.full(len(flat), FAT, np.float32)
    value[s < muscle] = MUSCLE
    # A thin fat plane separates the intercostal muscles from those outside them.
    value[(s > 9.5) & (s < 11.5) & (muscle > 16)] = -40
    value[(s > fat) & (s < fat + 2.2)] = SKIN
    value[s >= fat + 2.2] = AIR
    _paint_ribs(value, s, entry, row, heights, patient)
    volume.reshape(-1)[flat] = value


def _paint_ribs(
    value: np.ndarray, s: np.ndarray, entry: np.ndarray, row: np.ndarray, heights: np.ndarray, patient: Patient
) -> None:
    """Paint the ribs and intercostal muscles into `value` (HU of the wall's voxels).

    Ribs descend from the spine to the front, so an axial slice cuts each of them once.
    """
    t = np.linspace(-1, 1, ANGLES)
    drop = np.interp(t, [-1, -0.8, -0.3, 0.2, 0.7, 1], [50, 62, 62, 45, 18, 0])
    phase = (heights[:, None] + drop[None, :]) / RIB_PITCH_MM + patient.rib_phase
    across = ((phase - np.floor(phase)) * RIB_PITCH_MM - RIB_PITCH_MM / 2).astype(np.float32)
    end = np.where((heights[:, None] > 98) | (t[None, :] < -0.985), 99, 0)
    across = (np.abs(across) + end).astype(np.float32).reshape(-1)
    ring = np.flatnonzero((s > 1.0) & (s < 9.5))
    shell = (across[entry[ring]] / np.float32(6.8)) ** 2 + ((s[ring] - np.float32(5)) / np.float32(4.0)) ** 2
    front = (entry[ring] % ANGLES) < int(ANGLES * 0.12)
    bone = shell < 1
    value[ring[bone]] = np.where(front, CARTILAGE, np.where(shell > 0.45, CORTEX, MARROW))[bone]
    # Intercostal muscle between the ribs, thin fat towards the pleura.
    value[ring[~bone]] = MUSCLE - 6


def paint_bones(volume: np.ndarray, patient: Patient, grid: Grid) -> None:
    """Paint vertebrae (with spinal canal and processes) and the sternum into a volume (z, y, x) of HU, in place."""
    x, y, z = reference_axes(patient, grid)
    _paint_spine(volume, x, y, z)
    _paint_sternum(volume, patient, x, y, z)


def _window(x: np.ndarray, y: np.ndarray, low: tuple[float, float], high: tuple[float, float]) -> tuple[slice, slice]:
    """Index slices (y, x) of a rectangle; `low` and `high` are (x, y) in reference mm."""
    xs, ys = x.reshape(-1), y.reshape(-1)
    return (
        slice(*np.searchsorted(ys, [low[1], high[1]]).tolist()),
        slice(*np.searchsorted(xs, [low[0], high[0]]).tolist()),
    )


def _blend(target: np.ndarray, cover: np.ndarray, value: np.ndarray | np.floating) -> None:
    target += np.clip(cover, 0, 1) * (value - target)


def _paint_spine(volume: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    ys, xs = _window(x, y, (-46, 34), (46, 120))
    box, x, y = volume[:, ys, xs], x[:, :, xs], y[:, ys, :]
    phase = (z / 23.0) % 1
    disc = (np.abs(phase - 0.5) > 0.4).astype(np.float32)
    body = 1 - np.sqrt((x / 18) ** 2 + ((y - 57) / 15) ** 2)
    inner = np.where(body > 0.14, np.float32(200), np.float32(460))
    _blend(box, body * 12 + 0.5, inner * (1 - disc) + 85 * disc)
    arch = 1 - np.abs(np.sqrt((x / 13) ** 2 + ((y - 80) / 12) ** 2) - 1) / 0.3
    neural = np.clip(1.3 - 3 * np.abs(phase - 0.4), 0, 1)
    _blend(box, (arch * 3) * (y > 66) * neural, np.float32(520))
    canal = 1 - np.sqrt((x / 10) ** 2 + ((y - 80) / 9) ** 2)
    _blend(box, canal * 8 + 0.5, np.float32(32))
    spinous = np.minimum(3.5 - np.abs(x), np.minimum(y - 88, 112 - y)) / 2
    _blend(box, spinous * neural, np.float32(380))
    transverse = np.minimum(5 - np.abs(y - 74 - np.abs(x) * 0.28), np.minimum(np.abs(x) - 12, 40 - np.abs(x))) / 2
    _blend(box, transverse * np.clip(1.2 - 4 * np.abs(phase - 0.4), 0, 1), np.float32(400))


def _paint_sternum(volume: np.ndarray, patient: Patient, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    ys, xs = _window(x, y, (-34, -125), (34, -40))
    box, x, y = volume[:, ys, xs], x[:, :, xs], y[:, ys, :]
    _, depth = cage_axes(patient, z)
    width = np.interp(z, [-120, -105, -60, 30, 50, 72, 76], [0.1, 9, 17, 15, 26, 28, 0.1]).astype(np.float32)
    shell = 1 - np.sqrt((x / width) ** 2 + ((y + depth + 6) / 6.5) ** 2)
    present = ((z > -112) & (z < 74)).astype(np.float32)
    _blend(box, (shell * 6 + 0.5) * present, np.where(shell > 0.25, np.float32(170), np.float32(560)))


def scapulae(patient: Patient) -> Tubes:
    """Return the shoulder blades as stacks of tubes (mm) that form thin curved plates behind the upper lungs."""
    sheets = []
    for height in np.arange(-40, 92, 7.0):
        a, b = cage_axes(patient, np.array([min(height, 25.0)]))
        reach = float(np.clip((height + 55) / 75, 0.2, 1))
        angle = np.deg2rad(np.linspace(58, 58 - 52 * reach, 6))
        out = 15 + 6 * patient.muscle + 3 * np.sin(np.linspace(0, np.pi, 6))
        x, y = (a + out) * np.cos(angle), (b + out) * np.sin(angle)
        for side in (-1, 1):
            points = np.column_stack([side * x, y, np.full(6, height)])
            sheets.append(polyline(to_patient(patient, points), np.linspace(1.8, 3.6, 6), spacing=9))
    return join(sheets)


def paint_table(volume: np.ndarray, patient: Patient, grid: Grid) -> None:
    """Paint the CT table into a volume (z, y, x) of HU, in place: a thin curved shell below the patient."""
    x, y, z = grid.open()
    _, depth = cage_axes(patient, z.reshape(-1))
    layers = wall_layers(patient, z.reshape(-1))["fat"]
    thickness = layers[:, : ANGLES // 6].max(axis=1) if patient.prone else layers[:, -ANGLES // 10 :].max(axis=1)
    back = float(((depth + thickness) * patient.scale[1]).max())
    side = -1 if patient.prone else 1
    below = side * (y - np.float32(patient.shift[1])) - back - 16 + (x / 190) ** 2 * 26
    shell = np.clip(2.2 - np.abs(below), 0, 1) + 0.08 * ((below > 0) & (below < 22))
    plane = (AIR + 850 * np.clip(shell, 0, 1)).astype(np.float32)
    np.maximum(volume, plane, out=volume, where=volume < -700)
