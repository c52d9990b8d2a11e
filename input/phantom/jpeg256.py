"""Converts a contest tree of DICOM files into the layout of its JPEG-256 derivative."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from input.contest import SERIES, SOP, STUDY
from input.dicom import DicomFault, read_pixels
from input.exam import read_exam_headers
from input.jpeg256 import SIDE, window_channels
from input.tree import SPLITS, is_jpeg_tree, read_tree
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.jobs import run_jobs

QUALITY = 95


def convert_tree(data: Path, out: Path, *, quality: int = QUALITY, workers: int = 0) -> None:
    """Write the JPEG-256 derivative of a contest tree of DICOM files, tables included.

    A slice that cannot be read has no file in the derivative, and is counted.

    Args:
        data: the tree; it is not changed.
        out: a folder that does not exist, or is empty.
        quality: of the JPEG files, 1 to 95.
        workers: processes; 0 means one a core.

    Raises:
        UserError: `data` is no such tree, or `out` is not empty.
    """
    tree = read_tree(data)
    if is_jpeg_tree(data):
        raise UserError(f"{data}: this is a JPEG-256 derivative already; expected a tree of DICOM files")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not an empty folder; expected one that does not exist: give another --out")
    jobs = []
    for split in SPLITS:
        for study, rows in tree.tables[split].groupby(STUDY, sort=False):
            place = Path(study) / rows[SERIES].iat[0]
            jobs.append((data / split / place, out / f"{split}-jpegs" / place, rows[SOP].tolist(), quality))
    lost = sum(run_jobs(convert_series, jobs, what="convert", workers=workers))
    for path in sorted(data.glob("*.csv")):
        shutil.copyfile(path, out / path.name)
    slices = sum(len(tree.tables[split]) for split in SPLITS) - lost
    say(f"{out}: {len(jobs)} exams, {slices} slices as JPEG" + (f", {lost} unreadable" if lost else ""))


def convert_series(folder: Path, out: Path, sops: list[str], quality: int = QUALITY) -> int:
    """Convert one series, ranked by z ascending; gives the number of slices that could not be read."""
    out.mkdir(parents=True, exist_ok=True)
    geometry = read_exam_headers(folder, folder.parent.name, folder.name, sops)
    order = pd.Series(geometry.position, index=sops)
    rank = 0
    for sop in order[order >= 0].sort_values().index:
        try:
            hu = read_pixels(folder / f"{sop}.dcm")
        except DicomFault:
            continue
        with atomic_path(out / f"{rank:04d}_{sop}.jpg") as temporary:
            Image.fromarray(window_channels(shrink(hu))).save(temporary, "JPEG", quality=quality)
        rank += 1
    return len(sops) - rank


def shrink(hu: np.ndarray) -> np.ndarray:
    """Bring a slice (y, x) to 256 x 256 by area averages: float32."""
    image = Image.fromarray(hu.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
