"""Implants drawn clots into a real CT without PE: real anatomy, scanner and noise, and an exact truth.

Takes PE-negative series (DICOM folders or zip archives, or NIfTI volumes); writes a tree in the contest's
layout with the masks, and with labels derived from what is visible. Clots lie in arteries that
`input.implant.real_arteries` finds, limited to their lumina, and keep the texture of the blood that they
replace: a voxel moves by the difference of clot and local mean of blood, times the share of blood in it.

What it cannot do: no central clots (the mediastinum's arteries are not looked for), no widened arteries,
and RV/LV stays the source's, which must be told. An implanted exam shares its anatomy with its source and
with the source's other variants: keep them in one split, or the score lies. `fold_groups.csv` keeps them in one fold.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from input.contest import CENTRAL, GTE_1, LEFT, LT_1, NEGATIVE, QA_LABELS, RIGHT, STUDY
from input.contest_tree import FOLD_GROUPS, GROUP
from input.decoding import read_series_safely
from input.implant.nifti import read_nifti
from input.implant.real_arteries import FoundArteries, find_arteries
from input.phantom.dicom_quirks import Quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import Difficulty, difficulty_named
from input.phantom.emboli import Clot, clot_tubes, widened
from input.phantom.exam_generator import place_clots
from input.phantom.labels import ExamState, burden_table, contest_states, is_positive, label_row
from input.phantom.physics import Scanner
from input.phantom.raster import Grid, Tubes, tube_coverage
from input.phantom.synthetic_contest import study_folder, write_masks, write_tables
from input.phantom.vessel_trees import LEFT_LUNG, RIGHT_LUNG, Arteries
from input.slice_order import slice_step_mm
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_json, write_table
from pipeline.jobs import run_jobs

LUNG_HU = -850.0  # what shares a voxel with blood at a lumen's edge
BLOOD_MM = 2.5  # reach of the local mean of blood
LEAST_SLICES = 20
IN_PLANE = np.ones((1, 3, 3), bool)
#: Written plainly: implanted exams are real scans already, with quirks of their own.
PLAIN = Quirks(ExplicitVRLittleEndian, True, 1.0, -1024.0, None, "HFS", 1, 1, False, 1)


@dataclass(frozen=True)
class Source:
    """A real scan, canonical orientation."""

    name: str
    hu: np.ndarray  # int16 (z, y, x)
    grid: Grid
    study: str = ""  # StudyInstanceUID, where the scan has one

    @cached_property
    def digest(self) -> str:
        """Names the scan by its content, so that identifiers of several runs do not meet."""
        return hashlib.sha256(self.hu.tobytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Lumen:
    """The blood in a scan's pulmonary vessels."""

    share: np.ndarray  # float16 (z, y, x), 0-1: of every voxel of the scan
    box: tuple[slice, slice, slice]  # outside it the share is 0
    blood: np.ndarray  # float32, HU in the box


@dataclass(frozen=True)
class ImplantedExam:
    """A scan with clots; arrays (z, y, x) on the scan's grid."""

    hu: np.ndarray  # int16
    grid: Grid
    on: frozenset[str]  # labels that are on
    pe_present: np.ndarray  # (n,) bool
    clot: np.ndarray  # uint8, codes as in `contest.read_masks`
    artery: np.ndarray  # bool: found arteries
    clot_area_mm2: np.ndarray  # (n,)
    clots: list[dict]
    scanner: Scanner
    fov_mm: float


def implant_all(
    scans: list[Path], out: Path, *, split: str = "test", variants: int = 1, with_source: bool = False,
    difficulty: str = "contest", rv_lv: str = LT_1, seed: int = 1, train: Path | None = None, workers: int = 0,
) -> None:  # fmt: skip
    """Write a contest tree of implanted exams.

    Args:
        scans: PE-negative series: DICOM folders, zip archives, .nii or .nii.gz files.
        out: an empty or new folder.
        split: "test" or "train".
        variants: implanted exams a scan, each with other clots.
        with_source: also write every scan as it is, labelled negative.
        difficulty: of the clots.
        rv_lv: the RV/LV label that the sources' hearts deserve.
        seed: of the clots and the identifiers.
        train: a contest tree whose training part is linked into `out`, so that `out` is a whole contest.
        workers: processes; 0 means one a core.

    Raises:
        UserError: what cannot be read or implanted, all scans at once; nothing is left then.
    """
    difficulty_named(difficulty)
    missing = [f"{scan}: not there" for scan in scans if not scan.exists()]
    if train is not None and (split != "test" or not (train / "train.csv").is_file()):
        missing.append(f"{train}: a tree with train.csv is linked, and only beside --split test")
    if missing:
        raise UserError.listing("Nothing was implanted:", missing)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder")
    jobs = [(scan, out, split, variants, with_source, difficulty, rv_lv, seed) for scan in scans]
    results = list(run_jobs(implant_scan, jobs, what="implanting", unit="scan", workers=workers))
    faults = [result for result in results if isinstance(result, str)]
    first: dict[str, Path] = {}
    for scan, result in zip(scans, results, strict=True):
        study = "" if isinstance(result, str) else result[0]["study"]
        if study and study in first:
            faults.append(f"{scan}: the same scan as {first[study]}")
        first[study] = scan
    if faults:
        shutil.rmtree(out, ignore_errors=True)
        raise UserError.listing("Nothing was implanted:", faults)
    records = [record for result in results for record in result]
    rows, _ = write_tables(seed, out, records)
    groups = {STUDY: [each["study"] for each in records], GROUP: [each["facts"]["source_scan"] for each in records]}
    write_table(out / FOLD_GROUPS, pd.DataFrame(groups))
    if train is not None:
        os.symlink((train / "train").resolve(), out / "train", target_is_directory=True)
        shutil.copyfile(train / "train.csv", out / "train.csv")
    say(f"{out}: {rows[f'{split} exams']} exams, {rows[f'{split} slices']} slices, "
        f"{sum(sum(record['pe_present']) for record in records)} with PE")  # fmt: skip


def implant_scan(
    scan: Path, out: Path, split: str, variants: int, with_source: bool, difficulty: str, rv_lv: str, seed: int
) -> list[dict] | str:
    """One job: all exams of one scan; their records, or one line that says why there are none."""
    try:
        source = read_source(scan)
        found = find_arteries(source.hu, source.grid)
        made = [
            implant(
                source,
                found,
                difficulty_named(difficulty),
                rv_lv,
                np.random.default_rng([seed, int(source.digest, 16), i]),
            )
            for i in range(variants)
        ]
    except UserError as fault:
        return f"{scan}: {fault}"
    if with_source:
        made.append(_untouched(made[0], source))
    return [_write(exam, source, found, out, split, seed, i) for i, exam in enumerate(made)]


def read_source(path: Path) -> Source:
    """Read a scan: a NIfTI volume, or the series in a DICOM folder or zip archive that suits PE detection.

    Raises:
        UserError: unreadable, pixels not square, slices few or unevenly spaced.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        volume = read_nifti(path)
        hu, (step, *spacing), study = volume.hu, volume.spacing_mm, ""
        z = step * np.arange(len(hu))
    else:
        series = read_series_safely(path)
        hu, z, spacing, study = series.hu, series.z_mm, series.spacing_mm, series.study_uid
        step = slice_step_mm(z)
    if len(hu) < LEAST_SLICES:
        raise UserError(f"{len(hu)} slices; expected a whole chest, at least {LEAST_SLICES}")
    if abs(spacing[0] / spacing[1] - 1) > 0.01:
        raise UserError(f"pixels of {spacing[0]:.3f} x {spacing[1]:.3f} mm; expected square ones")
    uneven = np.abs(np.diff(z) - step) > 0.1 * step
    if uneven.any():
        raise UserError(f"slices at {step:.2f} mm with {int(uneven.sum())} gaps or repeats; expected even spacing")
    y, x = ((np.arange(n) - (n - 1) / 2) * spacing[1] for n in hu.shape[1:])
    return Source(path.name, hu, Grid(x, y, z, float(step)), study)


def implant(
    source: Source, found: FoundArteries, difficulty: Difficulty, rv_lv: str, rng: np.random.Generator
) -> ImplantedExam:
    """Draw a state, place its clots in the found arteries, blend them in, and derive the labels from what shows.

    Raises:
        UserError: when no placement shows the labels.
    """
    hu, grid, arteries = source.hu, source.grid, found.arteries
    lumen = find_lumen(hu, grid, found)
    state = draw_state(arteries, rv_lv, rng)
    try:
        clots, truth = place_clots(state, arteries, grid, difficulty, rng, lumen.share)
    except RuntimeError as fault:
        raise UserError(f"the arteries that were found hold no such clots: {fault}") from fault
    mask = np.zeros(grid.shape, bool)
    box, cover = tube_coverage(grid, _pulmonary(arteries))
    mask[box] = cover * lumen.share[box] > 0.5
    visible = truth.area >= difficulty.visible_mm2
    return ImplantedExam(
        blended(hu, grid, clots, widened(arteries, clots), lumen), grid, truth.labels | {rv_lv}, visible, truth.mask,
        mask | (truth.mask > 0), truth.area, [clot.as_row(arteries) for clot in clots],
        Scanner("IMPLANTED", "AS SOURCE", 0.0, 0.0, 0.0, 0.0), grid.pixel * len(grid.x),
    )  # fmt: skip


def draw_state(arteries: Arteries, rv_lv: str, rng: np.random.Generator) -> ExamState:
    """A joint state of the contest that the found arteries can show, by its frequency, and a quartile of q."""
    sides = {LEFT: LEFT_LUNG, RIGHT: RIGHT_LUNG}
    impossible = {CENTRAL, *QA_LABELS, *({GTE_1, LT_1} - {rv_lv})}
    impossible |= {label for label, region in sides.items() if region not in arteries.region}
    states = [(on, n) for on, n in contest_states() if is_positive(on) and not on & impossible]
    share = np.array([n for _, n in states], float)
    on = states[rng.choice(len(states), p=share / share.sum())][0]
    return ExamState(on, int(rng.choice(4, p=burden_table()[on])))


def find_lumen(hu: np.ndarray, grid: Grid, found: FoundArteries) -> Lumen:
    """What of every voxel is blood: all of it within a lumen, a part at its edge and just outside."""
    box = _box_of(grid, _pulmonary(found.arteries))
    before = hu[box].astype(np.float32)
    inside = gaussian_filter(before, (0, 0.6, 0.6)) > found.lumen_hu
    blood = local_blood(before, inside, grid.part(box))
    share = np.clip((before - LUNG_HU) / (blood - LUNG_HU), 0, 1) * binary_dilation(inside, IN_PLANE)
    share[binary_erosion(inside, IN_PLANE)] = 1
    whole = np.zeros(hu.shape, np.float16)
    whole[box] = share
    return Lumen(whole, box, blood)


def blended(hu: np.ndarray, grid: Grid, clots: list[Clot], arteries: Arteries, lumen: Lumen) -> np.ndarray:
    """The volume with the clots in the lumina; the noise of every voxel stays as it was."""
    part = grid.part(lumen.box)
    cover, value = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.float32)
    for clot in clots:
        # Where clots meet, the one that fills more of a voxel; not their sum, which the truth does not know.
        box, own = tube_coverage(part, clot_tubes(clot, arteries))
        value[box] = np.where(own > cover[box], np.float32(clot.hu), value[box])
        np.maximum(cover[box], own, out=cover[box])
    moved = hu[lumen.box] + lumen.share[lumen.box] * cover * (value - lumen.blood)
    result = hu.copy()
    result[lumen.box] = np.rint(np.clip(moved, -1024, 3071)).astype(np.int16)
    return result


def local_blood(hu: np.ndarray, lumen: np.ndarray, grid: Grid) -> np.ndarray:
    """Mean of the blood around every voxel (z, y, x), HU float32; where none is near, that of all."""
    sigma = (BLOOD_MM / grid.step, BLOOD_MM / grid.pixel, BLOOD_MM / grid.pixel)
    weight = gaussian_filter(lumen.astype(np.float32), sigma, truncate=3)
    total = gaussian_filter(np.where(lumen, hu, np.float32(0)), sigma, truncate=3)
    everywhere = np.float32(np.median(hu[lumen])) if lumen.any() else np.float32(0)
    return np.where(weight > 0.01, total / np.maximum(weight, np.float32(0.01)), everywhere)


def _box_of(grid: Grid, tubes: Tubes) -> tuple[slice, slice, slice]:
    reach = 2 * float(np.maximum(tubes.r0, tubes.r1).max()) + 3 * BLOOD_MM
    ends = np.concatenate([tubes.start, tubes.end])
    return grid.box(ends.min(axis=0) - reach, ends.max(axis=0) + reach)


def _pulmonary(arteries: Arteries) -> Tubes:
    return arteries.tubes.take(arteries.region[arteries.segment] > 0)


def _untouched(exam: ImplantedExam, source: Source) -> ImplantedExam:
    """The source itself as a negative exam."""
    return replace(
        exam, hu=source.hu, on=frozenset({NEGATIVE}), pe_present=np.zeros_like(exam.pe_present), clots=[],
        clot=np.zeros_like(exam.clot), clot_area_mm2=np.zeros_like(exam.clot_area_mm2),
    )  # fmt: skip


def _write(
    exam: ImplantedExam, source: Source, found: FoundArteries, out: Path, split: str, seed: int, variant: int
) -> dict:
    named = ("implant", source.digest, split, variant)
    study, series = uid(seed, *named), uid(seed, *named, "series")
    sops = [uid(seed, *named, "image", i) for i in range(len(exam.hu))]
    with study_folder(out / split / study) as folder:
        (folder / series).mkdir()
        write_exam(
            exam, PLAIN, folder / series, study=study, series=series, sops=sops, description="PE CHEST (IMPLANTED)"
        )
    write_masks(out / "truth" / "masks" / f"{study}.npz", exam)
    record = {
        "split": split, "study": study, "series": series, "sops": sops,
        "pe_present": exam.pe_present.astype(int).tolist(), "labels": label_row(exam.on), "clots": exam.clots,
        "clot_area_mm2": np.round(exam.clot_area_mm2, 1).tolist(),
        "facts": {
            "source": source.name, "source_scan": source.study or source.digest,
            "blood_hu": round(found.blood_hu, 1), "airway_ml": round(found.airway_ml, 1),
            "fov_mm": round(exam.fov_mm, 2), "slice_step_mm": round(exam.grid.step, 4),
        },
    }  # fmt: skip
    write_json(out / "truth" / "exams" / f"{study}.json", record)
    return record
