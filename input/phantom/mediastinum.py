"""Tubular structures of the mediastinum: oesophagus, great vessels and airways.

Control points are (x, y, z) in reference mm, with the carina near z = 0.
"""

import numpy as np

from input.phantom.patient import Patient, jittered
from input.phantom.raster import Tubes, join, polyline
from input.phantom.vessel_trees import HILAR_SEGMENTS, RIGHT_LUNG, Arteries


def build_great_vessels(patient: Patient) -> dict[str, Tubes]:
    """Build oesophagus, aorta with its branches, venae cavae, brachiocephalic veins and azygos vein, by name (mm)."""

    def line(points: list, radii: list | float) -> Tubes:
        return polyline(jittered(patient, points, 1.5), np.asarray(radii) * patient.vessel)

    aorta = line(
        [(2, -20, -62), (-8, -30, -44), (-17, -32, -20), (-18, -30, 8), (-11, -22, 28), (4, -8, 38), (18, 10, 36),
         (26, 28, 24), (27, 38, 4), (25, 41, -40), (22, 42, -90), (16, 42, -150), (8, 40, -220)],
        [15, 16.5, 16, 15.5, 15, 14, 13.5, 13, 12.5, 12, 11.5, 11, 10],
    )  # fmt: skip
    branches = [
        line([(-8, -18, 34), (-14, -14, 60), (-20, -10, 100)], [6.5, 6, 5]),
        line([(4, -8, 40), (6, -6, 65), (10, -4, 105)], [4.5, 4, 3.5]),
        line([(16, 6, 40), (22, 8, 62), (32, 6, 100)], [5.5, 5, 4.5]),
    ]
    cava = line(
        [(-33, -10, -64), (-33, -14, -40), (-31, -18, -10), (-30, -22, 20), (-29, -26, 48)], [10.5, 10, 9.5, 9, 8.5]
    )
    brachiocephalic = [
        line([(-29, -26, 48), (-32, -26, 70), (-44, -20, 100)], [8, 7, 6.5]),
        line([(-29, -26, 46), (-6, -38, 52), (16, -38, 60), (36, -28, 84)], [6.5, 6.5, 6.5, 6]),
    ]
    lower_cava = line([(-32, -6, -88), (-30, 6, -108), (-27, 14, -150), (-24, 20, -220)], [12, 12, 11.5, 11])
    azygos = line(
        [(-31, -14, 2), (-30, 4, 6), (-18, 28, 2), (-10, 40, -20), (-8, 42, -90), (-6, 42, -200)],
        [4, 4, 3.6, 3.2, 3, 3],
    )
    oesophagus = line([(4, 22, 110), (6, 28, 40), (5, 31, 0), (6, 36, -40), (9, 36, -90), (16, 30, -140)], 7.0)
    return {
        "oesophagus": oesophagus,
        "aorta": join([aorta, *branches]),
        "cava": cava,
        "brachiocephalic": join(brachiocephalic),
        "lower_cava": lower_cava,
        "azygos": azygos,
    }


def build_airways(patient: Patient, arteries: Arteries) -> Tubes:
    """Build the lumina of trachea and main bronchi, and a bronchus beside every artery of 4-10 mm (mm)."""

    def line(points: list, radii: list | float) -> Tubes:
        return polyline(jittered(patient, points, 1.2), np.asarray(radii))

    main = [
        line([(1, 12, 120), (1, 14, 60), (0, 17, 6)], [8.5, 8.5, 8.8]),
        line([(0, 17, 6), (-10, 19, -6), (-24, 20, -16)], [7.8, 7.2, 6.6]),
        line([(-24, 20, -16), (-34, 20, -10), (-46, 15, 0)], [5, 4.6, 4]),
        line([(-24, 20, -16), (-32, 22, -34), (-40, 24, -54), (-44, 28, -70)], [5.8, 5.2, 4.5, 3.6]),
        line([(0, 17, 6), (14, 21, -8), (30, 23, -20), (38, 22, -26)], [7.4, 6.6, 6, 5.4]),
        line([(38, 22, -26), (48, 14, -20), (54, 6, -8)], [4.6, 4, 3.4]),
        line([(38, 22, -26), (43, 29, -40), (46, 34, -56)], [5, 4.4, 3.6]),
    ]
    tubes = arteries.tubes
    peripheral = (arteries.region[arteries.segment] >= RIGHT_LUNG) & (tubes.r0 > 1.9) & (tubes.r0 < 5)
    chosen = tubes.take(peripheral & (arteries.segment >= HILAR_SEGMENTS))
    # The bronchus touches the artery on its inner, posterior side.
    aside = np.cross(chosen.end - chosen.start, [0.25, 0.15, 1.0])
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-6)
    offset = aside * (chosen.r0 * 1.7 + 0.6)[:, None]
    bronchi = Tubes(chosen.start + offset, chosen.end + offset, chosen.r0 * 0.72, chosen.r1 * 0.72)
    return join([*main, bronchi])
