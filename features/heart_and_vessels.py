"""Measurements of heart and great vessels of one exam, as columns of the store's exam table.

    rv_mm, lv_mm                              widest short-axis diameters of the ventricles in axial slices
    rv_lv_ratio_measured, rv_lv_confidence    their ratio, and its reliability from 0 to 1
    pulmonary_trunk_mm, ascending_aorta_mm    short axes
    trunk_aorta_ratio
    pulmonary_artery_hu, left_atrium_hu, aorta_hu    median HU of the blood: contrast phase and adequacy
    heart_first_plane, heart_last_plane              stored planes that show both ventricles
    {rv,lv,trunk,aorta}_{plane,y0,x0,y1,x1}   each diameter's line in stored voxels (pixel centres at
                                              integers; plane is the index along z), for drawing

NaN where the anatomy was not found. Where the spacing is unknown, lengths are NaN too, while ratios, HU and lines are
still given.
"""

import numpy as np
import pandas as pd

from features.chest_grid import coarse_chest
from features.great_vessels import find_vessels
from features.measured_line import FIELDS
from features.slice_measurements import vessel_level
from features.store import StoredExam
from features.ventricles import blood_threshold, find_ventricles

BLOOD_ZONE = (0.2, 0.75)  # relative z of slices that show heart or great vessels; above them bone misleads
LENGTHS = ("rv_mm", "lv_mm", "pulmonary_trunk_mm", "ascending_aorta_mm")
MEASUREMENTS = (
    "rv_mm", "lv_mm", "rv_lv_ratio_measured", "rv_lv_confidence", "pulmonary_trunk_mm", "ascending_aorta_mm",
    "trunk_aorta_ratio", "pulmonary_artery_hu", "left_atrium_hu", "aorta_hu",
)  # fmt: skip
LINES = ("rv", "lv", "trunk", "aorta")
#: Positions, for drawing only: they say nothing about the patient and are not inputs of the stack.
DRAWING_COLUMNS = ("heart_first_plane", "heart_last_plane", *(f"{line}_{field}" for line in LINES for field in FIELDS))


def measure_anatomy(exam: StoredExam, slices: pd.DataFrame, hu: np.ndarray | None = None) -> dict[str, float]:
    """Measure heart and great vessels; every column of the module's docstring is present.

    Args:
        exam: the stored exam.
        slices: its rows of `slice_measurements.measure_slices`.
        hu: its planes, int16 (z, y, x), when they are already in memory.
    """
    numbers = dict.fromkeys((*MEASUREMENTS, *DRAWING_COLUMNS), np.nan)
    blood_hu = vessel_level(slices.loc[slices["relative_z"].between(*BLOOD_ZONE), "vessel_hu"].to_numpy(float))
    chest = coarse_chest(exam, exam.hu[:] if hu is None else hu, slices["relative_z"].to_numpy())
    if chest is None or not np.isfinite(blood_hu):
        return numbers
    heart = find_ventricles(chest, blood_hu, float(np.nanmedian(slices["noise_hu"])))
    if heart:
        numbers |= {
            "rv_mm": heart.rv_mm,
            "lv_mm": heart.lv_mm,
            "rv_lv_ratio_measured": heart.ratio,
            "rv_lv_confidence": heart.confidence,
            "heart_first_plane": heart.first_plane,
            "heart_last_plane": heart.last_plane,
        }
        numbers |= heart.rv.columns("rv") | heart.lv.columns("lv")
    vessels = find_vessels(chest, blood_threshold(blood_hu), numbers["heart_last_plane"])
    numbers |= {
        "pulmonary_trunk_mm": vessels.trunk_mm,
        "ascending_aorta_mm": vessels.aorta_mm,
        "trunk_aorta_ratio": vessels.trunk_mm / vessels.aorta_mm,
        "pulmonary_artery_hu": vessels.artery_hu,
        "left_atrium_hu": vessels.atrium_hu,
        "aorta_hu": vessels.aorta_hu,
    }
    for name, line in (("trunk", vessels.trunk), ("aorta", vessels.aorta)):
        numbers |= line.columns(name) if line else {}
    return numbers if exam.has_spacing else numbers | dict.fromkeys(LENGTHS, np.nan)
