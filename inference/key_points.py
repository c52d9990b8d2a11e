"""The point of a slice that an activation map speaks for: the map is coarse, soft tissue beside contrast is not.

A map's cell is centimetres wide. Within it, the place is taken that has the density of a clot and lies between the
lungs' outer edges: inside vessels, the heart's walls and the mediastinum, never lung, contrast, fat or ribs.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from features.chest_grid import coarse_chest
from features.slice_measurements import CLOT_HU, positions
from features.store import StoredExam

BLUR_MM = 2.0


def clot_like(exam: StoredExam, planes: Sequence[int]) -> dict[int, np.ndarray]:
    """How much of a plane's places has the density of a clot, inside the chest: blurred by 2 mm.

    Returns:
        plane -> float32 (y, x) in [0, 1] on stored pixels; empty where no lungs were found.
    """
    chest = coarse_chest(exam, exam.hu[:], positions(exam)["relative_z"])
    if chest is None:
        return {}
    found = {}
    for plane in planes:
        place = int(np.abs(chest.planes - plane).argmin())
        soft = chest.inside[place] & (chest.hu[place] > CLOT_HU[0]) & (chest.hu[place] < CLOT_HU[1])
        blurred = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), BLUR_MM / chest.pixel_mm)
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
    if candidates is not None and (score * candidates).any():
        score = score * candidates
    y, x = np.unravel_index(int(score.argmax()), shape)
    return float(y), float(x)
