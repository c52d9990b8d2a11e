"""The pre-flight check of a contest tree: all its faults at once, before hours of work.

train|test/<Study>/<Series>/<SOP>.dcm    train.csv    test.csv    sample_submission.csv (optional)

                                         fold_groups.csv (optional): exams that must share a fold

or, instead of the DICOM files, the JPEG-256 derivative: train-jpegs|test-jpegs/<Study>/<Series>/<iiii>_<SOP>.jpg
"""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, ID_COLUMNS, QA_LABELS, SERIES, SLICE_LABEL, SOP, STUDY, SUBMISSION_COLUMNS
from input.contest import TRAIN_COLUMNS as TRAIN_HEADER
from input.jpeg256 import split_name
from input.rules import RULES, violations
from pipeline.errors import UserError

SPLITS = ("train", "test")
HEADERS = {"train": TRAIN_HEADER, "test": ID_COLUMNS}
#: Optional: StudyInstanceUID,group. Exams of one patient, or made from one scan, share a group and therefore a fold.
FOLD_GROUPS, GROUP = "fold_groups.csv", "group"
LABELS = (*EXAM_LABELS, *QA_LABELS)
#: A UID becomes a part of a path, so nothing but letters, digits and inner dots is taken.
UID_PATTERN = r"[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*"


@dataclass
class ContestTree:
    """A contest tree's tables and what is wrong with them.

    `tables` holds train and test (UIDs as text; labels as float64) as far as they could be read;
    `faults` must be mended before anything is computed; `notes` are only worth knowing. `groups`: StudyInstanceUID
    -> what its fold is dealt by, of the exams in FOLD_GROUPS.
    """

    root: Path
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_jpeg_tree(root: Path) -> bool:
    """Whether a tree holds the JPEG-256 derivative; DICOM files beside it are preferred."""
    return not any((root / split).is_dir() for split in SPLITS) and any(
        (root / f"{split}-jpegs").is_dir() for split in SPLITS
    )


def split_folder(root: Path, split: str) -> Path:
    """The folder with a split's image files."""
    return root / (f"{split}-jpegs" if is_jpeg_tree(root) else split)


def read_tree(root: Path) -> ContestTree:
    """Read train.csv and test.csv and check them; no image file is touched.

    Raises:
        UserError: every fault of the tables, at once.
    """
    tree = inspect_tables(root)
    if tree.faults:
        raise UserError.listing(
            f"{root}: not a usable contest tree:", tree.faults, f"Check it: python -m input check {root}"
        )
    return tree


def read_test_table(root: Path) -> pd.DataFrame:
    """The three UIDs of test.csv, checked; a tree that is only predicted, or checked against, needs no training exams.

    Raises:
        UserError: every fault of the table, at once.
    """
    tree = ContestTree(root)
    table = _read_csv(root / "test.csv", HEADERS["test"], tree)
    faults = [*tree.faults, *(_uid_faults("test.csv", table) if table is not None else ())]
    if faults or table is None:
        expected = f"A contest tree holds a test.csv with the columns {', '.join(HEADERS['test'])}, a row a slice"
        raise UserError.listing(f"{root}: its test.csv cannot be used:", faults, expected)
    return table


def check_tree(root: Path) -> tuple[ContestTree, list[str]]:
    """Check a whole contest tree: tables, label rules, sample submission, and files against the tables.

    Returns:
        The tree, and every fault found; an empty list means ready.
    """
    tree = inspect_tables(root)
    faults = list(tree.faults)
    if "train" in tree.tables and not tree.faults:
        faults += rule_faults(tree.tables["train"])
    if "test" in tree.tables:
        faults += sample_submission_faults(tree)
    for split, table in tree.tables.items():
        faults += file_faults(root, split, table)
    return tree, faults


def inspect_tables(root: Path) -> ContestTree:
    """Read and check the two CSVs; the faults are in the result."""
    tree = ContestTree(root)
    if not root.is_dir():
        tree.faults.append(f"{root} is not a folder" + ("; unpack the archive first" if root.is_file() else ""))
        return tree
    tree.faults += _deeper_tree(root)
    for split in SPLITS:
        path = root / f"{split}.csv"
        table = _read_csv(path, HEADERS[split], tree)
        if table is None:
            continue
        before = len(tree.faults)
        tree.faults += _uid_faults(path.name, table)
        if split == "train" and len(tree.faults) == before:
            tree.faults += _label_faults(path.name, table)
        tree.tables[split] = table
    tree.groups = _read_groups(tree)
    if not is_jpeg_tree(root) and any((root / f"{split}-jpegs").is_dir() for split in SPLITS):
        tree.notes.append("the JPEG files are not read: there are DICOM files beside them")
    if len(tree.tables) == 2:
        for key, what in ((STUDY, "exams"), (SOP, "slices")):
            both = np.intersect1d(tree.tables["train"][key].dropna(), tree.tables["test"][key].dropna())
            if len(both):
                tree.faults.append(f"{len(both)} {what} are in both train.csv and test.csv, e.g. {both[0]}")
    return tree


def _read_groups(tree: ContestTree) -> dict[str, str]:
    """FOLD_GROUPS of a tree, where it is there; faults are told to the tree."""
    path = tree.root / FOLD_GROUPS
    table = _read_csv(path, (STUDY, GROUP), tree, text=(STUDY, GROUP)) if path.is_file() else None
    if table is None:
        return {}
    for rows, what in ((table.isna().any(axis=1), "empty cells"), (table[STUDY].duplicated(), f"a repeated {STUDY}")):
        if rows.any():
            tree.faults.append(f"{path.name}: {int(rows.sum())} rows with {what}, first line {int(rows.argmax()) + 2}")
    return dict(zip(table[STUDY], table[GROUP], strict=True))


def _deeper_tree(root: Path) -> list[str]:
    """A hint where the tables lie one folder further down, as in an archive that was unpacked as it came."""
    if (root / "train.csv").is_file():
        return []
    return [f"train.csv lies in {path.parent}: give that folder" for path in sorted(root.glob("*/train.csv"))[:1]]


def submission_ids(slices: pd.DataFrame) -> pd.Index:
    """The ids of a submission in the contest's order: nine blocks of `<study>_<label>`, then the slices.

    Args:
        slices: StudyInstanceUID and SOPInstanceUID in the order of test.csv.
    """
    studies = slices[STUDY].unique()
    return pd.Index([f"{study}_{label}" for label in EXAM_LABELS for study in studies] + slices[SOP].tolist())


def rule_faults(train: pd.DataFrame) -> list[str]:
    """Exams of the training table whose labels break a consistency rule."""
    exams = train.groupby(STUDY, sort=False)[[*EXAM_LABELS, SLICE_LABEL]].max()
    broken = violations(exams, exams[SLICE_LABEL])
    return [
        f"train.csv: {count} exams break a label rule ({RULES[rule]}), e.g. {broken.index[broken[rule]][0]}"
        for rule, count in broken.sum().items()
        if count
    ]


def sample_submission_faults(tree: ContestTree) -> list[str]:
    """Compare the ids of sample_submission.csv, when there is one, with test.csv."""
    path, test = tree.root / "sample_submission.csv", tree.tables["test"]
    if not path.is_file():
        return []
    read = ContestTree(tree.root)
    sample = _read_csv(path, SUBMISSION_COLUMNS, read, text=("id",))
    tree.notes += read.notes
    faults = read.faults
    if sample is None:
        return faults
    found, expected = pd.Index(sample["id"]), submission_ids(test)
    for ids, problem in (
        (found[found.duplicated()], "ids are repeated"),
        (expected.difference(found), "ids that test.csv asks for are missing"),
        (found.difference(expected), "ids belong to no exam or slice of test.csv"),
    ):
        if len(ids):
            faults.append(f"{path.name}: {len(ids)} {problem}, e.g. {ids[0]}")
    return faults


def file_faults(root: Path, split: str, table: pd.DataFrame) -> list[str]:
    """Files that the table names and the tree lacks, and the other way round."""
    folder = split_folder(root, split)
    expected = (table[STUDY] + "/" + table[SERIES] + "/" + table[SOP]).dropna()
    if is_jpeg_tree(root):
        found = {_without_rank(name): name for name in _files_below(folder)}
        wanted = {f"{name}.jpg": f"{name}.jpg (with its rank before it)" for name in expected}
    else:
        found = {name: name for name in _files_below(folder)}
        wanted = {f"{name}.dcm": f"{name}.dcm" for name in expected}
    faults = []
    for names, shown, problem in (
        (wanted.keys() - found.keys(), wanted, f"files of {split}.csv are missing"),
        (found.keys() - wanted.keys(), found, f"files are in no row of {split}.csv"),
    ):
        if names:
            exams = len({name.split("/")[0] for name in names})
            example = f"{folder.name}/{shown[min(names)]}"
            faults.append(f"{folder.name}/: {len(names)} {problem} ({exams} exams), e.g. {example}")
    return faults


def _without_rank(name: str) -> str:
    """`<Study>/<Series>/<SOP>.jpg` of a file of the derivative; another file's name as it is."""
    folder, _, last = name.rpartition("/")
    named = split_name(last)
    return f"{folder}/{named[1]}.jpg" if named else name


def _files_below(folder: Path) -> Iterator[str]:
    for directory, _, names in os.walk(folder):
        prefix = Path(directory).relative_to(folder).as_posix()
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in names)


def _read_csv(
    path: Path, header: tuple[str, ...], tree: ContestTree, text: tuple[str, ...] = ID_COLUMNS
) -> pd.DataFrame | None:
    """Read these columns, telling the tree of faults; UIDs stay text (some are all digits, some look like 1e5)."""
    if not path.is_file():
        tree.faults.append(f"{path.name} is missing")
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            found = next(csv.reader(file), [])
        problems = (
            [f"lacks the columns {', '.join(lacking)}"] if (lacking := [c for c in header if c not in found]) else []
        )
        if len(set(found)) < len(found):
            problems.append("repeats a column")
        if problems:
            there = ", ".join(found) or "nothing"
            tree.faults.append(f"{path.name}: its header {' and '.join(problems)}; found {there}")
            return None
        if extra := [c for c in found if c not in header]:
            tree.notes.append(f"{path.name}: the columns {', '.join(extra)} are not the contest's and are not used")
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), encoding="utf-8-sig", usecols=list(header))
    except (ValueError, OSError) as fault:  # pandas' ParserError and UnicodeDecodeError are ValueErrors
        tree.faults.append(f"{path.name}: unreadable: {' '.join(str(fault).split())}")
        return None
    if table.empty:
        tree.faults.append(f"{path.name} has no rows")
    for column in table.columns.difference(list(text)):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype("float64")
    return table[list(header)]


def _uid_faults(name: str, table: pd.DataFrame) -> Iterator[str]:
    for column in ID_COLUMNS:
        # Exams and series repeat on every row, so only their distinct values are matched.
        codes, values = pd.factorize(table[column], use_na_sentinel=False)
        odd = np.array([not isinstance(v, str) or re.fullmatch(UID_PATTERN, v) is None for v in values], dtype=bool)
        rows = np.flatnonzero(odd[codes]) if len(codes) else []
        if len(rows):
            yield f"{name}: {len(rows)} rows with an empty or impossible {column}, first line {rows[0] + 2}"
    repeated = np.flatnonzero(table[SOP].duplicated())
    if len(repeated):
        yield f"{name}: {len(repeated)} repeated {SOP}, first line {repeated[0] + 2}"
    series = table.drop_duplicates([STUDY, SERIES])
    several = series[STUDY][series[STUDY].duplicated()]
    if len(several):
        yield f"{name}: {several.nunique()} exams have slices of several series, e.g. {several.iloc[0]}"


def _label_faults(name: str, table: pd.DataFrame) -> Iterator[str]:
    codes, _ = pd.factorize(table[STUDY])
    _, first = np.unique(codes, return_index=True)
    for column in (SLICE_LABEL, *LABELS):
        values = table[column].to_numpy()
        rows = np.flatnonzero((values != 0) & (values != 1))
        if len(rows):
            yield f"{name}: {len(rows)} values of {column} are not 0 or 1, first line {rows[0] + 2}"
            continue
        rows = np.flatnonzero(values != values[first[codes]]) if column != SLICE_LABEL else []
        if len(rows):
            exams = table[STUDY].iloc[rows].nunique()
            yield f"{name}: {column} differs within {exams} exams, first line {rows[0] + 2}"
