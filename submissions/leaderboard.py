"""submissions/leaderboard.csv: a row a run and candidate, and the tables that a run shows of it."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_table
from submissions.bootstrap_intervals import Interval
from submissions.score import Score

#: A row belongs to one run (identity of the product) and one candidate; building it again replaces it.
KEY = ("run", "candidate")
COLUMNS = (
    "when", "run", "settings", "commit", "data", "candidate", "promoted",
    "cv", "cv_low", "cv_high", "cv_exam", "cv_image", "cv_slice_auc", "cv_slice_auc_low", "cv_slice_auc_high",
    "cv_exam_auc", "cv_exam_auc_low", "cv_exam_auc_high", "price",
    "test", "test_low", "test_high", "test_exam", "test_image", "test_slice_auc", "test_exam_auc",
)  # fmt: skip
#: Columns that came later: a leaderboard without them is read, and they are empty in its rows.
LATER = (
    "cv_exam_low", "cv_exam_high", "cv_image_low", "cv_image_high",
    "test_exam_low", "test_exam_high", "test_image_low", "test_image_high",
    "test_slice_auc_low", "test_slice_auc_high", "test_exam_auc_low", "test_exam_auc_high",
)  # fmt: skip


def leaderboard_path() -> Path:
    """Where the leaderboard grows."""
    return paths.submissions() / "leaderboard.csv"


def commit() -> str:
    """The checkout's commit, with a mark when files differ from it; empty where git does not know one."""
    command = ["git", "-C", str(paths.CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cv_columns(score: Score, price: float) -> dict[str, float]:
    """The out-of-fold part of a row.

    Args:
        score: of the decoded out-of-fold predictions.
        price: what decoding added to the metric.
    """
    return _figures_of("cv", score) | {"price": price}


def truth_columns(score: Score) -> dict[str, float]:
    """The part of a row that the untouched test truth gives."""
    return _figures_of("test", score)


def _figures_of(part: str, score: Score) -> dict[str, float]:
    figures = {
        part: score.total,
        f"{part}_exam": score.exam_interval,
        f"{part}_image": score.image_interval,
        f"{part}_slice_auc": score.slice_auc,
        f"{part}_exam_auc": score.exam_auc,
    }
    return {key: value for name, each in figures.items() for key, value in _interval(name, each).items()}


def _interval(name: str, value: Interval) -> dict[str, float]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Every row so far; an empty table where no run has finished."""
    if not path.is_file():
        return pd.DataFrame(columns=[*COLUMNS, *LATER])
    text = {name: str for name in COLUMNS[:6]}
    try:
        rows = pd.read_csv(
            path, dtype=text, keep_default_na=False, na_values={name: [""] for name in (*COLUMNS[7:], *LATER)}
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as fault:
        raise UserError(f"{paths.shown(path)}: not a readable leaderboard ({fault}); move it away") from fault
    absent = [name for name in COLUMNS if name not in rows]
    if absent:
        raise UserError(f"{paths.shown(path)}: columns missing: {', '.join(absent)}; move the file away to start anew")
    return rows.reindex(columns=[*COLUMNS, *LATER])


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows; a row of the same run and candidate takes the place of the older one."""
    new = pd.DataFrame(rows, columns=[*COLUMNS, *LATER])
    old = read_leaderboard(path)
    again = pd.MultiIndex.from_frame(old[list(KEY)]).isin(pd.MultiIndex.from_frame(new[list(KEY)]))
    old = old[~again]
    write_table(path, pd.concat([old, new], ignore_index=True) if len(old) else new)


def aligned(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A text table with a rule under its header; the first `left` columns are set flush left."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and np.isfinite(value) else "-"


def _range(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{_number(low, 3)}-{_number(high, 3)}" if np.isfinite(low) else "-"


def run_table(rows: pd.DataFrame) -> str:
    """The candidates of one run, best CV first: out-of-fold figures, then those on the test truth where it was read.

    `*` marks the promoted candidate.
    """
    rows = rows.sort_values("cv", kind="stable")
    records = rows.to_dict("records")
    header = ["out of fold", "CV", "95 %", "exam", "image", "slice AUC", "PE AUC", "price"]
    tables = [aligned(header, [[*_figures(row, "cv"), _number(row["price"], 5)] for row in records])]
    if rows["test"].notna().any():
        header = ["test truth", "score", "95 %", "exam", "image", "slice AUC", "PE AUC"]
        tables.append(aligned(header, [_figures(row, "test") for row in records]))
    return "\n\n".join(tables)


def _figures(row: dict[str, Any], part: str) -> list[str]:
    """One line: name, metric, interval, the two parts, the two AUCs; `part` is cv or test."""
    return [
        _name(row),
        _number(row[part]),
        _range(row, part),
        *(_number(row[f"{part}_{each}"]) for each in ("exam", "image")),
        *(_number(row[f"{part}_{each}"], 3) for each in ("slice_auc", "exam_auc")),
    ]


def _name(row: dict[str, Any]) -> str:
    return f"{row['candidate']} *" if str(row["promoted"]).lower() == "true" else row["candidate"]


def whole_table(rows: pd.DataFrame) -> str:
    """Every run and candidate, best CV first within each data set."""
    rows = rows.sort_values(["data", "cv"], kind="stable")
    header = ["data", "candidate", "when", "run", "commit", "CV", "95 %", "slice AUC", "PE AUC", "price", "test"]
    cells = []
    for row in rows.to_dict("records"):
        facts = [row["data"], _name(row), row["when"], row["run"][:8], row["commit"] or "-"]
        figures = [
            _number(row["cv"]),
            _range(row, "cv"),
            _number(row["cv_slice_auc"], 3),
            _number(row["cv_exam_auc"], 3),
        ]
        cells.append([*facts, *figures, _number(row["price"], 5), _number(row["test"])])
    return aligned(header, cells, left=5)


def rows_of_run(run: str) -> pd.DataFrame:
    rows = read_leaderboard(leaderboard_path())
    return rows[rows["run"] == run]
