"""Validation of a submission file: format, ids, values and label rules; all faults at once with an example id."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, STUDY, SUBMISSION_COLUMNS
from input.label_rules import RULES, violations
from pipeline.errors import UserError
from submissions.kaggle_csv import Layout, read_text_table, to_tables

_NUMBER = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
_EMPTY = {"", "nan", "na", "n/a", "null", "none", "<na>"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of fault of a file: how often it occurs, and the first place."""

    name: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.name}: {self.count}, e.g. {self.example}" if self.count > 1 else f"{self.name}: {self.example}"


def check_file(path: Path, layout: Layout) -> list[Fault]:
    """Every fault of a submission file; an empty list means that it is valid and obeys the label rules.

    The rules are checked on exams whose rows are complete and valid. The contest accepts any order of rows.

    Args:
        path: the CSV.
        layout: the expected rows.
    """
    try:
        rows, header = read_text_table(path)
    except UserError as fault:
        first = path.read_bytes()[:200].decode("utf-8", "replace").split("\n")[0].strip() if path.is_file() else ""
        return [*_header_faults(first), Fault("unreadable file", 1, str(fault))]
    faults = _header_faults(",".join(header))
    if len(header) != len(SUBMISSION_COLUMNS):
        return faults
    ids, texts = pd.Index(rows.iloc[:, 0]), rows.iloc[:, 1]
    faults += _id_faults(ids, layout.ids)
    values, value_faults = _parse(ids, texts)
    faults += value_faults
    usable = values[~values.index.duplicated(keep=False) & values.notna().to_numpy()]
    return faults + _rule_faults(usable, layout)


def _header_faults(header: str) -> list[Fault]:
    expected = ",".join(SUBMISSION_COLUMNS)
    if header in ("", expected):
        return []
    return [Fault("wrong header", 1, f"expected {expected!r}, got {header!r}")]


def _id_faults(ids: pd.Index, expected: pd.Index) -> list[Fault]:
    ids_by_fault = {
        "missing id": expected[~expected.isin(ids)],
        "unknown id": ids[~ids.isin(expected)],
        "duplicate id": ids[ids.duplicated()].unique(),
    }
    return [Fault(name, len(affected), str(affected[0])) for name, affected in ids_by_fault.items() if len(affected)]


def _parse(ids: pd.Index, texts: pd.Series) -> tuple[pd.Series, list[Fault]]:
    """Probabilities by id (NaN where invalid), and the faults of the invalid ones."""
    lowered = texts.str.strip().str.lower()
    empty = lowered.isin(_EMPTY).to_numpy(bool)
    infinite = lowered.isin(["inf", "-inf", "+inf", "infinity", "-infinity"]).to_numpy(bool)
    numeric = texts.str.fullmatch(_NUMBER).to_numpy(bool)
    values = np.full(len(texts), np.nan)
    values[numeric] = texts[numeric].astype(float)
    outside = infinite | (numeric & ~((values >= 0) & (values <= 1)))
    rows_by_fault = {
        "NaN or empty label": empty,
        "label is not a number": ~(numeric | empty | infinite),
        "probability outside [0, 1]": outside,
    }
    faults = []
    for name, rows in rows_by_fault.items():
        if rows.any():
            first = int(rows.argmax())
            faults.append(Fault(name, int(rows.sum()), f"{ids[first]}: {texts.iloc[first]!r}"))
    values[outside] = np.nan
    return pd.Series(values, index=ids), faults


def _rule_faults(values: pd.Series, layout: Layout) -> list[Fault]:
    exams, slices = to_tables(values, layout.slices)
    missing_labels = exams.loc[exams[list(EXAM_LABELS)].isna().any(axis=1), STUDY]
    incomplete = exams[STUDY].isin([*missing_labels, *slices.loc[slices["label"].isna(), STUDY]])
    exams = exams[~incomplete]
    violated = violations(exams, slices.groupby(STUDY)["label"].max().reindex(exams[STUDY]).to_numpy())
    faults = []
    for rule, requirement in RULES.items():
        studies = exams.loc[violated[rule].to_numpy(bool), STUDY]
        if len(studies):
            faults.append(Fault(f"rule violation {rule} ({requirement})", len(studies), f"exam {studies.iloc[0]}"))
    return faults


def require_valid(path: Path, layout: Layout) -> None:
    """Check a file that this project wrote.

    Raises:
        UserError: every fault of the file.
    """
    faults = check_file(path, layout)
    if faults:
        raise UserError.listing(f"Written submission is not valid: {path}:", map(str, faults))
