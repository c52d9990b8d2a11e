"""experiments/leaderboard.csv: one row per run and candidate, and the tables that show it."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest
from pipeline.errors import UserError
from pipeline.experiments import names
from pipeline.files import write_table
from submissions.bootstrap_intervals import Interval
from submissions.score import Score
from submissions.text_table import legend, text_table

#: A row belongs to one run (the artifact's identity) and one candidate; rebuilding the run replaces it.
KEY = ("run", "candidate")
COLUMNS = (
    "when", "run", "settings", "commit", "data", "candidate", "promoted",
    "cv", "cv_low", "cv_high", "cv_exam", "cv_image", "cv_slice_auc", "cv_slice_auc_low", "cv_slice_auc_high",
    "cv_exam_auc", "cv_exam_auc_low", "cv_exam_auc_high", "decoding_cost",
    "test", "test_low", "test_high", "test_exam", "test_image", "test_slice_auc", "test_exam_auc",
)  # fmt: skip
#: Columns that were added later: in a file without them they are read as empty.
LATER = (
    "cv_exam_low", "cv_exam_high", "cv_image_low", "cv_image_high",
    "test_exam_low", "test_exam_high", "test_image_low", "test_image_high",
    "test_slice_auc_low", "test_slice_auc_high", "test_exam_auc_low", "test_exam_auc_high",
)  # fmt: skip
#: Name of the experiment that wrote the row last; a column that was added later, too.
EXPERIMENT = "experiment"
#: Columns of older files under their former names.
FORMER_NAMES = {"price": "decoding_cost"}
#: Title of a printed column -> its meaning.
LEGEND = {
    "CV": "contest metric of the decoded out-of-fold predictions, lower is better",
    "95 %": "bootstrap interval of the metric over exams",
    "exam, image": "weighted log losses of the exam labels and of the slices, the two parts of the metric",
    "slice AUC": "area under the ROC curve over the slices of exams with PE",
    "PE AUC": "area under the ROC curve over exams, of the score 1 - P(negative) - P(indeterminate)",
    "decoding cost": "change of CV by decoding, which makes the predictions obey the label rules",
    "test truth": "the same figures of the submissions on the test exams; score is the contest metric",
    "*": "the promoted candidate, which is submission.csv",
}


def leaderboard_path() -> Path:
    """The path of the leaderboard, which grows with every run."""
    return paths.experiments() / "leaderboard.csv"


def commit() -> str:
    """The checkout's commit, marked `-dirty` if files differ from it; empty without git."""
    command = ["git", "-C", str(paths.CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cv_columns(score: Score, decoding_cost: float) -> dict[str, float]:
    """The out-of-fold part of a row.

    Args:
        score: of the decoded out-of-fold predictions.
        decoding_cost: metric after decoding minus metric before.
    """
    return _score_columns("cv", score) | {"decoding_cost": decoding_cost}


def truth_columns(score: Score) -> dict[str, float]:
    """The part of a row that is measured on the held-out test truth."""
    return _score_columns("test", score)


def _score_columns(prefix: str, score: Score) -> dict[str, float]:
    intervals = {
        prefix: score.total,
        f"{prefix}_exam": score.exam_interval,
        f"{prefix}_image": score.image_interval,
        f"{prefix}_slice_auc": score.slice_auc,
        f"{prefix}_exam_auc": score.exam_auc,
    }
    columns: dict[str, float] = {}
    for name, interval in intervals.items():
        columns |= _interval_columns(name, interval)
    return columns


def _interval_columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Every row so far; an empty table before the first run has finished.

    Raises:
        UserError: not a CSV table, or columns are missing.
    """
    if not path.is_file():
        return pd.DataFrame(columns=[*COLUMNS, *LATER, EXPERIMENT])
    if not path.read_bytes().endswith(b"\n"):
        raise UserError(
            f"Not a complete leaderboard: {paths.shown(path)}: its last line is cut. Move the file away to start a new "
            "one."
        )
    text = {name: str for name in (*COLUMNS[:6], EXPERIMENT)}
    numbers = (*COLUMNS[7:], *LATER, *FORMER_NAMES)
    try:
        rows = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={name: [""] for name in numbers})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as fault:
        raise UserError(
            f"Not a readable leaderboard: {paths.shown(path)} ({fault}). Move the file away to start a new one."
        ) from fault
    rows = rows.rename(columns=FORMER_NAMES)
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise UserError(
            f"Columns missing in the leaderboard: {paths.shown(path)}: {', '.join(missing)}. Move the file away to "
            "start a new one."
        )
    rows = rows if EXPERIMENT in rows else rows.assign(**{EXPERIMENT: ""})
    return rows.reindex(columns=[*COLUMNS, *LATER, EXPERIMENT])


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows; a row of the same run and candidate replaces the older one."""
    new = pd.DataFrame(rows, columns=[*COLUMNS, *LATER, EXPERIMENT])
    old = read_leaderboard(path)
    is_replaced = pd.MultiIndex.from_frame(old[list(KEY)]).isin(pd.MultiIndex.from_frame(new[list(KEY)]))
    old = old[~is_replaced]
    write_table(path, pd.concat([old, new], ignore_index=True) if len(old) else new)


def rows_of_run(run: str) -> pd.DataFrame:
    """The leaderboard's rows of one run, given by its identity."""
    rows = read_leaderboard(leaderboard_path())
    return rows[rows["run"] == run]


def run_table(rows: pd.DataFrame) -> str:
    """The candidates of one run, best CV first: out-of-fold figures, then those on the test truth if it was read.

    `*` marks the promoted candidate.
    """
    rows = rows.sort_values("cv", kind="stable")
    records = rows.to_dict("records")
    header = ["out of fold", "CV", "95 %", "exam", "image", "slice AUC", "PE AUC", "decoding cost"]
    tables = [text_table(header, [[*_figures(row, "cv"), _number(row["decoding_cost"], 5)] for row in records])]
    if rows["test"].notna().any():
        header = ["test truth", "score", "95 %", "exam", "image", "slice AUC", "PE AUC"]
        tables.append(text_table(header, [_figures(row, "test") for row in records]))
    return "\n\n".join(tables)


def run_legend(rows: pd.DataFrame) -> str:
    """The meaning of the columns of `run_table`."""
    has_truth = rows["test"].notna().any()
    return legend({title: meaning for title, meaning in LEGEND.items() if has_truth or title != "test truth"})


def _figures(row: dict[str, Any], part: str) -> list[str]:
    """One line: name, metric, interval, the two parts, the two AUCs; `part` is cv or test."""
    return [
        _name(row),
        _number(row[part]),
        _range(row, part),
        *(_number(row[f"{part}_{name}"]) for name in ("exam", "image")),
        *(_number(row[f"{part}_{name}"], 3) for name in ("slice_auc", "exam_auc")),
    ]


def whole_table(rows: pd.DataFrame) -> str:
    """Every run and candidate, best CV first within each data set, with the meaning of the columns."""
    rows = rows.sort_values(["data", "cv"], kind="stable")
    figure_titles = ["CV", "95 %", "slice AUC", "PE AUC", "decoding cost"]
    header = ["data", "candidate", "when", "experiment", "commit", *figure_titles, "test"]
    names_of_run = experiments_by_run()
    cells = []
    for row in rows.to_dict("records"):
        experiment = names_of_run.get(row["run"]) or row[EXPERIMENT] or f"run {row['run'][:8]}"
        facts = [row["data"], _name(row), row["when"], experiment, row["commit"] or "-"]
        figures = [
            _number(row["cv"]),
            _range(row, "cv"),
            _number(row["cv_slice_auc"], 3),
            _number(row["cv_exam_auc"], 3),
        ]
        cells.append([*facts, *figures, _number(row["decoding_cost"], 5), _number(row["test"])])
    meanings = {
        "experiment": "its name; of a run without a name, the identity of its artifact",
        **{title: LEGEND[title] for title in figure_titles},
    }
    meanings |= {"test": "contest metric of the submission on the test truth", "*": "the promoted candidate of the run"}
    return f"{text_table(header, cells, left=5)}\n\n{legend(meanings)}"


def experiments_by_run() -> dict[str, str]:
    """Run -> names of the experiments whose results it is; experiments with equal settings share a run."""
    experiments: dict[str, list[str]] = {}
    for name in names():
        if (paths.experiments() / name / MANIFEST).is_file():
            experiments.setdefault(read_manifest(paths.experiments() / name)["identity"], []).append(name)
    return {run: ", ".join(sharing) for run, sharing in experiments.items()}


def _name(row: dict[str, Any]) -> str:
    return f"{row['candidate']} *" if str(row["promoted"]).lower() == "true" else row["candidate"]


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and np.isfinite(value) else "-"


def _range(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{_number(low, 3)}-{_number(high, 3)}" if np.isfinite(low) else "-"
