"""Read the CSVs of a contest tree and collect all their faults.

    train|test/<Study>/<Series>/<SOP>.dcm
    train.csv
    test.csv
    sample_submission.csv   (optional)
    fold_groups.csv         (optional) exams that must share a fold

The JPEG-256 derivative has, instead of the DICOM files, train-jpegs|test-jpegs/<Study>/<Series>/<iiii>_<SOP>.jpg.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, ID_COLUMNS, QA_LABELS, SERIES, SLICE_LABEL, SOP, STUDY, TRAIN_COLUMNS
from pipeline.errors import UserError

SPLITS = ("train", "test")
HEADERS = {"train": TRAIN_COLUMNS, "test": ID_COLUMNS}
#: Optional file with the columns StudyInstanceUID,group. Exams of one patient, or derived from one scan, share a
#: group and therefore a fold.
FOLD_GROUPS, GROUP = "fold_groups.csv", "group"
LABELS = (*EXAM_LABELS, *QA_LABELS)
#: UIDs become parts of paths, so only letters, digits and inner dots are accepted.
UID_PATTERN = r"[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*"


@dataclass
class ContestTree:
    """The tables of a contest tree and their faults.

    Attributes:
        root: the tree's folder.
        tables: "train" and "test", as far as they could be read; UIDs are text, labels float64.
        groups: StudyInstanceUID -> group, of the exams in `FOLD_GROUPS`.
        faults: what must be fixed before the tree can be used.
        notes: remarks that need no action.
    """

    root: Path
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_jpeg_tree(root: Path) -> bool:
    """Whether a tree is the JPEG-256 derivative. With DICOM files next to it, those are used and this is False."""
    return not any((root / split).is_dir() for split in SPLITS) and any(
        (root / f"{split}-jpegs").is_dir() for split in SPLITS
    )


def split_folder(root: Path, split: str) -> Path:
    """Return the folder with a split's image files."""
    return root / (f"{split}-jpegs" if is_jpeg_tree(root) else split)


def read_tree(root: Path) -> ContestTree:
    """Read and check train.csv and test.csv; image files are not accessed.

    Raises:
        UserError: the tables have faults; all are listed.
    """
    tree = inspect_tables(root)
    if tree.faults:
        raise UserError.listing(
            f"{root}: not a usable contest tree:", tree.faults, f"Check it: ./run.sh input check-data {root}"
        )
    return tree


def read_test_table(root: Path) -> pd.DataFrame:
    """Read and check test.csv alone, for trees that need no training exams (prediction, submission checks).

    Returns:
        The three UIDs of every row, as text.

    Raises:
        UserError: the table has faults; all are listed.
    """
    tree = ContestTree(root)
    table = read_csv(root / "test.csv", HEADERS["test"], tree)
    faults = [*tree.faults, *(_uid_faults("test.csv", table) if table is not None else ())]
    if faults or table is None:
        expected = f"Expected the columns {', '.join(HEADERS['test'])}, one row per slice."
        raise UserError.listing(f"{root}: test.csv cannot be used:", faults, expected)
    return table


def inspect_tables(root: Path) -> ContestTree:
    """Read and check the CSVs without raising; the faults are in the result."""
    tree = ContestTree(root)
    if not root.is_dir():
        tree.faults.append(f"{root} is not a folder" + ("; unpack the archive first" if root.is_file() else ""))
        return tree
    tree.faults += _nested_tree_faults(root)
    for split in SPLITS:
        path = root / f"{split}.csv"
        table = read_csv(path, HEADERS[split], tree)
        if table is None:
            continue
        uid_faults = list(_uid_faults(path.name, table))
        tree.faults += uid_faults
        if split == "train" and not uid_faults:
            tree.faults += _label_faults(path.name, table)
        tree.tables[split] = table
    tree.groups = read_groups(tree)
    if not is_jpeg_tree(root) and any((root / f"{split}-jpegs").is_dir() for split in SPLITS):
        tree.notes.append("the JPEG files are not used because the tree also has DICOM files")
    if len(tree.tables) == 2:
        for key, plural in ((STUDY, "exams"), (SOP, "slices")):
            shared = np.intersect1d(tree.tables["train"][key].dropna(), tree.tables["test"][key].dropna())
            if len(shared):
                tree.faults.append(f"{len(shared)} {plural} are in both train.csv and test.csv, e.g. {shared[0]}")
    return tree


def submission_ids(slices: pd.DataFrame) -> pd.Index:
    """List the ids of a submission in the contest's order: nine blocks of `<study>_<label>`, then the slices.

    Args:
        slices: StudyInstanceUID and SOPInstanceUID in the order of test.csv.
    """
    studies = slices[STUDY].unique()
    return pd.Index([f"{study}_{label}" for label in EXAM_LABELS for study in studies] + slices[SOP].tolist())


def read_csv(
    path: Path, header: tuple[str, ...], tree: ContestTree, text: tuple[str, ...] = ID_COLUMNS
) -> pd.DataFrame | None:
    """Read the named columns of a CSV; faults and notes are added to the tree.

    Args:
        path: the file.
        header: columns that it must have; others are ignored with a note.
        tree: receives the faults and notes.
        text: columns kept as text. UIDs must be: some consist of digits only, some look like 1e5. Other columns
            become float64, NaN where they are not numbers.

    Returns:
        The columns in the order of `header`; None when the file cannot be read.
    """
    if not path.is_file():
        tree.faults.append(f"{path.name} is missing")
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file), [])
        if problems := _header_problems(columns, header):
            tree.faults.append(f"{path.name}: {' and '.join(problems)}; got {', '.join(columns) or 'nothing'}")
            return None
        if extra := [column for column in columns if column not in header]:
            tree.notes.append(f"{path.name}: ignoring the columns {', '.join(extra)}, which are not the contest's")
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), encoding="utf-8-sig", usecols=list(header))
    except (ValueError, OSError) as fault:  # pandas' ParserError and UnicodeDecodeError are ValueErrors
        tree.faults.append(f"{path.name}: unreadable: {' '.join(str(fault).split())}")
        return None
    if table.empty:
        tree.faults.append(f"{path.name} has no rows")
    for column in table.columns.difference(list(text)):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype("float64")
    return table[list(header)]


def _header_problems(columns: list[str], header: tuple[str, ...]) -> list[str]:
    missing = [column for column in header if column not in columns]
    problems = [f"missing columns {', '.join(missing)}"] if missing else []
    if len(set(columns)) < len(columns):
        problems.append("duplicate columns")
    return problems


def read_groups(tree: ContestTree) -> dict[str, str]:
    """Read `FOLD_GROUPS` of a tree where it exists; faults are added to the tree."""
    path = tree.root / FOLD_GROUPS
    table = read_csv(path, (STUDY, GROUP), tree, text=(STUDY, GROUP)) if path.is_file() else None
    if table is None:
        return {}
    for is_bad, problem in (
        (table.isna().any(axis=1), "empty cells"),
        (table[STUDY].duplicated(), f"a duplicate {STUDY}"),
    ):
        if is_bad.any():
            line = int(is_bad.argmax()) + 2
            tree.faults.append(f"{path.name}: {int(is_bad.sum())} rows with {problem}, first in line {line}")
    return dict(zip(table[STUDY], table[GROUP], strict=True))


def _nested_tree_faults(root: Path) -> list[str]:
    """Point to a sub-folder that has the tables, as after unpacking an archive with a top-level folder."""
    if (root / "train.csv").is_file():
        return []
    return [f"train.csv is in {path.parent}; use that folder" for path in sorted(root.glob("*/train.csv"))[:1]]


def _uid_faults(name: str, table: pd.DataFrame) -> Iterator[str]:
    for column in ID_COLUMNS:
        # Exams and series repeat on every row, so only their distinct values are matched.
        codes, values = pd.factorize(table[column], use_na_sentinel=False)
        invalid = np.array([not isinstance(v, str) or re.fullmatch(UID_PATTERN, v) is None for v in values], dtype=bool)
        rows = np.flatnonzero(invalid[codes])
        if len(rows):
            yield f"{name}: {len(rows)} rows with an empty or invalid {column}, first in line {rows[0] + 2}"
    duplicates = np.flatnonzero(table[SOP].duplicated())
    if len(duplicates):
        yield f"{name}: {len(duplicates)} duplicate {SOP}, first in line {duplicates[0] + 2}"
    series = table.drop_duplicates([STUDY, SERIES])
    studies = series[STUDY][series[STUDY].duplicated()]
    if len(studies):
        yield f"{name}: {studies.nunique()} exams have slices of several series, e.g. {studies.iloc[0]}"


def _label_faults(name: str, table: pd.DataFrame) -> Iterator[str]:
    codes, _ = pd.factorize(table[STUDY])
    _, first = np.unique(codes, return_index=True)
    for column in (SLICE_LABEL, *LABELS):
        values = table[column].to_numpy()
        rows = np.flatnonzero((values != 0) & (values != 1))
        if len(rows):
            yield f"{name}: {len(rows)} values of {column} are not 0 or 1, first in line {rows[0] + 2}"
            continue
        if column == SLICE_LABEL:
            continue
        rows = np.flatnonzero(values != values[first[codes]])
        if len(rows):
            exams = table[STUDY].iloc[rows].nunique()
            yield f"{name}: {column} differs within {exams} exams, first in line {rows[0] + 2}"
