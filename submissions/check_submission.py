"""Whether a file would be accepted and obeys the rules: all faults at once, by name, with an example id."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, STUDY, SUBMISSION_COLUMNS
from input.rules import RULES, violations
from pipeline.errors import UserError
from submissions.kaggle_csv import Layout, read_text_table, to_tables

_NUMBER = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
_EMPTY = {"", "nan", "na", "n/a", "null", "none", "<na>"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of fault of a file: how often it occurs, and where it was met first."""

    name: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.name}: {self.count}, e.g. {self.example}" if self.count > 1 else f"{self.name}: {self.example}"


def check_file(path: Path, layout: Layout) -> list[Fault]:
    """Every fault of a submission file; an empty list means that it is valid and obeys the rules.

    The rules are applied to each exam whose rows are all there and usable. Order does not matter to the
    contest, so it is no fault.

    Args:
        path: the CSV.
        layout: which rows it must have.
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


def _header_faults(found: str) -> list[Fault]:
    expected = ",".join(SUBMISSION_COLUMNS)
    return [Fault("wrong header", 1, f"found {found!r}, expected {expected!r}")] if found not in ("", expected) else []


def _id_faults(ids: pd.Index, expected: pd.Index) -> list[Fault]:
    repeated = ids[ids.duplicated()].unique()
    found = {
        "missing id": expected[~expected.isin(ids)],
        "unknown id": ids[~ids.isin(expected)],
        "duplicate id": repeated,
    }
    return [Fault(name, len(some), str(some[0])) for name, some in found.items() if len(some)]


def _parse(ids: pd.Index, texts: pd.Series) -> tuple[pd.Series, list[Fault]]:
    """Usable probabilities by id (NaN where unusable), and what is wrong with the others."""
    lowered = texts.str.strip().str.lower()
    empty = lowered.isin(_EMPTY).to_numpy(bool)
    infinite = lowered.isin(["inf", "-inf", "+inf", "infinity", "-infinity"]).to_numpy(bool)
    numeric = texts.str.fullmatch(_NUMBER).to_numpy(bool)
    values = np.full(len(texts), np.nan)
    values[numeric] = texts[numeric].astype(float)
    outside = infinite | (numeric & ~((values >= 0) & (values <= 1)))
    kinds = {
        "NaN or empty label": empty,
        "label is not a number": ~(numeric | empty | infinite),
        "probability outside [0, 1]": outside,
    }
    faults = []
    for name, where in kinds.items():
        if where.any():
            first = int(where.argmax())
            faults.append(Fault(name, int(where.sum()), f"{ids[first]}: {texts.iloc[first]!r}"))
    values[outside] = np.nan
    return pd.Series(values, index=ids), faults


def _rule_faults(values: pd.Series, layout: Layout) -> list[Fault]:
    exams, slices = to_tables(values, layout.slices)
    lacking = exams.loc[exams[list(EXAM_LABELS)].isna().any(axis=1), STUDY]
    incomplete = exams[STUDY].isin([*lacking, *slices.loc[slices["label"].isna(), STUDY]])
    exams = exams[~incomplete]
    broken = violations(exams, slices.groupby(STUDY)["label"].max().reindex(exams[STUDY]).to_numpy())
    faults = []
    for rule, demand in RULES.items():
        breakers = exams.loc[broken[rule].to_numpy(bool), STUDY]
        if len(breakers):
            faults.append(Fault(f"rule violation {rule} ({demand})", len(breakers), f"exam {breakers.iloc[0]}"))
    return faults


def require_valid(path: Path, layout: Layout) -> None:
    """Raise a UserError that lists every fault of a file that this project wrote itself."""
    faults = check_file(path, layout)
    if faults:
        raise UserError.listing(f"{path}: the file that was written does not pass its own check:", map(str, faults))
