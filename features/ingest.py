"""Ingest one exam: from raw files to the pixel store and its measurements. Each file is read once, in full.

bytes -> sha256 and HU -> lung box on the whole planes -> crop and in-plane spacing -> b2nd -> measurements
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
from input.dicom import Series
from input.safe_decoding import ExamJob
from input.slice_errors import DicomError
from input.slice_file import SlicePlane, read_plane
from pipeline.settings import FeaturesSettings


@dataclass(frozen=True)
class IngestTask:
    """Payload of an exam's job: the destination, and the UIDs of its files, feet to head."""

    series: str
    sop_uids: tuple[str, ...]
    directory: Path
    settings: FeaturesSettings


@dataclass(frozen=True)
class IngestedExam:
    """Result of an ingest.

    Attributes:
        study: StudyInstanceUID.
        sop_uids: SOPInstanceUID of every stored plane, in order; empty when no plane could be stored.
        slices: one row per stored plane, in the same order; empty when no plane could be stored.
        numbers: measurements of the exam; empty when no plane could be stored.
        quarantine: SOPInstanceUID -> reason for every plane that was not stored.
    """

    study: str
    sop_uids: tuple[str, ...]
    slices: pd.DataFrame
    numbers: dict[str, Any]
    quarantine: dict[str, str]


def ingest_exam(job: ExamJob, bad_files: dict[Path, str]) -> IngestedExam:
    """Store one exam and measure it; an exam that is already stored is only measured.

    Args:
        job: named by its study; `payload` is an IngestTask, `files` are aligned with its UIDs.
        bad_files: files that kill or hang their decoder, with the reason; they are not read.
    """
    task: IngestTask = job.payload
    _use_one_thread()
    if is_stored(task.directory, job.name):
        exam = open_exam(task.directory, job.name)
        return _measured(exam, exam.hu[:])
    hu, planes, quarantine = _read_planes(job, bad_files)
    if not planes:
        return IngestedExam(job.name, (), pd.DataFrame(), {}, quarantine)
    return store_planes(
        task.directory,
        task.settings,
        study=job.name,
        series=task.series,
        hu=hu,
        z_mm=np.array([plane.z_mm for plane in planes.values()]),
        spacing_mm=next(iter(planes.values())).spacing_mm,
        sop_uids=tuple(planes),
        quarantine=quarantine,
        source_sha256={sop: plane.sha256 for sop, plane in planes.items()},
    )


def ingest_series(series: Series, directory: Path, settings: FeaturesSettings) -> IngestedExam:
    """Store and measure a series that is already in memory, for example one to predict.

    Args:
        series: as read by `input.dicom`.
        directory: the store to write to.
        settings: lung box margin, largest box and in-plane spacing.
    """
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
) -> IngestedExam:
    """Crop whole planes to the lung box, resample, write and measure.

    Args:
        directory: the store to write to.
        settings: lung box margin, largest box and in-plane spacing.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        hu: int16 (z, y, x) as read, z ascending.
        z_mm: (z,) positions of the planes.
        spacing_mm: (y, x) of `hu`; NaN where unknown: pixels are then stored without resampling.
        sop_uids: SOPInstanceUID of every plane, in the order of `hu`.
        quarantine: SOPInstanceUID -> reason for planes that are not in `hu`.
        facts: further JSON values for the sidecar.
    """
    box = find_lung_box(hu, spacing_mm, margin_mm=settings.margin_mm, max_box_mm=settings.max_box_mm)
    is_known = bool(np.isfinite(spacing_mm).all())
    from_mm = known_spacing(spacing_mm, settings.spacing_mm)
    stored = resample_box(hu, (box.y0, box.y1, box.x0, box.x1), from_mm, settings.spacing_mm)
    write_exam(
        directory,
        study,
        series,
        stored,
        z_mm=z_mm,
        spacing_mm=(settings.spacing_mm, settings.spacing_mm) if is_known else (np.nan, np.nan),
        raw_spacing_mm=spacing_mm,
        sop_uids=sop_uids,
        box=box,
        raw_shape=list(hu.shape[1:]),
        quarantine=quarantine,
        **facts,
    )
    return _measured(open_exam(directory, study), stored)


def _read_planes(job: ExamJob, bad_files: dict[Path, str]) -> tuple[np.ndarray, dict[str, SlicePlane], dict[str, str]]:
    """Read every file once: HU (z, y, x), SOP -> plane of the readable files, SOP -> reason of the others."""
    hu = np.empty((0, 0, 0), np.int16)
    planes: dict[str, SlicePlane] = {}
    quarantine: dict[str, str] = {}
    for sop, file in zip(job.payload.sop_uids, job.files, strict=True):
        if file in bad_files:
            quarantine[sop] = bad_files[file]
            continue
        try:
            plane = read_plane(file)
        except DicomError as error:
            quarantine[sop] = error.reason
            continue
        shape = plane.hu.shape
        if not planes:
            hu = np.empty((len(job.files), *shape), np.int16)
        elif shape != hu.shape[1:]:
            quarantine[sop] = f"{shape[0]} x {shape[1]} pixels in a series of {hu.shape[1]} x {hu.shape[2]}"
            continue
        hu[len(planes)] = plane.hu
        planes[sop] = dataclasses.replace(plane, hu=hu[len(planes)])  # not a second copy of the pixels
    return hu[: len(planes)], planes, quarantine


def _measured(exam: StoredExam, hu: np.ndarray) -> IngestedExam:
    slices = measure_slices(exam, hu)
    numbers = summarise_exam(exam, slices) | measure_anatomy(exam, slices, hu)
    return IngestedExam(exam.study, exam.sop_uids, slices.astype(np.float32), numbers, dict(exam.sidecar["quarantine"]))


def _use_one_thread() -> None:
    """Limit this process to one thread: exams are distributed over the cores already.

    One thread also makes the rounding of a resampled pixel independent of the machine's core count.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    cv2.setNumThreads(1)
