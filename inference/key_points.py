"""Key points: the pixel of a finding's key slice that its activation map most likely refers to.

A cell of an activation map is centimetres wide. Within the highlighted region the point is chosen by density: it must
have the HU of a clot and lie between the outer edges of the lungs, which keeps it in vessels, heart walls and the
mediastinum and out of lung, contrast medium, fat and ribs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from features.chest_grid import coarse_chest
from features.slice_measurements import CLOT_HU, positions
from features.store import StoredExam, is_stored, open_exam
from inference.findings import Finding
from inference.key_slice_maps import KeySliceMaps, key_slice_maps
from pipeline.settings import Settings

BLUR_MM = 2.0


def add_key_points(
    settings: Settings, store: Path, findings: Mapping[str, Sequence[Finding]], folds: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[Finding]], KeySliceMaps]:
    """Add a key point to every finding whose key slice is stored and has an activation map.

    Args:
        settings: of the finished run.
        store: the pixel store with the exams.
        findings: study -> findings, from `inference.findings.locate_findings`.
        folds: study -> folds whose networks are used.

    Returns:
        The findings, and the activation maps of their key slices.
    """
    exams = {study: open_exam(store, study) for study in findings if is_stored(store, study)}
    row_of = {study: {sop: row for row, sop in enumerate(exam.sop_uids)} for study, exam in exams.items()}
    planes = {
        study: sorted({rows[finding.sop] for finding in findings[study] if finding.sop in rows})
        for study, rows in row_of.items()
    }
    maps = key_slice_maps(settings, store, planes, folds)
    pointed = {study: list(exam_findings) for study, exam_findings in findings.items()}
    for study, exam_maps in maps.items():
        weights = clot_density(exams[study], planes[study])
        for index, finding in enumerate(pointed[study]):
            row = row_of[study].get(finding.sop)
            if row in exam_maps:
                point = strongest_point(exam_maps[row], weights.get(row), exams[study].hu.shape[1:])
                pointed[study][index] = _with_point(finding, exams[study], point)
    return pointed, maps


def _with_point(finding: Finding, exam: StoredExam, point: tuple[float, float]) -> Finding:
    pixel_mm = exam.spacing_mm[1] if exam.has_spacing else np.nan
    left_mm = float((point[1] + 0.5 - exam.middle_column) * pixel_mm)
    return dataclasses.replace(finding, point=point, point_left_mm=left_mm)


def clot_density(exam: StoredExam, planes: Sequence[int]) -> dict[int, np.ndarray]:
    """Mark the pixels of some planes that lie inside the chest and have the density of a clot.

    Args:
        exam: the stored exam.
        planes: rows of the planes.

    Returns:
        plane -> float32 (y, x) in [0, 1] on stored pixels, blurred by BLUR_MM; empty where no lungs were found.
    """
    chest = coarse_chest(exam, exam.hu[:], positions(exam)["relative_z"])
    if chest is None:
        return {}
    density = {}
    for plane in planes:
        nearest = int(np.abs(chest.planes - plane).argmin())
        hu = chest.hu[nearest]
        soft = chest.inside[nearest] & (hu > CLOT_HU[0]) & (hu < CLOT_HU[1])
        blurred = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), BLUR_MM / chest.pixel_mm)
        density[plane] = cv2.resize(blurred, exam.hu.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
    return density


def strongest_point(activation: np.ndarray, weight: np.ndarray | None, shape: tuple[int, int]) -> tuple[float, float]:
    """Find the maximum of an activation map, weighted by clot density.

    Args:
        activation: (y', x') positive part of a map over the whole slice.
        weight: (y, x) from `clot_density`; None, or zero wherever the map is positive: the map alone.
        shape: (y, x) of the slice.

    Returns:
        (y, x) in stored pixels.
    """
    score = cv2.resize(activation.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    if weight is not None and (score * weight).any():
        score = score * weight
    y, x = np.unravel_index(int(score.argmax()), shape)
    return float(y), float(x)
