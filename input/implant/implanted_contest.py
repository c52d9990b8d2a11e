"""Contest trees of real PE-negative CT scans with implanted synthetic clots: real anatomy, scanner and noise.

Input: PE-negative scans (DICOM folders or zip archives, or NIfTI volumes). Output: a tree in the contest's layout with
masks, and with labels derived from the visible clots. Clots are limited to the lumina of arteries that
`input.implant.real_arteries` detects, and keep the texture of the blood that they replace.

Limits: no central clots (mediastinal arteries are not detected), no dilated arteries, and the RV/LV label of the
source is an argument, because it is not measured. An implanted exam shares its anatomy with its source and with the
other variants of that source: keep them in one split, or the score is too high. `fold_groups.csv` keeps them in one
fold.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.uid import ExplicitVRLittleEndian

from input.contest import LT_1, STUDY
from input.contest_tree import FOLD_GROUPS, GROUP
from input.implant.implanted_exam import ImplantedExam, generate_implanted_exam, negative_counterpart
from input.implant.real_arteries import DetectedArteries, find_arteries
from input.implant.source_scan import SourceScan, read_source
from input.phantom.dicom_quirks import Quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.labels import label_row
from input.phantom.synthetic_contest import study_folder, write_masks, write_tables
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_json, write_table
from pipeline.jobs import run_jobs

#: Storage without quirks: implanted exams are real scans with quirks of their own.
PLAIN = Quirks(ExplicitVRLittleEndian, True, 1.0, -1024.0, None, "HFS", 1, 1, False, 1)
HEADLINE = "No clots were implanted, nothing was written:"


def write_implanted_contest(
    scans: list[Path], out: Path, *, split: str = "test", variants: int = 1, with_source: bool = False,
    difficulty: str = "contest", rv_lv: str = LT_1, seed: int = 1, train: Path | None = None, workers: int = 0,
) -> None:  # fmt: skip
    """Write a contest tree of exams with implanted clots.

    Args:
        scans: PE-negative series: DICOM folders, zip archives, .nii or .nii.gz files.
        out: an empty or new folder.
        split: "test" or "train".
        variants: implanted exams per scan, with different clots.
        with_source: also write every scan unchanged, labelled negative.
        difficulty: level of the clots.
        rv_lv: RV/LV label of the scans.
        seed: seed of the clots and the identifiers.
        train: a contest tree whose training part is linked into `out`, so that `out` is a complete contest tree.
        workers: number of processes; 0 means one per core.

    Raises:
        UserError: scans that cannot be read or used, all of them at once; `out` is then removed.
    """
    difficulty_named(difficulty)
    _check_arguments(scans, out, split, train)
    jobs = [(scan, out, split, variants, with_source, difficulty, rv_lv, seed) for scan in scans]
    results = list(run_jobs(implant_scan, jobs, desc="implanting", unit="scan", workers=workers))
    faults = [result for result in results if isinstance(result, str)]
    scan_by_study: dict[str, Path] = {}
    for scan, result in zip(scans, results, strict=True):
        if isinstance(result, str):
            continue
        study = result[0]["study"]
        if study in scan_by_study:
            faults.append(f"{scan}: the same scan as {scan_by_study[study]}")
        scan_by_study[study] = scan
    if faults:
        shutil.rmtree(out, ignore_errors=True)
        raise UserError.listing(HEADLINE, faults)
    records = [record for result in results for record in result]
    rows, _ = write_tables(seed, out, records)
    groups = {STUDY: [record["study"] for record in records], GROUP: [r["facts"]["source_scan"] for r in records]}
    write_table(out / FOLD_GROUPS, pd.DataFrame(groups))
    if train is not None:
        os.symlink((train / "train").resolve(), out / "train", target_is_directory=True)
        shutil.copyfile(train / "train.csv", out / "train.csv")
    say(f"{out}: {rows[f'{split} exams']} exams, {rows[f'{split} slices']} slices, "
        f"{sum(sum(record['pe_present']) for record in records)} with PE")  # fmt: skip


def _check_arguments(scans: list[Path], out: Path, split: str, train: Path | None) -> None:
    """Raise a UserError for missing inputs or an output folder that is not empty."""
    faults = [f"{scan}: no such file or folder" for scan in scans if not scan.exists()]
    if train is not None and split != "test":
        faults.append("--train: only with --split test")
    if train is not None and not (train / "train.csv").is_file():
        faults.append(f"{train}: expected a contest tree with train.csv")
    if faults:
        raise UserError.listing(HEADLINE, faults)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"Output folder is not empty: {out}. Choose a new folder.")


def implant_scan(
    scan: Path, out: Path, split: str, variants: int, with_source: bool, difficulty: str, rv_lv: str, seed: int
) -> list[dict] | str:
    """Write all exams of one scan; one job of `write_implanted_contest`, which describes the arguments.

    Returns:
        The records of the exams, or one line with the reason why there are none.
    """
    try:
        source = read_source(scan)
        detected = find_arteries(source.hu, source.grid)
        level = difficulty_named(difficulty)
        exams = []
        for variant in range(variants):
            rng = np.random.default_rng([seed, int(source.digest, 16), variant])
            exams.append(generate_implanted_exam(source, detected, level, rv_lv, rng))
    except UserError as error:
        return f"{scan}: {error}"
    if with_source:
        exams.append(negative_counterpart(exams[0], source))
    return [_write_exam(exam, source, detected, out, split, seed, i) for i, exam in enumerate(exams)]


def _write_exam(
    exam: ImplantedExam, source: SourceScan, detected: DetectedArteries, out: Path, split: str, seed: int, variant: int
) -> dict:
    """Write the DICOM files, the masks and, last, the record of one exam; returns the record."""
    key = ("implant", source.digest, split, variant)
    study, series = uid(seed, *key), uid(seed, *key, "series")
    sops = [uid(seed, *key, "image", i) for i in range(len(exam.hu))]
    with study_folder(out / split / study) as folder:
        (folder / series).mkdir()
        write_exam(
            exam, PLAIN, folder / series, study=study, series=series, sops=sops, description="PE CHEST (IMPLANTED)"
        )
    write_masks(out / "truth" / "masks" / f"{study}.npz", exam)
    record = {
        "split": split, "study": study, "series": series, "sops": sops,
        "pe_present": exam.pe_present.astype(int).tolist(), "labels": label_row(exam.labels), "clots": exam.clots,
        "clot_area_mm2": np.round(exam.clot_area_mm2, 1).tolist(),
        "facts": {
            "source": source.name, "source_scan": source.study or source.digest,
            "blood_hu": round(detected.blood_hu, 1), "airway_ml": round(detected.airway_ml, 1),
            "fov_mm": round(exam.fov_mm, 2), "slice_step_mm": round(exam.grid.step, 4),
        },
    }  # fmt: skip
    write_json(out / "truth" / "exams" / f"{study}.json", record)
    return record
