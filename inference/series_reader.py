"""DICOM or JPEG-256 files without tables, in folders or archives, sorted into studies and stored for the networks."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from features.build_store import assemble
from features.ingest import Ingested, ingest_series
from input.archive import source_files
from input.contest import SERIES, SOP, STUDY
from input.decoding import ExamJob, decode_exams
from input.dicom import read_files
from input.header import SliceHeader
from input.jpeg256 import split_name
from input.jpeg_series import read_jpegs
from input.series_selection import OtherSeries
from input.slice_faults import DicomFault
from input.slice_file import read_header
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import write_table
from pipeline.settings import FeaturesSettings


@dataclasses.dataclass(frozen=True)
class Study:
    """One study that was read and stored.

    Attributes:
        name: its name in the temporary store; a UID out of an untrusted header must not become a path.
        study_uid, series_uid: as the files say.
        why: which series was chosen, in words.
        flags: what is odd about the series.
        slices: SOP and z_mm of the slices in use, feet to head.
        quarantined: (path, reason) of files that were not used.
        others: the study's series that were not chosen, with the reason against each.
        ingested: the measured numbers.
    """

    name: str
    study_uid: str
    series_uid: str
    why: str
    flags: tuple[str, ...]
    slices: pd.DataFrame
    quarantined: list[tuple[Path, str]]
    others: tuple[OtherSeries, ...]
    ingested: Ingested


@dataclasses.dataclass(frozen=True)
class _Order:
    """The payload of a study's job; `place` is the deepest folder or archive that holds all of its files."""

    place: Path
    store: Path
    settings: FeaturesSettings


def read_studies(source: Path, store: Path, settings: FeaturesSettings) -> list[Study]:
    """Read every study below a folder, or in a zip archive, into a store, and write the store's two tables.

    Files are told apart by the StudyInstanceUID in their headers, however they lie in folders; of each study the
    series that suits PE detection is taken. Slices of the JPEG-256 derivative are told by their names
    (`<Study>/<Series>/<iiii>_<SOP>.jpg`), a folder a study. Decoding happens in processes that may die or hang.

    Args:
        source: a folder, whose zip archives are read like folders, or a zip archive.
        store: an empty folder.
        settings: as the networks were trained with.

    Raises:
        UserError: neither a folder nor an archive, or no usable series in it.
    """
    files, faults = source_files(source)
    seen: dict[str, Path] = {}  # SOPInstanceUID -> the first file with it
    headers = _headers([path for path in files if not split_name(path.name)], seen, faults)
    jpegs = [path for path in files if split_name(path.name)]
    jpegs = [path for path in jpegs if _is_first(split_name(path.name)[1], path, seen, faults)]
    jobs = _jobs([*_studies(headers), *_jpeg_series(jpegs)], store, settings)
    studies, lost = [], []
    outcomes = progress(decode_exams(jobs, _ingest_study), what="read", total=len(jobs), unit="study")
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome.value, Study):
            studies.append(outcome.value)
        else:
            lost.append(f"{job.payload.place}: {outcome.value or outcome.fault}")
    if faults:
        say(f"files that are no usable axial CT slice: {len(faults)}, the first of them:")
    for path, reason in faults[:5]:
        say(f"  {path}: {reason}")
    if not studies:
        reasons = [*lost, *(f"{path}: {reason}" for path, reason in faults)] or ["it holds no files"]
        raise UserError.listing(f"{source}: no usable series:", reasons)
    for line in lost:
        say(f"left out: {line}")
    _write_tables(studies, store)
    return studies


def _headers(files: list[Path], seen: dict[str, Path], faults: list[tuple[Path, str]]) -> list[SliceHeader]:
    """The headers of usable slices; the others join the faults."""
    headers = []
    for path in progress(files, what="headers", unit="file"):
        try:
            header = read_header(path)
        except DicomFault as fault:
            faults.append((path, fault.reason))
            continue
        if _is_first(header.sop_uid, path, seen, faults):
            headers.append(header)
    return headers


def _is_first(sop: str, path: Path, seen: dict[str, Path], faults: list[tuple[Path, str]]) -> bool:
    """Whether no file before this one has its SOPInstanceUID; a second one joins the faults."""
    twin = seen.setdefault(sop, path)
    if twin is not path:
        faults.append((path, f"same SOPInstanceUID as {twin}"))
    return twin is path


def _studies(headers: Iterable[SliceHeader]) -> list[list[Path]]:
    """The files of each study."""
    of_study: dict[str, list[Path]] = defaultdict(list)
    for header in headers:
        of_study[header.study_uid].append(header.path)
    return [of_study[uid] for uid in sorted(of_study)]


def _jpeg_series(files: list[Path]) -> list[list[Path]]:
    """The files of each folder of the JPEG-256 derivative, which has one series a study."""
    of_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        of_folder[path.parent].append(path)
    return [of_folder[folder] for folder in sorted(of_folder)]


def _jobs(studies: Iterable[list[Path]], store: Path, settings: FeaturesSettings) -> list[ExamJob]:
    jobs = []
    for number, files in enumerate(studies):
        place = Path(os.path.commonpath([path.parent for path in files]))
        jobs.append(ExamJob(f"study{number:05d}", tuple(files), _Order(place, store, settings)))
    return jobs


def _ingest_study(job: ExamJob, bad_files: dict[Path, str]) -> Study | str:
    """Read and store one study; a study without a usable series gives the reason instead."""
    order: _Order = job.payload
    try:
        read = read_jpegs if split_name(job.files[0].name) else read_files
        series = read(order.place, job.files, without=bad_files)
    except UserError as fault:
        return str(fault)
    ingested = ingest_series(dataclasses.replace(series, study_uid=job.name), order.store, order.settings)
    return Study(
        name=job.name,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        why=series.why,
        flags=series.flags,
        slices=pd.DataFrame({SOP: series.sop_uids, "z_mm": series.z_mm}),
        quarantined=series.quarantined,
        others=series.others,
        ingested=ingested,
    )


def slice_table(studies: list[Study]) -> pd.DataFrame:
    """A row a slice in use: STUDY (the study's name in the store), SERIES, SOP, z_mm."""
    return pd.concat(
        [each.slices.assign(**{STUDY: each.name, SERIES: each.series_uid}) for each in studies], ignore_index=True
    )[[STUDY, SERIES, SOP, "z_mm"]]


def _write_tables(studies: list[Study], store: Path) -> None:
    slices = slice_table(studies).assign(split="test", quarantine="")
    for name, table in zip(("slices", "exams"), assemble(slices, [each.ingested for each in studies]), strict=True):
        write_table(store / f"{name}.parquet", table)
