"""Render the HTML file with Jinja2: autoescape on, style and script inline, no external resources.

The Content-Security-Policy allows the style and the script by their sha256, images from data URIs only, and no
connections: text that was wrongly treated as markup could neither run nor send anything.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve, roc_curve

from features.windows import WINDOWS
from inference.evidence.exam_cases import UNLABELLED
from inference.evidence.exam_page import ExamPage
from inference.evidence.exam_tables import STRONGEST
from inference.evidence.model_facts import Model
from inference.evidence.slice_images import window_tables
from inference.evidence.svg_charts import square, thinned
from input.contest import EXAM_LABELS, LABEL_TITLES
from pipeline.files import atomic_path
from submissions.operating_points import PREVALENCE, SENSITIVITY
from submissions.score import Score
from submissions.score_report import COLUMNS_EXPLAINED, SYNTHETIC

_HERE = Path(__file__).resolve().parent
#: Unreadable slices that are listed one by one.
LISTED_SLICES = 50


def write_page(html: Path, pages: list[ExamPage], model: Model) -> None:
    """Render the report atomically, exam by exam, so that the images are never all in one string.

    Args:
        html: the HTML file.
        pages: the exams, highest risk first.
        model: the promoted candidate.
    """
    style, script = ((_HERE / name).read_text() for name in ("style.css", "script.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    stream = environment.get_template("page.html.j2").generate(
        style=Markup(style),
        script=Markup(script),
        policy=content_security_policy(style, script),
        pages=pages,
        model=model,
        leaderboard=_leaderboard_rows(model),
        charts=_charts(model.scores),
        artifacts=[_artifact_row(manifest) for manifest in model.artifacts],
        latest=model.artifacts[-1] if model.artifacts else {},
        label_titles={label: LABEL_TITLES[label] for label in EXAM_LABELS},
        windows={name: (level, width, window_tables()[name]) for name, (level, width) in WINDOWS.items()},
        synthetic_notice=SYNTHETIC,
        exams_of_run=all(page.case.role != UNLABELLED for page in pages),
        columns_explained=COLUMNS_EXPLAINED.replace("`", ""),
        sensitivity=SENSITIVITY,
        prevalence=PREVALENCE,
        strongest=STRONGEST,
        listed_slices=LISTED_SLICES,
    )
    # File names may contain bytes that are not valid text.
    with atomic_path(html) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(stream)


def content_security_policy(style: str, script: str) -> str:
    """The policy: the inline style and script by hash, images from data URIs, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _leaderboard_rows(model: Model) -> list[dict[str, Any]]:
    rows = model.leaderboard.to_dict("records")
    return [{**row, "promoted": str(row["promoted"]).lower() == "true"} for row in rows]


def _charts(scores: dict[str, Score]) -> list[tuple[str, Markup]]:
    """ROC, precision-recall and reliability curves of P(PE), one line per set of exams."""
    with_both_classes = {
        name: score for name, score in scores.items() if 0 < score.positive.sum() < len(score.positive)
    }
    roc = {name: _roc(score) for name, score in with_both_classes.items()}
    precision_recall = {name: _precision_recall(score) for name, score in with_both_classes.items()}
    reliability = {
        name: np.column_stack([score.calibration.predicted, score.calibration.observed])
        for name, score in scores.items()
    }
    return [
        ("ROC", square("ROC curve for PE", "1 - specificity", "sensitivity", roc, diagonal=True)),
        ("Precision-recall", square("Precision-recall curve for PE", "recall", "precision", precision_recall)),
        ("Reliability", square("Reliability of P(PE)", "predicted P(PE)", "fraction of exams with PE", reliability,
                               diagonal=True, dots=True)),
    ]  # fmt: skip


def _roc(score: Score) -> np.ndarray:
    false_positive_rate, true_positive_rate, _ = roc_curve(score.positive, score.pe_scores)
    return thinned(np.column_stack([false_positive_rate, true_positive_rate]))


def _precision_recall(score: Score) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(score.positive, score.pe_scores)
    return thinned(np.column_stack([recall, precision]))


def _artifact_row(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that the page shows."""
    return {name: manifest.get(name, "") for name in ("name", "identity", "source", "wall_seconds", "rows", "settings")}
