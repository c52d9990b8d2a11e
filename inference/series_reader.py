"""Read unlabelled DICOM or JPEG-256 files, in folders or archives, as studies, and store them for the networks."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from features.acceptance_measurements import AcceptanceMeasurements, measure_acceptance
from features.ingest import IngestedExam, ingest_series
from features.series_enhancement import measure_enhancement
from features.store import open_exam
from input.archive import source_files
from input.contest import SERIES, SOP, STUDY
from input.dicom import read_files
from input.header import SliceHeader
from input.jpeg256 import parse_jpeg_name
from input.jpeg_series import read_jpegs
from input.safe_decoding import ExamJob, decode_exams
from input.series_parts import join_scattered_series
from input.series_selection import OtherSeries
from input.slice_errors import DicomError, describe_faults
from input.slice_file import read_headers
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.settings import FeaturesSettings

#: Kinds of faults that are printed.
PRINTED_FAULTS = 10
#: From this number of files on, every core reads headers: starting the processes takes as long as 1,500 headers.
MANY_FILES, HEADER_BATCH = 3000, 250
#: (path, reason) of files that cannot be used.
Faults = list[tuple[Path, str]]


@dataclasses.dataclass(frozen=True)
class Study:
    """One study that was read and stored.

    Attributes:
        name: its name in the temporary store; a UID from an untrusted header must not become a path.
        study_uid, series_uid: from the files.
        selection_reason: why this series was chosen.
        flags: warnings about the series, such as `gaps`.
        slices: SOP and z_mm of the slices in use, feet to head.
        quarantined: (path, reason) of files that were not used.
        other_series: the study's series that were not chosen, each with the reason.
        ingested: the measured numbers.
        quality: the measurements that decide whether the study can be assessed.
        files: SOP -> its file, and the number of the frame in it (0: the only one).
    """

    name: str
    study_uid: str
    series_uid: str
    selection_reason: str
    flags: tuple[str, ...]
    slices: pd.DataFrame
    quarantined: Faults
    other_series: tuple[OtherSeries, ...]
    ingested: IngestedExam
    quality: AcceptanceMeasurements
    files: dict[str, tuple[Path, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _IngestOrder:
    """The payload of a study's job; `source` is the deepest folder or archive that contains all of its files."""

    source: Path
    store: Path
    settings: FeaturesSettings


@dataclasses.dataclass(frozen=True)
class FoundStudies:
    """The studies of a source, found by the headers of its files and not read yet.

    Attributes:
        source: the folder or the zip archive.
        jobs: one per study, named as in the store.
        faults: files that belong to no study.
    """

    source: Path
    jobs: tuple[ExamJob, ...]
    faults: Faults

    def no_usable_series(self, unusable: Faults) -> UserError:
        """The error of a source without a study that could be read; `unusable` are its studies, with reasons."""
        reasons = [*describe_faults(unusable, "studies"), *describe_faults(self.faults)] or ["no files"]
        return UserError.listing(f"{self.source}: no usable series:", reasons)


def find_studies(source: Path, store: Path, settings: FeaturesSettings) -> FoundStudies:
    """Find every study below a folder, or in a zip archive.

    DICOM files are grouped by the StudyInstanceUID in their headers, wherever they are in the folder tree. Files of the
    JPEG-256 derivative are recognised by their names (`<Study>/<Series>/<iiii>_<SOP>.jpg`), one study per folder.

    Args:
        source: a folder, including the zip archives in it, or a zip archive.
        store: the folder that `read_found` writes to.
        settings: those the networks were trained with.

    Raises:
        UserError: `source` is neither a folder nor an archive, or contains no usable series.
    """
    files, faults = source_files(source)
    jobs = _jobs(_group_by_study(files, faults), store, settings)
    found = FoundStudies(source, tuple(jobs), faults)
    if not jobs:
        raise found.no_usable_series([])
    if faults:
        say(f"files that are not usable axial CT slices: {len(faults)}")
    for line in describe_faults(faults)[:PRINTED_FAULTS]:
        say(f"  {line}")
    return found


def read_found(found: FoundStudies, jobs: Sequence[ExamJob] | None = None) -> Iterator[Study]:
    """Read studies into the store, one after another, while others are being decoded.

    Of each study, the series most suitable for PE detection is used. Files are decoded in separate processes, which may
    crash or hang without affecting this one.

    Args:
        found: from `find_studies`.
        jobs: those of its jobs to read; None for all.

    Raises:
        UserError: none of all studies has a usable series.
    """
    jobs = found.jobs if jobs is None else jobs
    unusable: Faults = []
    outcomes = progress(decode_exams(jobs, _ingest_study), desc="read", total=len(jobs), unit="study")
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome.value, Study):
            yield outcome.value
        else:
            unusable.append((job.payload.source, outcome.value or outcome.fault))
    if len(unusable) == len(found.jobs):
        raise found.no_usable_series(unusable)
    for line in describe_faults(unusable, "studies"):
        say(f"left out: {line}")


def read_studies(source: Path, store: Path, settings: FeaturesSettings) -> list[Study]:
    """Find and read all studies of a source; see `find_studies` and `read_found`."""
    return list(read_found(find_studies(source, store, settings)))


def _group_by_study(files: list[Path], faults: Faults) -> list[list[Path]]:
    """The usable files of each study, DICOM studies first; unusable files are added to `faults`."""
    first_with_sop: dict[str, Path] = {}
    jpegs = {path: name for path in files if (name := parse_jpeg_name(path.name))}
    headers = _read_headers([path for path in files if path not in jpegs], first_with_sop, faults)
    unique_jpegs = [path for path, (_, sop) in jpegs.items() if _is_first(sop, path, first_with_sop, faults)]
    return [*_by_study_uid(headers), *_by_folder(unique_jpegs)]


def _read_headers(files: list[Path], first_with_sop: dict[str, Path], faults: Faults) -> list[SliceHeader]:
    """The headers of usable slices; the other files are added to `faults`."""
    headers = []
    for path, (slices, reasons) in zip(files, _header_results(files), strict=True):
        faults += [(path, reason) for reason in reasons]
        headers += [header for header in slices if _is_first(header.sop_uid, path, first_with_sop, faults)]
    return headers


def _header_results(files: list[Path]) -> Iterator[tuple[list[SliceHeader], list[str]]]:
    """The usable slices of every file, and the reasons why others are not; of many files, each core reads a part."""
    if len(files) < MANY_FILES:
        yield from map(_try_headers, progress(files, desc="headers", unit="file"))
        return
    batches = [files[first : first + HEADER_BATCH] for first in range(0, len(files), HEADER_BATCH)]
    jobs = [ExamJob(f"headers{number:05d}", tuple(batch)) for number, batch in enumerate(batches)]
    outcomes = progress(decode_exams(jobs, _read_header_batch), desc="headers", total=len(jobs), unit="batch")
    for job, outcome in zip(jobs, outcomes, strict=True):
        yield from outcome.value or [([], [outcome.fault])] * len(job.files)


def _read_header_batch(job: ExamJob, bad_files: dict[Path, str]) -> list[tuple[list[SliceHeader], list[str]]]:
    return [([], [bad_files[path]]) if path in bad_files else _try_headers(path) for path in job.files]


def _try_headers(path: Path) -> tuple[list[SliceHeader], list[str]]:
    try:
        return read_headers(path)
    except DicomError as error:
        return [], [error.reason]


def _is_first(sop: str, path: Path, first_with_sop: dict[str, Path], faults: Faults) -> bool:
    """Whether `path` is the first file with its SOPInstanceUID; a duplicate is added to `faults`."""
    first = first_with_sop.setdefault(sop, path)
    if first is not path:
        faults.append((path, f"same SOPInstanceUID as {first}"))
    return first is path


def _by_study_uid(headers: Iterable[SliceHeader]) -> list[list[Path]]:
    """The files of each DICOM study, each once; slices that an anonymiser scattered over studies are one study."""
    files: dict[str, dict[Path, None]] = defaultdict(dict)
    for header in join_scattered_series(headers):
        files[header.study_uid][header.path] = None
    return [list(files[uid]) for uid in sorted(files)]


def _by_folder(paths: list[Path]) -> list[list[Path]]:
    """The files of each folder of the JPEG-256 derivative, which has one series per study."""
    files: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        files[path.parent].append(path)
    return [files[folder] for folder in sorted(files)]


def _jobs(studies: Iterable[list[Path]], store: Path, settings: FeaturesSettings) -> list[ExamJob]:
    jobs = []
    for number, files in enumerate(studies):
        source = Path(os.path.commonpath([path.parent for path in files]))
        jobs.append(ExamJob(f"study{number:05d}", tuple(files), _IngestOrder(source, store, settings)))
    return jobs


def _ingest_study(job: ExamJob, bad_files: dict[Path, str]) -> Study | str:
    """Read and store one study, or return the reason why it has no usable series."""
    order: _IngestOrder = job.payload
    try:
        if parse_jpeg_name(job.files[0].name):
            series = read_jpegs(order.source, job.files, without=bad_files)
        else:
            measure = partial(measure_enhancement, settings=order.settings)
            series = read_files(order.source, job.files, without=bad_files, measure=measure)
    except UserError as error:
        return " ".join(str(error).split()).removeprefix(f"{order.source}: ")
    ingested = ingest_series(dataclasses.replace(series, study_uid=job.name), order.store, order.settings)
    series = dataclasses.replace(series, hu=np.empty((0, 0, 0), np.int16))  # its pixels are in the store now
    return Study(
        name=job.name,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        selection_reason=series.selection_reason,
        flags=series.flags,
        slices=pd.DataFrame({SOP: series.sop_uids, "z_mm": series.z_mm}),
        files=dict(zip(series.sop_uids, series.files, strict=True)),
        quarantined=series.quarantined,
        other_series=series.other_series,
        ingested=ingested,
        quality=measure_acceptance(open_exam(order.store, job.name), ingested.slices, ingested.numbers),
    )


def slice_table(studies: list[Study]) -> pd.DataFrame:
    """One row per slice in use: STUDY (the study's name in the store), SERIES, SOP, z_mm."""
    tables = [study.slices.assign(**{STUDY: study.name, SERIES: study.series_uid}) for study in studies]
    return pd.concat(tables, ignore_index=True)[[STUDY, SERIES, SOP, "z_mm"]]
