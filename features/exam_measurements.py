"""Measurements of one exam, summarised from the measurements of its slices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from features.slice_measurements import length_columns
from features.store import StoredExam

VESSEL_ZONE = (0.35, 0.75)  # relative z of the large pulmonary arteries
HEART_ZONE = (0.25, 0.5)


def summarise_exam(exam: StoredExam, slices: pd.DataFrame) -> dict[str, Any]:
    """Compute the exam's row of the exam table.

    Args:
        exam: the stored exam.
        slices: its rows of `slice_measurements.measure_slices`.

    Returns:
        column -> number; NaN where the exam shows too little, and for lengths where the spacing is unknown.
    """
    zone = slices[slices["relative_z"].between(*VESSEL_ZONE)]
    lungs = slices[slices["relative_z"].between(0.0, 1.0) & (slices["lung_share"] > 0.1)]
    heart = slices[slices["relative_z"].between(*HEART_ZONE)]
    depth_mm = slice_depth_mm(exam.z_mm)
    vessel_hu, noise_hu = _percentile(zone["vessel_hu"], 80), _percentile(zone["noise_hu"], 50)
    heart_mm = _percentile(heart["mediastinum_right_mm"] + heart["mediastinum_left_mm"], 50)
    chest_mm = (exam.box.x1 - exam.box.x0) * exam.raw_spacing_mm[1]
    numbers = {
        "n_stored": len(exam),
        "slice_step_mm": float(np.median(np.diff(exam.z_mm))) if len(exam) > 1 else np.nan,
        "lungs_found": float(exam.box.found),
        "lung_height_mm": float(exam.z_mm[min(exam.box.z1, len(exam)) - 1] - exam.z_mm[exam.box.z0]),
        "box_width_mm": chest_mm,
        "box_depth_mm": (exam.box.y1 - exam.box.y0) * exam.raw_spacing_mm[0],
        **_volumes(slices, depth_mm),
        "lung_hu": _percentile(lungs["lung_hu"], 50),
        "vessel_hu": vessel_hu,
        "vessel_spread_hu": float(zone["vessel_hu"].std()) if len(zone) > 1 else np.nan,
        "noise_hu": noise_hu,
        "contrast_to_noise": (vessel_hu - 50.0) / noise_hu if noise_hu > 0 else np.nan,
        "heart_width_mm": heart_mm,
        "heart_to_box_ratio": heart_mm / chest_mm,
        "heart_bright_centre_mm": _percentile(heart["bright_centre_mm"], 50),
        "heart_bright_spread_mm": _percentile(heart["bright_spread_mm"], 50),
        "motion_edge_flicker": _percentile(lungs["edge_flicker"], 50),
        "motion_edge_flicker_p90": _percentile(lungs["edge_flicker"], 90),
        "motion_edge_jump_mm": _percentile(lungs["edge_jump_mm"], 50),
    }
    return numbers if exam.has_spacing else numbers | dict.fromkeys(length_columns(numbers), np.nan)


def slice_depth_mm(z_mm: np.ndarray) -> np.ndarray:
    """Depth in mm that each slice represents: half the distance to either neighbour; NaN for a single slice."""
    if len(z_mm) < 2:
        return np.full(len(z_mm), np.nan)
    steps = np.diff(z_mm)
    before, after = np.append(steps[:1], steps), np.append(steps, steps[-1:])
    return (before + after) / 2


def _volumes(slices: pd.DataFrame, depth_mm: np.ndarray) -> dict[str, float]:
    """Volumes in ml from areas (cm2) and depths; those above the heart exclude the dark stripe of the septum."""
    areas = {
        "lung_right_ml": slices["lung_area_right_cm2"],
        "lung_left_ml": slices["lung_area_left_cm2"],
        "bright_ml": slices["bright_right_cm2"] + slices["bright_left_cm2"],
    }
    above = (slices["relative_z"] >= HEART_ZONE[1]) & (slices["relative_z"] <= 1.0)
    for side in ("right", "left", "central"):
        area = slices[f"clot_candidate_{side}_cm2"].where(slices["relative_z"].between(0.0, 1.0), 0.0)
        areas[f"clot_candidate_{side}_ml"] = area
        areas[f"clot_candidate_{side}_above_heart_ml"] = area.where(above, 0.0)
    return {name: float((area.to_numpy() * depth_mm).sum() / 10) for name, area in areas.items()}


def _percentile(values: pd.Series, percent: float) -> float:
    known = values.to_numpy()[np.isfinite(values.to_numpy())]
    return float(np.percentile(known, percent)) if len(known) else float("nan")


def enhancement_hu(numbers: Mapping[str, float]) -> float:
    """Attenuation of the pulmonary arteries, HU: of the trunk where it was found, else of the brightest blood nearby.

    Args:
        numbers: an exam's measurements, as in the store's exam table.
    """
    artery = float(numbers["pulmonary_artery_hu"])
    return artery if np.isfinite(artery) else float(numbers["vessel_hu"])
