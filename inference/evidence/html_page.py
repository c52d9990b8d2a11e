"""The HTML file: Jinja2 with autoescape, style and script inline, and a policy under which nothing else can load.

The Content-Security-Policy names the style and the script by their sha256, allows images from data URIs only, and
no connection at all: a text that slipped through as markup could neither run nor call home.
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
from inference.evidence.exam_page import STRONGEST, ExamPage
from inference.evidence.model_facts import Model
from inference.evidence.slice_images import window_tables
from inference.evidence.svg_charts import square, thinned
from input.contest import EXAM_LABELS
from pipeline.files import atomic_path
from submissions.operating_points import PREVALENCE, SENSITIVITY
from submissions.score import Score
from submissions.score_report import COLUMNS_EXPLAINED, SYNTHETIC

_HERE = Path(__file__).resolve().parent
#: Quarantined slices listed one by one.
LISTED = 50


def write_page(path: Path, pages: list[ExamPage], model: Model) -> None:
    """Render the report, atomically; exam by exam, so that the pictures are never all in one string.

    Args:
        path: the HTML file.
        pages: the exams, the likeliest PE first.
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
        board=_board(model),
        charts=_charts(model.scores),
        products=[_product(each) for each in model.products],
        libraries=model.products[-1].get("libraries", {}) if model.products else {},
        machine=model.products[-1] if model.products else {},
        labels=EXAM_LABELS,
        windows={name: (level, width, window_tables()[name]) for name, (level, width) in WINDOWS.items()},
        synthetic=SYNTHETIC,
        drawn=all(page.case.role != UNLABELLED for page in pages),
        explained=COLUMNS_EXPLAINED,
        sensitivity=SENSITIVITY,
        prevalence=PREVALENCE,
        strongest=STRONGEST,
        listed=LISTED,
    )
    # A file's name may hold bytes that are no text.
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(stream)


def content_security_policy(style: str, script: str) -> str:
    """Inline style and script by hash, data images, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _board(model: Model) -> list[dict[str, Any]]:
    rows = model.board.to_dict("records")
    return [{**row, "promoted": str(row["promoted"]).lower() == "true"} for row in rows]


def _charts(scores: dict[str, Score]) -> list[tuple[str, Markup]]:
    """ROC, precision and recall, and reliability of P(PE), with a line for each set of exams."""
    both = {name: each for name, each in scores.items() if 0 < each.positive.sum() < len(each.positive)}
    roc = {name: _roc(each) for name, each in both.items()}
    recall = {name: _recall(each) for name, each in both.items()}
    reliable = {
        name: np.column_stack([each.calibration.predicted, each.calibration.observed]) for name, each in scores.items()
    }
    return [
        ("ROC", square("ROC curve for PE", "1 - specificity", "sensitivity", roc, diagonal=True)),
        ("Precision and recall", square("Precision-recall curve for PE", "recall", "precision", recall)),
        ("Reliability", square("Reliability of P(PE)", "predicted P(PE)", "share of exams with PE", reliable,
                               diagonal=True, dots=True)),
    ]  # fmt: skip


def _roc(found: Score) -> np.ndarray:
    false, true, _ = roc_curve(found.positive, found.suspicion)
    return thinned(np.column_stack([false, true]))


def _recall(found: Score) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(found.positive, found.suspicion)
    return thinned(np.column_stack([recall, precision]))


def _product(manifest: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that the page shows."""
    wanted = ("name", "identity", "version", "source", "wall_seconds", "rows", "metrics", "settings", "inputs", "seed")
    return {name: manifest.get(name, "") for name in wanted}
