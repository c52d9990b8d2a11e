"""The submission file, in exactly the contest's format and order.

`id,label`; nine blocks `<StudyInstanceUID>_<label>` in the order of contest.EXAM_LABELS, each with one row
an exam, then one row a slice. Where the contest ships sample_submission.csv, its own order is used.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, SOP, STUDY, SUBMISSION_COLUMNS
from input.contest_tree import read_test_table, submission_ids
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.paths import shown

#: Digits after the point of every probability in the file.
DECIMALS = 6


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which rows a submission must have.

    Attributes:
        ids: every id, in the order of the file.
        slices: STUDY and SOP of every slice, in the order of test.csv.
    """

    ids: pd.Index
    slices: pd.DataFrame

    @property
    def studies(self) -> pd.Index:
        """StudyInstanceUIDs in the order of their first slice."""
        return pd.Index(self.slices[STUDY].unique())


def exam_ids(studies: pd.Index, label: str) -> pd.Index:
    """The ids of one block."""
    return pd.Index(studies).astype(str) + f"_{label}"


def layout_of(slices: pd.DataFrame) -> Layout:
    """The layout of a table of slices in the contest's default order."""
    slices = slices[[STUDY, SOP]].reset_index(drop=True)
    return Layout(submission_ids(slices), slices)


def read_layout(data: Path) -> Layout:
    """The rows that a submission to the contest tree `data` must have.

    Raises:
        UserError: every fault of test.csv, or sample_submission.csv names other rows than test.csv.
    """
    layout = layout_of(read_test_table(data))
    sample = data / "sample_submission.csv"
    if not sample.is_file():
        return layout
    ids = pd.Index(read_rows(sample)["id"])
    _check_sample(sample, ids, layout.ids)
    return Layout(ids, layout.slices)


def _check_sample(sample: Path, ids: pd.Index, derived: pd.Index) -> None:
    faults = []
    for what, some in (
        ("in test.csv only", derived.difference(ids)),
        ("in the sample only", ids.difference(derived)),
        ("twice in the sample", ids[ids.duplicated()].unique()),
    ):
        if len(some):
            faults.append(f"{len(some)} ids {what}, e.g. {some[0]}")
    if faults:
        raise UserError.listing(f"{shown(sample)}: does not name the rows of test.csv:", faults)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a submission as text, column by column as it stands: nothing is converted or dropped.

    Raises:
        UserError: no such file, not a CSV, or a header other than `id,label`.
    """
    rows, header = read_text_table(path)
    if header != SUBMISSION_COLUMNS:
        raise UserError(f"{shown(path)}: header is {','.join(header)!r}; expected {','.join(SUBMISSION_COLUMNS)!r}")
    return rows


def read_text_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A CSV's cells as text, and its header exactly as written."""
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such file")
    try:
        rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=True, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as fault:
        raise UserError(f"{shown(path)}: not a CSV table with the header id,label ({fault})") from fault
    header = tuple(str(cell) for cell in rows.iloc[0])
    rows = rows.iloc[1:].reset_index(drop=True)
    rows.columns = list(header)
    return rows, header


def rounded(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as they are written: DECIMALS digits, strictly inside (0, 1).

    A value above 0.5 stays above 0.5, and one that is not stays so: a rule never flips by rounding.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    step = 10.0**-DECIMALS
    values = np.clip(np.round(probabilities, DECIMALS), step, 1 - step)
    return np.where((probabilities > 0.5) & (values <= 0.5), 0.5 + step, values)


def to_series(exams: pd.DataFrame, slices: pd.DataFrame) -> pd.Series:
    """Probabilities by id, from one row an exam (STUDY, nine labels) and one row a slice (SOP, label)."""
    studies = pd.Index(exams[STUDY])
    parts = [pd.Series(exams[label].to_numpy(), index=exam_ids(studies, label)) for label in EXAM_LABELS]
    parts.append(pd.Series(slices["label"].to_numpy(), index=pd.Index(slices[SOP])))
    return pd.concat(parts)


def to_tables(values: pd.Series, slices: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The inverse of `to_series`, for the exams and slices of a table (STUDY, SOP).

    Returns:
        exams (STUDY, nine labels) and slices (STUDY, SOP, label); an id without a value gives NaN.
    """
    studies = pd.Index(slices[STUDY].unique())
    exams = pd.DataFrame({STUDY: studies})
    for label in EXAM_LABELS:
        exams[label] = values.reindex(exam_ids(studies, label)).to_numpy(np.float64)
    slices = slices[[STUDY, SOP]].reset_index(drop=True)
    return exams, slices.assign(label=values.reindex(pd.Index(slices[SOP])).to_numpy(np.float64))


def write_submission(path: Path, exams: pd.DataFrame, slices: pd.DataFrame, layout: Layout) -> None:
    """Write a submission atomically, in the layout's order.

    Args:
        path: the CSV.
        exams: STUDY and the nine labels, one row an exam.
        slices: SOP and `label`, one row a slice.
        layout: which rows, in which order.

    Raises:
        UserError: a row is missing, given twice, NaN or outside [0, 1].
    """
    values = to_series(exams, slices)
    faults = []
    twice = values.index[values.index.duplicated()].unique()
    if len(twice):
        faults.append(f"{len(twice)} ids predicted twice, e.g. {twice[0]}")
        values = values[~values.index.duplicated()]
    values = values.reindex(layout.ids)
    wrong = values.index[~((values >= 0) & (values <= 1)).to_numpy()]
    if len(wrong):
        faults.append(f"{len(wrong)} ids without a probability in [0, 1], e.g. {wrong[0]}: {values[wrong[0]]}")
    if faults:
        raise UserError.listing(f"{shown(path)}: not written, the predictions are incomplete:", faults)
    table = pd.DataFrame({"id": layout.ids, "label": rounded(values.to_numpy(np.float64))})
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
