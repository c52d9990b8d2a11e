"""Build the artifact input/prepared: exam and slice tables with slice order, geometry, flags and folds.

    exams.parquet     one row per exam: ids, split, fold, slice counts, geometry, flags, labels, q
    slices.parquet    one row per row of the contest's CSVs: ids, split, position, z, label, path, quarantine
    report.json       counts of transfer syntaxes, flags and quarantine reasons

Only headers are read, or file names and first bytes of the JPEG-256 derivative. Pixels are decoded once, by the
features stage.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.uid import UID

from input.contest import EXAM_LABELS, ID_COLUMNS, QA_LABELS, SERIES, SLICE_LABEL, SOP, STUDY
from input.contest_tree import FOLD_GROUPS, SPLITS, ContestTree, is_jpeg_tree, read_tree, split_folder
from input.exam_headers import ExamGeometry, read_exam_headers, read_exam_jpegs
from input.folds import assign_folds
from pipeline import paths
from pipeline.artifact import MANIFEST, Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.files import read_table, sha256, write_json, write_table
from pipeline.jobs import run_jobs
from pipeline.settings import Settings

VERSION = 1
INPUTS = ("train.csv", "test.csv", FOLD_GROUPS)
EXAM_COLUMNS = (
    STUDY, SERIES, "split", "fold", "n_slices", "n_readable", "spacing_y_mm", "spacing_x_mm", "slice_step_mm", "flags",
    *EXAM_LABELS, *QA_LABELS, "q",
)  # fmt: skip
SLICE_COLUMNS = (*ID_COLUMNS, "split", "position", "z_mm", SLICE_LABEL, "path", "quarantine")


def prepare(settings: Settings, *, force: bool = False) -> None:
    """Build the exam and slice tables of the contest tree in the settings, unless they are up to date.

    Unreadable files are quarantined with the reason and keep their rows.

    Args:
        settings: the experiment.
        force: rebuild even what is up to date.

    Raises:
        UserError: the tree's CSVs are missing or faulty.
    """
    artifact = prepared_artifact(settings)
    if artifact.is_current(force=force):
        return
    verify_generated(settings)
    tree = read_tree(settings.data_root)
    for note in tree.notes:
        say(f"input/prepared: {note}")
    with artifact.building(fresh=force) as directory:
        exams, slices, report = build_tables(tree, settings.input.folds, settings.input.fold_seed)
        write_table(directory / "exams.parquet", exams)
        write_table(directory / "slices.parquet", slices)
        write_json(directory / "report.json", report)
        artifact.finish(
            rows={"exams": len(exams), "slices": len(slices)}, metrics={"quarantined": report["quarantined"]}
        )
    _say_report(report)


def prepared_artifact(settings: Settings) -> Artifact:
    """Describe the artifact that `prepare` builds.

    Its inputs are the contents of the CSVs, one image file per split, and the identity of a synthetic tree. Changes of
    other image files do not make it stale: `./run.sh features check-store` finds them, `--force` reads them again.
    """
    root = settings.data_root
    inputs = {name: sha256(root / name) for name in INPUTS if (root / name).is_file()}
    for split in SPLITS:
        if image := _first_file(split_folder(root, split)):
            inputs[f"an image of {split}"] = sha256(image)
    if settings.is_phantom and (root / MANIFEST).is_file():
        inputs["raw"] = read_manifest(root)["identity"]
    if is_jpeg_tree(root):
        inputs["layout"] = "jpeg256"  # a tree of DICOM files can have the same CSVs
    fold_settings = {"folds": settings.input.folds, "fold_seed": settings.input.fold_seed}
    return Artifact(
        paths.prepared(), "input/prepared", version=VERSION, settings=fold_settings, inputs=inputs, shared=True
    )


def verify_generated(settings: Settings, *prefixes: str) -> None:
    """Compare files of the synthetic contest with its manifest before they are read; other trees have none.

    Without this, a damaged CSV or image would count as another contest, or as an exam of poor quality.

    Args:
        settings: the experiment.
        *prefixes: beginnings of the files' names, relative to the tree; none: every file.

    Raises:
        UserError: lists every file that is missing or changed.
    """
    if settings.is_phantom and (settings.data_root / MANIFEST).is_file():
        recorded = read_manifest(settings.data_root)["files"]
        names = [name for name in recorded if name.startswith(prefixes or "")]
        verify(settings.data_root, names, recorded=recorded)


def connect_tables(settings: Settings) -> None:
    """Link finished tables of these settings, and their synthetic contest, into an experiment that has none yet."""
    if paths.prepared().exists():
        return
    if settings.is_phantom:
        from input.phantom.synthetic_contest import contest_artifact

        contest_artifact(settings.phantom, settings.data_root, shared=True).connect_if_finished()
    if settings.data_root.is_dir():
        prepared_artifact(settings).connect_if_finished()


def _first_file(folder: Path) -> Path | None:
    """Find the first file of the first exam, by name; None if the folder is missing or empty."""
    while folder.is_dir():
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if not names:
            return None
        folder /= names[0]
    return folder if folder.is_file() else None


def load_exams() -> pd.DataFrame:
    """Load the exam table of input/prepared, checked against its manifest."""
    return _load("exams.parquet")


def load_slices() -> pd.DataFrame:
    """Load the slice table of input/prepared, checked against its manifest."""
    return _load("slices.parquet")


def build_tables(tree: ContestTree, folds: int, fold_seed: int) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Read every header of a tree, one job per exam, and assemble the tables.

    Args:
        tree: a contest tree without faults.
        folds: number of folds.
        fold_seed: of the assignment to folds.

    Returns:
        The exam table (`EXAM_COLUMNS`), the slice table (`SLICE_COLUMNS`) and the report.
    """
    slices = _slice_rows(tree)
    groups = slices.groupby(["split", STUDY], sort=False).indices
    jobs = []
    for (split, study), rows in groups.items():
        series = slices[SERIES].iat[rows[0]]
        jobs.append((split_folder(tree.root, split) / study / series, study, series, slices[SOP].iloc[rows].tolist()))
    if is_jpeg_tree(tree.root):
        jpeg_jobs = [(folder, sops) for folder, _, _, sops in jobs]
        geometries = list(run_jobs(read_exam_jpegs, jpeg_jobs, desc="file names", reads=tree.root))
    else:
        geometries = list(run_jobs(read_exam_headers, jobs, desc="headers", reads=tree.root))
    columns = {
        name: np.empty(len(slices), dtype)
        for name, dtype in (("position", int), ("z_mm", float), ("quarantine", object), ("names", object))
    }
    for rows, geometry in zip(groups.values(), geometries, strict=True):
        for name, values in columns.items():
            values[rows] = getattr(geometry, name)
    names = columns.pop("names")
    slices = slices.assign(**columns, path=slices["folder"] + names)
    exams = _exam_rows(tree, groups, geometries, slices)
    fold_of = assign_folds(exams[exams["split"] == "train"], folds, fold_seed, tree.groups)
    exams["fold"] = exams[STUDY].map(fold_of).fillna(-1).astype(int)
    return exams[list(EXAM_COLUMNS)], slices[list(SLICE_COLUMNS)], _report(exams, slices, geometries)


def _slice_rows(tree: ContestTree) -> pd.DataFrame:
    tables = [tree.tables[split].reindex(columns=[*ID_COLUMNS, SLICE_LABEL]).assign(split=split) for split in SPLITS]
    slices = pd.concat(tables, ignore_index=True)
    slices[SLICE_LABEL] = slices[SLICE_LABEL].astype("float64")
    folders = slices["split"].map({split: split_folder(tree.root, split).name for split in SPLITS})
    slices["folder"] = folders + "/" + slices[STUDY] + "/" + slices[SERIES] + "/"
    return slices


def _exam_rows(
    tree: ContestTree, groups: dict[tuple[str, str], np.ndarray], geometries: list[ExamGeometry], slices: pd.DataFrame
) -> pd.DataFrame:
    exams = pd.DataFrame(
        {
            STUDY: study,
            SERIES: slices[SERIES].iat[rows[0]],
            "split": split,
            "n_slices": len(rows),
            "n_readable": sum(not reason for reason in geometry.quarantine),
            "spacing_y_mm": geometry.spacing_mm[0],
            "spacing_x_mm": geometry.spacing_mm[1],
            "slice_step_mm": geometry.slice_step_mm,
            "flags": ";".join(geometry.flags),
        }
        for ((split, study), rows), geometry in zip(groups.items(), geometries, strict=True)
    )
    train = tree.tables["train"]
    labels = train.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS, *QA_LABELS]]
    q = train.groupby(STUDY)[SLICE_LABEL].mean().rename("q").reset_index()
    return exams.merge(labels, on=STUDY, how="left", validate="1:1").merge(q, on=STUDY, how="left", validate="1:1")


def _report(exams: pd.DataFrame, slices: pd.DataFrame, geometries: list[ExamGeometry]) -> dict:
    syntaxes = sum((geometry.syntaxes for geometry in geometries), Counter())
    quarantined = slices["quarantine"][slices["quarantine"] != ""]
    return {
        "exams": exams["split"].value_counts().to_dict(),
        "slices": slices["split"].value_counts().to_dict(),
        "transfer_syntaxes": {UID(syntax).name: count for syntax, count in syntaxes.most_common()},
        "flags": dict(Counter(flag for flags in exams["flags"] for flag in flags.split(";") if flag).most_common()),
        "quarantined": len(quarantined),
        "quarantine_reasons": count_reasons(quarantined),
        "unreadable_exams": exams.loc[exams["n_readable"] == 0, STUDY].tolist(),
        "folds": exams.loc[exams["split"] == "train", "fold"].value_counts().sort_index().tolist(),
    }


def count_reasons(quarantine: pd.Series) -> dict[str, int]:
    """Count the reasons in a quarantine column, most frequent first; numbers, which differ per file, become #."""
    return quarantine[quarantine != ""].map(_without_numbers).value_counts().to_dict()


def _without_numbers(reason: str) -> str:
    return re.sub(r"-?\b\d+(\.\d+)?\b", "#", reason)


def _say_report(report: dict) -> None:
    exams, slices = report["exams"], report["slices"]
    syntaxes = ", ".join(f"{name} {count}" for name, count in report["transfer_syntaxes"].items())
    say(
        f"input/prepared: {exams.get('train', 0)} training and {exams.get('test', 0)} test exams, "
        f"{sum(slices.values())} slices ({syntaxes or 'none readable'}); folds of {report['folds']} exams"
    )
    if report["quarantined"]:
        reasons = "; ".join(f"{count} {reason}" for reason, count in list(report["quarantine_reasons"].items())[:5])
        say(f"input/prepared: {report['quarantined']} slices quarantined, their rows are kept: {reasons}")


def _load(name: str) -> pd.DataFrame:
    verify(paths.prepared(), [name])
    return read_table(paths.prepared() / name)
