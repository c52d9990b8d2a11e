"""Read unlabelled DICOM or JPEG-256 files, in folders or archives, as studies, and store them for the networks."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from features.build_store import assemble
from features.ingest import IngestedExam, ingest_series
from features.series_enhancement import measure_enhancement
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
from pipeline.files import write_table
from pipeline.settings import FeaturesSettings

#: Kinds of faults that are printed.
PRINTED_FAULTS = 10
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
    files: dict[str, tuple[Path, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _IngestOrder:
    """The payload of a study's job; `source` is the deepest folder or archive that contains all of its files."""

    source: Path
    store: Path
    settings: FeaturesSettings


def read_studies(source: Path, store: Path, settings: FeaturesSettings) -> list[Study]:
    """Read every study below a folder, or in a zip archive, into a store, and write the store's two tables.

    DICOM files are grouped by the StudyInstanceUID in their headers, wherever they are in the folder tree; of each
    study, the series most suitable for PE detection is used. Files of the JPEG-256 derivative are recognised by their
    names (`<Study>/<Series>/<iiii>_<SOP>.jpg`), one study per folder. Files are decoded in separate processes, which
    may crash or hang without affecting this one.

    Args:
        source: a folder, including the zip archives in it, or a zip archive.
        store: an empty folder.
        settings: those the networks were trained with.

    Raises:
        UserError: `source` is neither a folder nor an archive, or contains no usable series.
    """
    files, faults = source_files(source)
    jobs = _jobs(_group_by_study(files, faults), store, settings)
    studies, unusable = _ingest(jobs)
    if not studies:
        raise UserError.listing(f"{source}: no usable series:", [*unusable, *describe_faults(faults)] or ["no files"])
    if faults:
        say(f"files that are not usable axial CT slices: {len(faults)}")
    for line in [*describe_faults(faults)[:PRINTED_FAULTS], *(f"study left out: {line}" for line in unusable)]:
        say(f"  {line}")
    _write_tables(studies, store)
    return studies


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
    for path in progress(files, desc="headers", unit="file"):
        try:
            slices, reasons = read_headers(path)
        except DicomError as error:
            faults.append((path, error.reason))
            continue
        faults += [(path, reason) for reason in reasons]
        headers += [header for header in slices if _is_first(header.sop_uid, path, first_with_sop, faults)]
    return headers


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


def _ingest(jobs: list[ExamJob]) -> tuple[list[Study], list[str]]:
    """The studies that were read, and one line of text for each of the others."""
    studies, unusable = [], []
    outcomes = progress(decode_exams(jobs, _ingest_study), desc="read", total=len(jobs), unit="study")
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome.value, Study):
            studies.append(outcome.value)
        else:
            unusable.append(f"{job.payload.source}: {outcome.value or outcome.fault}")
    return studies, unusable


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
        return str(error)
    ingested = ingest_series(dataclasses.replace(series, study_uid=job.name), order.store, order.settings)
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
    )


def slice_table(studies: list[Study]) -> pd.DataFrame:
    """One row per slice in use: STUDY (the study's name in the store), SERIES, SOP, z_mm."""
    tables = [study.slices.assign(**{STUDY: study.name, SERIES: study.series_uid}) for study in studies]
    return pd.concat(tables, ignore_index=True)[[STUDY, SERIES, SOP, "z_mm"]]


def _write_tables(studies: list[Study], store: Path) -> None:
    slices = slice_table(studies).assign(split="test", quarantine="")
    tables = assemble(slices, [study.ingested for study in studies])
    for name, table in zip(("slices", "exams"), tables, strict=True):
        write_table(store / f"{name}.parquet", table)
