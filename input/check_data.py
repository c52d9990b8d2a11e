"""Check a complete contest tree before hours of work and list all its faults: tables, label rules, image files."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from input.archive import walk_with_links
from input.contest import EXAM_LABELS, SERIES, SLICE_LABEL, SOP, STUDY, SUBMISSION_COLUMNS
from input.contest_tree import ContestTree, inspect_tables, is_jpeg_tree, read_csv, split_folder, submission_ids
from input.jpeg256 import parse_jpeg_name
from input.label_rules import RULES, violations


def check_tree(root: Path) -> tuple[ContestTree, list[str]]:
    """Check a contest tree: tables, label rules, sample submission, and image files against the tables.

    Returns:
        The tree, and every fault; without faults the tree is ready for use.
    """
    tree = inspect_tables(root)
    faults = list(tree.faults)
    if "train" in tree.tables and not tree.faults:
        faults += _rule_faults(tree.tables["train"])
    if "test" in tree.tables:
        faults += _sample_submission_faults(tree)
    for split, table in tree.tables.items():
        faults += _file_faults(root, split, table)
    return tree, faults


def _rule_faults(train: pd.DataFrame) -> list[str]:
    """Count the training exams whose labels break a consistency rule."""
    exams = train.groupby(STUDY, sort=False)[[*EXAM_LABELS, SLICE_LABEL]].max()
    broken = violations(exams, exams[SLICE_LABEL])
    return [
        f"train.csv: {count} exams break a label rule ({RULES[rule]}), e.g. {broken.index[broken[rule]][0]}"
        for rule, count in broken.sum().items()
        if count
    ]


def _sample_submission_faults(tree: ContestTree) -> list[str]:
    """Compare the ids of sample_submission.csv, if there is one, with test.csv."""
    path = tree.root / "sample_submission.csv"
    if not path.is_file():
        return []
    reading = ContestTree(tree.root)
    sample = read_csv(path, SUBMISSION_COLUMNS, reading, text=("id",))
    tree.notes += reading.notes
    faults = reading.faults
    if sample is None:
        return faults
    ids, expected = pd.Index(sample["id"]), submission_ids(tree.tables["test"])
    for bad_ids, problem in (
        (ids[ids.duplicated()], "ids are duplicates"),
        (expected.difference(ids), "ids required by test.csv are missing"),
        (ids.difference(expected), "ids belong to no exam or slice of test.csv"),
    ):
        if len(bad_ids):
            faults.append(f"{path.name}: {len(bad_ids)} {problem}, e.g. {bad_ids[0]}")
    return faults


def _file_faults(root: Path, split: str, table: pd.DataFrame) -> list[str]:
    """Count the files that the table names but the tree does not have, and the reverse."""
    folder = split_folder(root, split)
    slices = (table[STUDY] + "/" + table[SERIES] + "/" + table[SOP]).dropna()
    # Both map a name without rank to the name shown in messages.
    if is_jpeg_tree(root):
        actual = {_without_rank(name): name for name in _files_below(folder)}
        expected = {f"{name}.jpg": f"{name}.jpg (preceded by its rank)" for name in slices}
    else:
        actual = {name: name for name in _files_below(folder)}
        expected = {f"{name}.dcm": f"{name}.dcm" for name in slices}
    faults = []
    for names, shown, problem in (
        (expected.keys() - actual.keys(), expected, f"files of {split}.csv are missing"),
        (actual.keys() - expected.keys(), actual, f"files are not in {split}.csv"),
    ):
        if names:
            exams = len({name.split("/")[0] for name in names})
            example = f"{folder.name}/{shown[min(names)]}"
            faults.append(f"{folder.name}/: {len(names)} {problem} ({exams} exams), e.g. {example}")
    return faults


def _without_rank(name: str) -> str:
    """Return `<Study>/<Series>/<SOP>.jpg` for a file of the derivative; other names unchanged."""
    folder, _, file_name = name.rpartition("/")
    rank_and_sop = parse_jpeg_name(file_name)
    return f"{folder}/{rank_and_sop[1]}.jpg" if rank_and_sop else name


def _files_below(folder: Path) -> Iterator[str]:
    for directory, names in walk_with_links(folder):
        prefix = directory.relative_to(folder).as_posix()
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in names)
