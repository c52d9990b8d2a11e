"""The point of a slice that an activation map speaks for: the map is coarse, what is dark in bright vessels is not."""

from collections.abc import Sequence

import cv2
import numpy as np

from features.chest import coarse_chest
from features.measure import dark_in_bright, measure_slices, vessel_level, vessel_threshold
from features.store import StoredExam

BLUR_MM = 4.0
FLOOR = 0.15  # what a place without anything clot-like counts beside the most clot-like one


def clot_like(exam: StoredExam, planes: Sequence[int]) -> dict[int, np.ndarray]:
    """How clot-like the places of some planes are, 0-1: blurred dark places that bright vessels enclose.

    Returns:
        plane -> float32 (y, x) on stored pixels; planes outside the chest are missing.
    """
    hu = exam.hu[:]
    slices = measure_slices(exam, hu)
    chest = coarse_chest(exam, hu, slices["relative_z"].to_numpy())
    if chest is None:
        return {}
    zone = slices["relative_z"].between(0.2, 0.75)
    level = vessel_level(slices.loc[zone, "vessel_hu"].to_numpy(float))
    threshold = vessel_threshold(np.array([level]))
    found = {}
    for plane in planes:
        place = int(np.abs(chest.planes - plane).argmin())
        if abs(chest.planes[place] - plane) * 1.0 > max(1, chest.planes[-1] - chest.planes[-2]):
            continue
        coarse = chest.hu[place : place + 1].astype(np.int16)
        bright = chest.inside[place : place + 1] & (coarse >= threshold)
        _, candidates = dark_in_bright(coarse, bright, chest.pixel_mm)
        blurred = cv2.GaussianBlur(candidates[0].astype(np.float32), (0, 0), BLUR_MM / chest.pixel_mm)
        found[plane] = cv2.resize(blurred, exam.hu.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
    return found


def strongest_point(
    activation: np.ndarray, candidates: np.ndarray | None, shape: tuple[int, int]
) -> tuple[float, float]:
    """(y, x) in stored pixels where a map, weighted with how clot-like a place is, is highest.

    Args:
        activation: (y', x') positive part of a map over the whole slice.
        candidates: (y, x) from `clot_like`; None: the map alone.
        shape: (y, x) of the slice.
    """
    score = cv2.resize(activation.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    if candidates is not None and candidates.max() > 0:
        score = score * (FLOOR + candidates / candidates.max())
    y, x = np.unravel_index(int(score.argmax()), shape)
    return float(y), float(x)
