"""One exam from its raw files into the store, and its numbers: each file is read once, in full.

bytes -> sha256 and HU -> lung box on the whole planes -> crop and in-plane spacing -> b2nd -> numbers
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.exam_measurements import summarise_exam
from features.heart_and_vessels import measure_anatomy
from features.lung_box import find_lung_box, known_spacing
from features.resample import resample_box
from features.slice_measurements import measure_slices
from features.store import StoredExam, is_stored, open_exam, write_exam
from input.decoding import ExamJob
from input.dicom import Series
from input.slice_faults import DicomFault
from input.slice_file import SlicePlane, read_plane
from pipeline.settings import FeaturesSettings


@dataclass(frozen=True)
class IngestOrder:
    """The payload of a job: where the exam goes, and the UIDs of its files, feet to head."""

    series: str
    sop_uids: tuple[str, ...]
    directory: Path
    settings: FeaturesSettings


@dataclass(frozen=True)
class Ingested:
    """What an ingest tells: the numbers, and what did not enter the store.

    `slices` has a row a stored plane, in its order, beside `sop_uids`; these and `numbers` are empty
    when no plane could be stored. `quarantine`: SOP -> reason.
    """

    study: str
    sop_uids: tuple[str, ...]
    slices: pd.DataFrame
    numbers: dict[str, Any]
    quarantine: dict[str, str]


def ingest_exam(job: ExamJob, bad_files: dict[Path, str]) -> Ingested:
    """Store one exam and measure it; an exam that is stored already is only measured.

    Args:
        job: named by its study; `payload` is an IngestOrder, `files` are aligned with its UIDs.
        bad_files: files that kill or hang their decoder, with the reason; they are not touched.
    """
    order: IngestOrder = job.payload
    _one_thread()
    if is_stored(order.directory, job.name):
        exam = open_exam(order.directory, job.name)
        return _measured(exam, exam.hu[:])
    hu, kept, quarantine = _read_planes(job, bad_files)
    if not kept:
        return Ingested(job.name, (), pd.DataFrame(), {}, quarantine)
    return store_planes(
        order.directory,
        order.settings,
        study=job.name,
        series=order.series,
        hu=hu,
        z_mm=np.array([plane.z_mm for plane in kept.values()]),
        spacing_mm=next(iter(kept.values())).spacing_mm,
        sop_uids=tuple(kept),
        quarantine=quarantine,
        source_sha256={sop: plane.sha256 for sop, plane in kept.items()},
    )


def ingest_series(series: Series, directory: Path, settings: FeaturesSettings) -> Ingested:
    """Store and measure a series that was read already, such as one to predict on."""
    return store_planes(
        directory,
        settings,
        study=series.study_uid,
        series=series.series_uid,
        hu=series.hu,
        z_mm=series.z_mm,
        spacing_mm=series.spacing_mm,
        sop_uids=series.sop_uids,
        quarantine={path.stem: reason for path, reason in series.quarantined},
    )


def store_planes(
    directory: Path,
    settings: FeaturesSettings,
    *,
    study: str,
    series: str,
    hu: np.ndarray,
    z_mm: np.ndarray,
    spacing_mm: tuple[float, float],
    sop_uids: tuple[str, ...],
    quarantine: dict[str, str],
    **facts: Any,
) -> Ingested:
    """Crop whole planes to the lung box, resample, write, measure.

    Args:
        hu: int16 (z, y, x) as read, z ascending; z_mm and sop_uids are aligned with it.
        spacing_mm: (y, x) of `hu`; NaN where it is unknown: then the pixels are stored as they are.
        facts: further JSON values for the sidecar.
    """
    box = find_lung_box(hu, spacing_mm, margin_mm=settings.margin_mm, max_box_mm=settings.max_box_mm)
    known = bool(np.isfinite(spacing_mm).all())
    from_mm = known_spacing(spacing_mm, settings.spacing_mm)
    stored = resample_box(hu, (box.y0, box.y1, box.x0, box.x1), from_mm, settings.spacing_mm)
    write_exam(
        directory,
        study,
        series,
        stored,
        z_mm=z_mm,
        spacing_mm=(settings.spacing_mm, settings.spacing_mm) if known else (np.nan, np.nan),
        raw_spacing_mm=spacing_mm,
        sop_uids=sop_uids,
        box=box,
        raw_shape=list(hu.shape[1:]),
        quarantine=quarantine,
        **facts,
    )
    return _measured(open_exam(directory, study), stored)


def _read_planes(job: ExamJob, bad_files: dict[Path, str]) -> tuple[np.ndarray, dict[str, SlicePlane], dict[str, str]]:
    """Read every file once: HU (z, y, x), SOP -> what is known of each plane, SOP -> reason of the others."""
    hu = np.empty((0, 0, 0), np.int16)
    kept: dict[str, SlicePlane] = {}
    quarantine: dict[str, str] = {}
    for sop, file in zip(job.payload.sop_uids, job.files, strict=True):
        if file in bad_files:
            quarantine[sop] = bad_files[file]
            continue
        try:
            plane = read_plane(file)
        except DicomFault as fault:
            quarantine[sop] = fault.reason
            continue
        shape = plane.hu.shape
        if not kept:
            hu = np.empty((len(job.files), *shape), np.int16)
        elif shape != hu.shape[1:]:
            quarantine[sop] = f"{shape[0]} x {shape[1]} pixels in a series of {hu.shape[1]} x {hu.shape[2]}"
            continue
        hu[len(kept)] = plane.hu
        kept[sop] = dataclasses.replace(plane, hu=hu[len(kept)])  # not a second copy of the pixels
    return hu[: len(kept)], kept, quarantine


def _measured(exam: StoredExam, hu: np.ndarray) -> Ingested:
    slices = measure_slices(exam, hu)
    numbers = summarise_exam(exam, slices) | measure_anatomy(exam, slices, hu)
    return Ingested(exam.study, exam.sop_uids, slices.astype(np.float32), numbers, dict(exam.sidecar["quarantine"]))


def _one_thread() -> None:
    """Exams are spread over the cores; the matrix products inside one must not fight for them.

    One thread also makes the rounding of a resampled pixel independent of the machine's core count.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    cv2.setNumThreads(1)
