"""The submission file, in exactly the contest's format and order.

`id,label`; nine blocks `<StudyInstanceUID>_<label>` in the order of contest.EXAM_LABELS, each with one row per exam,
then one row per slice. If the contest tree has a sample_submission.csv, its order is used.
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
    """The rows of a submission.

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
    """The ids of one label's block."""
    return pd.Index(studies).astype(str) + f"_{label}"


def layout_of(slices: pd.DataFrame) -> Layout:
    """The layout of a table of slices in the contest's default order."""
    slices = slices[[STUDY, SOP]].reset_index(drop=True)
    return Layout(submission_ids(slices), slices)


def read_layout(data: Path) -> Layout:
    """The rows of a submission to the contest tree `data`.

    Raises:
        UserError: every fault of test.csv, or sample_submission.csv lists other rows than test.csv.
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
    for problem, affected in (
        ("in test.csv only", derived.difference(ids)),
        ("in the sample only", ids.difference(derived)),
        ("twice in the sample", ids[ids.duplicated()].unique()),
    ):
        if len(affected):
            faults.append(f"{len(affected)} ids {problem}, e.g. {affected[0]}")
    if faults:
        raise UserError.listing(f"Sample submission does not match test.csv: {shown(sample)}:", faults)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a submission as text; nothing is converted or dropped.

    Raises:
        UserError: missing file, not a CSV, or a header other than `id,label`.
    """
    rows, header = read_text_table(path)
    if header != SUBMISSION_COLUMNS:
        raise UserError(
            f"Wrong header: {shown(path)}. Expected {','.join(SUBMISSION_COLUMNS)!r}, got {','.join(header)!r}."
        )
    return rows


def read_text_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The cells of a CSV as text, and its header exactly as written.

    Raises:
        UserError: missing file, or not a CSV.
    """
    if not path.is_file():
        raise UserError(f"File not found: {shown(path)}. Expected a submission CSV.")
    try:
        rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=True, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as fault:
        raise UserError(f"Not a CSV table: {shown(path)}. Expected the header id,label, got: {fault}") from fault
    header = tuple(str(cell) for cell in rows.iloc[0])
    rows = rows.iloc[1:].reset_index(drop=True)
    rows.columns = list(header)
    return rows, header


def rounded(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities to DECIMALS digits, strictly inside (0, 1).

    Values above 0.5 stay above 0.5 and all others stay at or below it, so rounding never changes a label rule.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    step = 10.0**-DECIMALS
    values = np.clip(np.round(probabilities, DECIMALS), step, 1 - step)
    return np.where((probabilities > 0.5) & (values <= 0.5), 0.5 + step, values)


def to_series(exams: pd.DataFrame, slices: pd.DataFrame) -> pd.Series:
    """Probabilities by id, from an exam table (STUDY, nine labels) and a slice table (SOP, label)."""
    studies = pd.Index(exams[STUDY])
    parts = [pd.Series(exams[label].to_numpy(), index=exam_ids(studies, label)) for label in EXAM_LABELS]
    parts.append(pd.Series(slices["label"].to_numpy(), index=pd.Index(slices[SOP])))
    return pd.concat(parts)


def to_tables(values: pd.Series, slices: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The inverse of `to_series`.

    Args:
        values: probabilities by id.
        slices: STUDY and SOP of the slices to return, with their exams.

    Returns:
        exams (STUDY, nine labels) and slices (STUDY, SOP, label); NaN for ids without a value.
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
        exams: STUDY and the nine labels, one row per exam.
        slices: SOP and `label`, one row per slice.
        layout: the rows and their order.

    Raises:
        UserError: a row is missing, repeated, NaN or outside [0, 1].
    """
    values = to_series(exams, slices)
    faults = []
    repeated = values.index[values.index.duplicated()].unique()
    if len(repeated):
        faults.append(f"{len(repeated)} ids predicted twice, e.g. {repeated[0]}")
        values = values[~values.index.duplicated()]
    values = values.reindex(layout.ids)
    invalid = values.index[~((values >= 0) & (values <= 1)).to_numpy()]
    if len(invalid):
        faults.append(f"{len(invalid)} ids without a probability in [0, 1], e.g. {invalid[0]}: {values[invalid[0]]}")
    if faults:
        raise UserError.listing(f"Incomplete predictions; not written: {shown(path)}:", faults)
    table = pd.DataFrame({"id": layout.ids, "label": rounded(values.to_numpy(np.float64))})
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
