"""The artifact features/masks: clot masks of training exams on the grid of the pixel store.

    <Study>.b2nd       blosc2 array, uint8 (z, y, x): codes of `input.clot_masks`, aligned with the stored planes
    slices.parquet     one row per stored slice of an exam with a mask: ids, `clot_mm2` (NaN where lengths are unknown),
                       and 0/1 for left, right, central, chronic, acute; NaN where the mask does not say

Only training exams are read, so nothing that learns from these files sees the truth of a test exam.
"""

import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import blosc2
import numpy as np
import pandas as pd

from features.resample import output_centres
from features.store import StoredExam, is_stored, open_exam, verify_once
from input.clot_masks import (
    CHRONIC_BIT,
    LEFT_LUNG,
    LEFT_MAIN,
    MASKS,
    RIGHT_LUNG,
    RIGHT_MAIN,
    TRUNK,
    UNKNOWN,
    find_masks,
    read_mask,
)
from input.contest import SOP, STUDY
from input.tables import load_slices, verify_generated
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import sha256, write_bytes, write_table
from pipeline.jobs import run_jobs
from pipeline.settings import Settings

VERSION = 1
NATURES = ("left", "right", "central", "chronic", "acute")
#: Masks kept open per thread.
OPEN_MASKS = 160
COLUMNS = (STUDY, SOP, "clot_mm2", *NATURES)


def masks_artifact(files: dict[str, Path]) -> Artifact:
    """The artifact of these mask files, from `training_masks`."""
    return Artifact(
        paths.masks(),
        "features/masks",
        version=VERSION,
        settings={"files": {study: sha256(path)[:16] for study, path in files.items()}},
        inputs={"features/store": read_manifest(paths.store())["identity"]},
        shared=True,
    )


def training_masks(settings: Settings, slices: pd.DataFrame) -> dict[str, Path]:
    """StudyInstanceUID -> mask file of the stored training exams that have one.

    Args:
        slices: slices.parquet of input/prepared.
    """
    training = set(slices.loc[slices["split"] == "train", STUDY])
    files = find_masks(settings.data_root)
    return {study: files[study] for study in sorted(training & set(files)) if is_stored(paths.store(), study)}


def build_masks(settings: Settings, *, force: bool = False) -> None:
    """Bring the clot masks of all training exams to the store's grid.

    Raises:
        UserError: masks that cannot be read or have another shape than their series; all at once.
    """
    verify_generated(settings, MASKS)
    slices = load_slices()
    files = training_masks(settings, slices)
    artifact = masks_artifact(files)
    if artifact.is_current(force=force):
        return
    readable = slices[(slices["position"] >= 0) & slices[STUDY].isin(files)]
    positions = {study: rows.set_index(SOP)["position"] for study, rows in readable.groupby(STUDY)}
    with artifact.building(fresh=True) as directory:
        folders = settings.data_root, paths.store(), directory
        jobs = [(*folders, study, path, positions[study]) for study, path in files.items()]
        tables, faults = [], []
        for table, fault in run_jobs(store_mask, jobs, desc="clot masks"):
            tables += [table] if not fault else []
            faults += [fault] if fault else []
        if faults:
            raise UserError.listing("Unusable clot masks:", faults, "Replace or remove these files.")
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
        write_table(directory / "slices.parquet", table)
        artifact.finish(rows={"exams": len(files), "slices": len(table)}, metrics={})
    say(f"features/masks: clot masks of {len(files)} training exams")


def store_mask(
    tree: Path, store: Path, directory: Path, study: str, path: Path, positions: pd.Series
) -> tuple[pd.DataFrame, str]:
    """Store the mask of one exam.

    Args:
        tree: the contest tree.
        store: the pixel store.
        directory: where the mask goes.
        study: StudyInstanceUID.
        path: the mask's file.
        positions: SOPInstanceUID -> position of the slice among the series' readable ones, feet to head.

    Returns:
        The exam's rows of slices.parquet, and what is wrong with the mask, empty where nothing is.
    """
    exam = open_exam(store, study)
    try:
        codes = read_mask(tree, study, path)
    except UserError as fault:
        return pd.DataFrame(), str(fault)
    expected = (len(positions), *exam.sidecar["raw_shape"])
    if codes.shape != expected:
        return pd.DataFrame(), f"{path.name}: expected (slices, rows, columns) {expected}, got {codes.shape}"
    stored = mask_on_store(codes[positions.reindex(list(exam.sop_uids)).to_numpy(int)], exam)
    plane = (1, *stored.shape[1:])
    options = blosc2.CParams(clevel=1, nthreads=1)
    packed = blosc2.zeros(stored.shape, stored.dtype, chunks=plane, blocks=plane, contiguous=True, cparams=options)
    for number in np.flatnonzero(stored.any(axis=(1, 2))):  # compressing empty planes takes as long
        packed[number] = stored[number]
    write_bytes(mask_path(directory, study), packed.to_cframe())
    return slice_natures(stored, exam), ""


def mask_path(directory: Path, study: str) -> Path:
    """The file with an exam's mask."""
    return directory / f"{study}.b2nd"


class MaskStore(Mapping[str, np.ndarray]):
    """StudyInstanceUID -> mask, uint8 (z, y, x) on the store's grid, decoded plane by plane when sliced.

    Args:
        directory: the folder features/masks.
        studies: exams whose masks may be read.
    """

    def __init__(self, directory: Path, studies: list[str]) -> None:
        self._directory, self._studies = directory, dict.fromkeys(studies)
        self._of_thread = threading.local()  # an open array may decode in one thread at a time only

    def __getitem__(self, study: str) -> np.ndarray:
        if study not in self._studies:
            raise KeyError(study)
        if not hasattr(self._of_thread, "open"):
            self._of_thread.open = lru_cache(maxsize=OPEN_MASKS)(self._open)
        return self._of_thread.open(study)

    def __contains__(self, study: object) -> bool:
        return study in self._studies

    def __iter__(self) -> Iterator[str]:
        return iter(self._studies)

    def __len__(self) -> int:
        return len(self._studies)

    def _open(self, study: str) -> np.ndarray:
        path = mask_path(self._directory, study)
        verify_once(self._directory, [path])
        return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))


def mask_on_store(codes: np.ndarray, exam: StoredExam) -> np.ndarray:
    """Take the nearest raw voxel for every stored one.

    Args:
        codes: uint8 (z, rows, columns) on the raw series' grid, planes aligned with the stored ones.
        exam: the stored exam.

    Returns:
        uint8 (z, y, x) on the store's grid.
    """
    sides = ((exam.box.y0, exam.box.y1), (exam.box.x0, exam.box.x1))
    rows, columns = (
        np.clip(np.floor(output_centres(*side, exam.hu.shape[axis], scale)).astype(int), 0, codes.shape[axis] - 1)
        for axis, (side, scale) in enumerate(zip(sides, _scales(exam), strict=True), start=1)
    )
    stored = np.zeros((len(codes), len(rows), len(columns)), codes.dtype)
    for plane in np.flatnonzero(codes.any(axis=(1, 2))):  # few slices show clot
        stored[plane] = codes[plane][np.ix_(rows, columns)]
    return stored


def _scales(exam: StoredExam) -> tuple[float, float]:
    """Size (y, x) of a stored pixel in raw pixels."""
    if not exam.has_spacing:
        return 1.0, 1.0
    (y, x), (raw_y, raw_x) = exam.spacing_mm, exam.raw_spacing_mm
    return y / raw_y, x / raw_x


def slice_natures(codes: np.ndarray, exam: StoredExam) -> pd.DataFrame:
    """Area, side, centre and age of the clot on every stored slice; columns as the module's docstring says.

    Args:
        codes: uint8 (z, y, x) on the store's grid.
        exam: the stored exam.
    """
    area = np.count_nonzero(codes, axis=(1, 2)) * float(np.prod(exam.spacing_mm))
    showing = np.flatnonzero(area)  # few slices show clot
    codes = codes[showing]
    region, chronic = codes % CHRONIC_BIT, codes >= CHRONIC_BIT
    unknown = region == UNKNOWN
    is_left = np.arange(codes.shape[2])[None, None] > exam.middle_column
    on = {
        "left": (region == LEFT_MAIN) | (region == LEFT_LUNG) | (unknown & is_left),
        "right": (region == RIGHT_MAIN) | (region == RIGHT_LUNG) | (unknown & ~is_left),
        "central": (region >= TRUNK) & (region <= LEFT_MAIN),
        "chronic": chronic,
        "acute": (codes > 0) & ~chronic,
    }
    columns = {name: np.zeros(len(area), np.float32) for name in on}
    for name, mask in on.items():
        columns[name][showing] = mask.any(axis=(1, 2))
    for name in ("central", "chronic", "acute"):
        columns[name][showing[unknown.any(axis=(1, 2))]] = np.nan
    first = {STUDY: exam.study, SOP: list(exam.sop_uids), "clot_mm2": area.astype(np.float32)}
    return pd.DataFrame(first | columns)
