"""Converts a contest tree of DICOM files into the layout of its JPEG-256 derivative."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from input.contest import SERIES, SOP, STUDY
from input.contest_tree import SPLITS, is_jpeg_tree, read_tree
from input.decoding import ExamJob, Outcome, decode_exams
from input.exam_headers import read_exam_headers
from input.jpeg256 import SIDE, window_channels
from input.slice_faults import DicomFault
from input.slice_file import read_pixels
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, sha256, write_json, write_table

QUALITY = 95
#: In an unfinished tree: what it is made from, so that the same command goes on and another one is refused, and a
#: file an exam that is whole, with the slices that could not be read.
UNFINISHED, SOURCE = ".converting", "source.json"
UNREADABLE = "unreadable.csv"


@dataclass(frozen=True)
class _Order:
    """The payload of a job: a series' folder, where its JPEG files and its record go, its UIDs, their quality."""

    folder: Path
    out: Path
    record: Path
    sops: tuple[str, ...]
    quality: int


def convert_tree(data: Path, out: Path, *, quality: int = QUALITY, workers: int = 0) -> None:
    """Write the JPEG-256 derivative of a contest tree of DICOM files, tables included.

    A slice that cannot be read has no file in the derivative; `unreadable.csv` there tells the reasons. A killed
    conversion goes on after the last exam that was written whole.

    Args:
        data: the tree; it is not changed.
        out: a folder that does not exist, is empty, or holds an unfinished conversion of the same tree.
        quality: of the JPEG files, 1 to 95.
        workers: processes; 0 means one a core.

    Raises:
        UserError: `data` is no such tree, or `out` holds something else.
    """
    tree = read_tree(data)
    if is_jpeg_tree(data):
        raise UserError(f"{data}: this is a JPEG-256 derivative already; expected a tree of DICOM files")
    source = {"quality": quality} | {f"{split}.csv": sha256(data / f"{split}.csv") for split in SPLITS}
    unfinished = out / UNFINISHED
    marker = unfinished / SOURCE
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not marker.is_file() or read_json(marker) != source:
            raise UserError(
                f"{out}: not an empty folder, nor an unfinished conversion of {data}; give another --out, or remove it"
            )
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(marker, source)
    jobs = []
    for split in SPLITS:
        for study, rows in tree.tables[split].groupby(STUDY, sort=False):
            place = Path(study) / rows[SERIES].iat[0]
            folder, target, sops = data / split / place, out / f"{split}-jpegs" / place, tuple(rows[SOP])
            order = _Order(folder, target, unfinished / f"{study}.json", sops, quality)
            jobs.append(ExamJob(study, tuple(folder / f"{sop}.dcm" for sop in sops), order))
    outcomes = progress(decode_exams(jobs, convert_series, workers=workers), what="convert", total=len(jobs))
    lost = [row for outcome in outcomes for row in _lost(outcome)]
    for path in sorted(data.glob("*.csv")):
        shutil.copyfile(path, out / path.name)
    if lost:
        write_table(out / UNREADABLE, pd.DataFrame(lost, columns=[STUDY, SOP, "reason"]))
    shutil.rmtree(unfinished)
    slices = sum(len(tree.tables[split]) for split in SPLITS) - len(lost)
    say(f"{out}: {len(jobs)} exams, {slices} slices as JPEG" + (f", {len(lost)} in {UNREADABLE}" if lost else ""))


def convert_series(job: ExamJob, bad_files: dict[Path, str]) -> dict[str, str]:
    """Convert one series, ranked by z ascending; SOP -> reason of the slices that could not be read."""
    order: _Order = job.payload
    if order.record.is_file():
        return read_json(order.record)
    order.out.mkdir(parents=True, exist_ok=True)
    geometry = read_exam_headers(order.folder, order.folder.parent.name, order.folder.name, list(order.sops))
    table = pd.DataFrame({SOP: order.sops, "position": geometry.position, "reason": geometry.quarantine})
    lost = dict(table.loc[table["position"] < 0, [SOP, "reason"]].itertuples(index=False))
    rank = 0
    for sop in table[table["position"] >= 0].sort_values("position")[SOP]:
        path = order.folder / f"{sop}.dcm"
        try:
            if path in bad_files:
                raise DicomFault(bad_files[path])
            hu = read_pixels(path)
        except DicomFault as fault:
            lost[sop] = fault.reason
            continue
        with atomic_path(order.out / f"{rank:04d}_{sop}.jpg") as temporary:
            Image.fromarray(window_channels(shrink(hu))).save(temporary, "JPEG", quality=order.quality)
        rank += 1
    write_json(order.record, lost)
    return lost


def _lost(outcome: Outcome) -> list[tuple[str, str, str]]:
    reasons = dict.fromkeys(outcome.job.payload.sops, outcome.fault) if outcome.fault else outcome.value
    return [(outcome.name, sop, reason) for sop, reason in reasons.items()]


def shrink(hu: np.ndarray) -> np.ndarray:
    """Bring a slice (y, x) to 256 x 256 by area averages: float32."""
    image = Image.fromarray(hu.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
