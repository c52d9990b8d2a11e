"""Convert a contest tree of DICOM files into its JPEG-256 derivative."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from input.contest import SERIES, SOP, STUDY
from input.contest_tree import SPLITS, is_jpeg_tree, read_tree
from input.exam_headers import read_exam_headers
from input.jpeg256 import SIDE, window_channels
from input.safe_decoding import ExamJob, Outcome, decode_exams
from input.slice_errors import DicomError
from input.slice_file import read_pixels
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, sha256, write_json, write_table

QUALITY = 95
#: Folder of an unfinished conversion. It has `SOURCE`, which identifies the converted tree, so that a rerun resumes and
#: another tree is refused; and one file per finished exam, with the slices that could not be read.
UNFINISHED, SOURCE = ".converting", "source.json"
UNREADABLE = "unreadable.csv"


@dataclass(frozen=True)
class _Conversion:
    """The payload of one job: one series."""

    folder: Path  # of its DICOM files
    out: Path  # folder for its JPEG files
    record: Path  # written when the series is finished: SOP -> reason of its unreadable slices
    sops: tuple[str, ...]
    quality: int


def convert_tree(data: Path, out: Path, *, quality: int = QUALITY, workers: int = 0) -> None:
    """Write the JPEG-256 derivative of a contest tree of DICOM files, including its CSVs.

    A slice that cannot be read has no file in the derivative; `unreadable.csv` lists it with the reason. A killed
    conversion resumes after the last finished exam.

    Args:
        data: the tree; it is not changed.
        out: a folder that does not exist, is empty, or has an unfinished conversion of the same tree.
        quality: JPEG quality, 1 to 95.
        workers: number of processes; 0 means one per core.

    Raises:
        UserError: `data` is not a tree of DICOM files, or `out` has other content.
    """
    tree = read_tree(data)
    if is_jpeg_tree(data):
        raise UserError(f"{data}: already a JPEG-256 derivative. Expected a tree of DICOM files.")
    source = {"quality": quality} | {f"{split}.csv": sha256(data / f"{split}.csv") for split in SPLITS}
    unfinished = out / UNFINISHED
    marker = unfinished / SOURCE
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not marker.is_file() or read_json(marker) != source:
            raise UserError(
                f"{out}: not empty. Expected an empty or new folder, or an unfinished conversion of {data}. "
                "Remove it or use another --out."
            )
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(marker, source)
    jobs = []
    for split in SPLITS:
        for study, rows in tree.tables[split].groupby(STUDY, sort=False):
            series = Path(study) / rows[SERIES].iat[0]
            folder, target, sops = data / split / series, out / f"{split}-jpegs" / series, tuple(rows[SOP])
            conversion = _Conversion(folder, target, unfinished / f"{study}.json", sops, quality)
            jobs.append(ExamJob(study, tuple(folder / f"{sop}.dcm" for sop in sops), conversion))
    outcomes = progress(decode_exams(jobs, convert_series, workers=workers), desc="convert", total=len(jobs))
    unreadable = [row for outcome in outcomes for row in _unreadable(outcome)]
    for path in sorted(data.glob("*.csv")):
        shutil.copyfile(path, out / path.name)
    if unreadable:
        write_table(out / UNREADABLE, pd.DataFrame(unreadable, columns=[STUDY, SOP, "reason"]))
    shutil.rmtree(unfinished)
    slices = sum(len(tree.tables[split]) for split in SPLITS) - len(unreadable)
    listed = f"; {len(unreadable)} unreadable slices listed in {UNREADABLE}" if unreadable else ""
    say(f"{out}: wrote {len(jobs)} exams, {slices} slices as JPEG{listed}")


def convert_series(job: ExamJob, bad_files: dict[Path, str]) -> dict[str, str]:
    """Convert one series; slices are ranked by ascending z.

    Returns:
        SOPInstanceUID -> reason of the slices that could not be read.
    """
    conversion: _Conversion = job.payload
    if conversion.record.is_file():
        return read_json(conversion.record)
    conversion.out.mkdir(parents=True, exist_ok=True)
    study, series = conversion.folder.parts[-2:]
    geometry = read_exam_headers(conversion.folder, study, series, list(conversion.sops))
    table = pd.DataFrame({SOP: conversion.sops, "position": geometry.position, "reason": geometry.quarantine})
    unreadable = dict(table.loc[table["position"] < 0, [SOP, "reason"]].itertuples(index=False))
    rank = 0
    for sop in table[table["position"] >= 0].sort_values("position")[SOP]:
        path = conversion.folder / f"{sop}.dcm"
        try:
            if path in bad_files:
                raise DicomError(bad_files[path])
            hu = read_pixels(path)
        except DicomError as fault:
            unreadable[sop] = fault.reason
            continue
        with atomic_path(conversion.out / f"{rank:04d}_{sop}.jpg") as temporary:
            Image.fromarray(window_channels(downsample(hu))).save(temporary, "JPEG", quality=conversion.quality)
        rank += 1
    write_json(conversion.record, unreadable)
    return unreadable


def _unreadable(outcome: Outcome) -> list[tuple[str, str, str]]:
    reasons = dict.fromkeys(outcome.job.payload.sops, outcome.fault) if outcome.fault else outcome.value
    return [(outcome.name, sop, reason) for sop, reason in reasons.items()]


def downsample(hu: np.ndarray) -> np.ndarray:
    """Resize a slice (y, x) to 256 x 256 by area averaging; float32."""
    image = Image.fromarray(hu.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
