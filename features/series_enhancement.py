"""Enhancement of the pulmonary arteries of a series that is not stored yet, to choose between series of a study.

Only planes a few millimetres apart are decoded, and nothing is written, so a series of hundreds of slices takes about
a second.
"""

from collections.abc import Sequence

import numpy as np

from features.exam_measurements import enhancement_hu, summarise_exam
from features.heart_and_vessels import measure_anatomy
from features.lung_box import find_lung_box, known_spacing
from features.resample import resample_box
from features.slice_measurements import measure_slices
from features.store import StoredExam
from input.dicom import SliceHeader, decode_in_order, order_series, split_by_geometry
from pipeline.settings import FeaturesSettings

#: Distance of the planes that are decoded, at least.
PLANE_STEP_MM = 3.0
#: Lungs that are less high are those at the edge of a scan of another body part.
MIN_LUNG_HEIGHT_MM = 100.0


def measure_enhancement(headers: Sequence[SliceHeader], settings: FeaturesSettings) -> float:
    """Measure the enhancement of a series.

    Args:
        headers: of its slices.
        settings: lung box margin, largest box and in-plane spacing.

    Returns:
        As `enhancement_hu`; NaN if the series shows no lungs, or only the edge of them.
    """
    ordered, _ = order_series(split_by_geometry(headers)[0])
    decoded, planes = decode_in_order(_spaced(ordered), [])
    if len(planes) < 2:
        return np.nan
    exam, hu = _exam(decoded, planes, settings)
    slices = measure_slices(exam, hu)
    numbers = summarise_exam(exam, slices)
    if not exam.box.found or numbers["lung_height_mm"] < MIN_LUNG_HEIGHT_MM:
        return np.nan
    return enhancement_hu(numbers | measure_anatomy(exam, slices, hu))


def _spaced(ordered: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Slices at least PLANE_STEP_MM apart, feet to head."""
    spaced: list[SliceHeader] = []
    for header in ordered:
        if not spaced or header.z_mm - spaced[-1].z_mm >= PLANE_STEP_MM - 0.01:
            spaced.append(header)
    return spaced


def _exam(hu: np.ndarray, headers: Sequence[SliceHeader], settings: FeaturesSettings) -> tuple[StoredExam, np.ndarray]:
    """The planes as an exam of the store that is in memory only, and its pixels."""
    spacing_mm = headers[0].spacing_mm
    box = find_lung_box(hu, spacing_mm, margin_mm=settings.margin_mm, max_box_mm=settings.max_box_mm)
    from_mm = known_spacing(spacing_mm, settings.spacing_mm)
    stored = resample_box(hu, (box.y0, box.y1, box.x0, box.x1), from_mm, settings.spacing_mm)
    exam = StoredExam(
        study=headers[0].study_uid,
        series=headers[0].series_uid,
        hu=stored,
        z_mm=np.array([header.z_mm for header in headers]),
        spacing_mm=(settings.spacing_mm, settings.spacing_mm),
        sop_uids=tuple(header.sop_uid for header in headers),
        box=box,
        raw_spacing_mm=spacing_mm,
        sidecar={},
    )
    return exam, stored
