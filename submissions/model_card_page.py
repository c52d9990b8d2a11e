"""The model card as Markdown with a YAML head, rendered from its facts alone (see submissions.model_card)."""

import json
from pathlib import Path
from typing import Any

import jinja2

from input.contest import LABEL_TITLES

_FIGURES = {
    "metric": "metric (lower is better)",
    "exam_part": "exam part",
    "image_part": "image part",
    "slice_auc": "slice AUC, exams with PE",
    "exam_auc": "PE AUC",
}


def page(facts: dict[str, Any]) -> str:
    """Render the whole page from the facts of `submissions.model_card.card_facts`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters |= {
        "interval": _interval,
        "json": json.dumps,
        "number": _number,
        "or_dash": _or_dash,
        "title_of": LABEL_TITLES.__getitem__,
    }
    promoted = facts["scores"][facts["promoted"]]
    head_metric = {part: figures["metric"] for part, figures in promoted.items() if figures}
    return environment.get_template("model_card.md.j2").render(facts=facts, figures=_FIGURES, head_metric=head_metric)


def _interval(figure: dict[str, float | None] | None) -> str:
    if not figure or figure["value"] is None:
        return "-"
    bounds = f" ({_number(figure['low'])} to {_number(figure['high'])})" if figure["low"] is not None else ""
    return _number(figure["value"]) + bounds


def _number(value: float | None) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value
