"""Read slice order and geometry of unlabelled exams: rows of test.csv, completed from the files' headers."""

from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import SERIES, SOP, STUDY
from input.contest_tree import is_jpeg_tree, split_folder
from input.exam_headers import ExamGeometry, read_exam_headers, read_exam_jpegs
from pipeline.jobs import run_jobs


def slice_rows(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Read the headers of exams of the test split; unreadable files keep their rows, with the reason.

    Args:
        root: a contest tree of DICOM files, or its JPEG-256 derivative.
        rows: the three UIDs of every slice of these exams, as in test.csv.

    Returns:
        The rows in the same order with split, position (rank by z, -1 if unreadable), z_mm, path (below `root`) and
        quarantine ("" if readable), as in slices.parquet of input/prepared.
    """
    rows = rows.reset_index(drop=True)
    groups = rows.groupby(STUDY, sort=False).indices
    jobs = [
        (root, study, rows[SERIES].iat[indices[0]], rows[SOP].iloc[indices].tolist())
        for study, indices in groups.items()
    ]
    columns = {
        name: np.empty(len(rows), dtype)
        for name, dtype in (("position", int), ("z_mm", float), ("quarantine", object), ("path", object))
    }
    geometries = run_jobs(_read_geometry, jobs, desc="headers")
    for indices, (_, study, series, _), geometry in zip(groups.values(), jobs, geometries, strict=True):
        folder = Path(split_folder(root, "test").name) / study / series
        columns["position"][indices], columns["z_mm"][indices] = geometry.position, geometry.z_mm
        columns["quarantine"][indices] = geometry.quarantine
        columns["path"][indices] = [(folder / name).as_posix() for name in geometry.names]
    return rows.assign(split="test", **columns)


def _read_geometry(root: Path, study: str, series: str, sops: list[str]) -> ExamGeometry:
    folder = split_folder(root, "test") / study / series
    return read_exam_jpegs(folder, sops) if is_jpeg_tree(root) else read_exam_headers(folder, study, series, sops)
