"""Exams of a contest tree that nobody labelled: their rows of test.csv, with what the files' headers say."""

from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import SERIES, SOP, STUDY
from input.contest_tree import is_jpeg_tree, split_folder
from input.exam_headers import ExamGeometry, read_exam_headers, read_exam_jpegs
from pipeline.jobs import run_jobs


def slice_rows(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Read the headers of some exams of the test split; unreadable files keep their rows, with the reason.

    Args:
        root: a contest tree of DICOM files, or of its JPEG-256 derivative.
        rows: the three UIDs of every slice of these exams, as in test.csv.

    Returns:
        The rows in their order with split, position (rank by z, -1 unreadable), z_mm, path (below `root`) and
        quarantine ("" readable), as in slices.parquet of input/prepared.
    """
    rows = rows.reset_index(drop=True)
    groups = rows.groupby(STUDY, sort=False).indices
    jobs = [(root, study, rows[SERIES].iat[each[0]], rows[SOP].iloc[each].tolist()) for study, each in groups.items()]
    found = {
        name: np.empty(len(rows), kind)
        for name, kind in (("position", int), ("z_mm", float), ("quarantine", object), ("path", object))
    }
    for each, job, geometry in zip(groups.values(), jobs, run_jobs(_geometry, jobs, what="headers"), strict=True):
        folder = Path(split_folder(root, "test").name) / job[1] / job[2]
        found["position"][each], found["z_mm"][each] = geometry.position, geometry.z_mm
        found["quarantine"][each] = geometry.quarantine
        found["path"][each] = [(folder / name).as_posix() for name in geometry.names]
    return rows.assign(split="test", **found)


def _geometry(root: Path, study: str, series: str, sops: list[str]) -> ExamGeometry:
    folder = split_folder(root, "test") / study / series
    return read_exam_jpegs(folder, sops) if is_jpeg_tree(root) else read_exam_headers(folder, study, series, sops)
