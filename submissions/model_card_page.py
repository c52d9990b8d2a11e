"""The model card as Markdown with a YAML head, drawn from its facts alone (see submissions.model_card)."""

import json
from typing import Any

_FIGURES = {
    "metric": "metric (lower is better)",
    "exam_part": "exam part",
    "image_part": "image part",
    "slice_auc": "slice AUC, exams with PE",
    "exam_auc": "PE AUC",
}


def page(facts: dict[str, Any]) -> str:
    """The whole page; values of the head are JSON, which is YAML."""
    parts = [
        _head(facts),
        f"# {facts['name']} {facts['version']}",
        f"**{facts['research_use_only']}**",
        *([f"**{facts['notice']}**"] if facts["notice"] else []),
        facts["description"],
        "## Intended use",
        _items(facts["intended_use"]),
        "## Limits",
        _items(facts["limits"]),
        "## Labels",
        _table(["label", "means"], facts["labels"].items()),
        "## Data",
        _data(facts),
        "## Scores of `" + facts["promoted"] + "`",
        _scores(facts),
        "## All candidates",
        _candidates(facts),
        "## Networks",
        _networks(facts),
        "Weights that training started from: "
        + "; ".join(f"{each['backbone']}: {each['start']}, {each['licence']}" for each in facts["weights"])
        + f". This code: {facts['licence']}.",
        "## How it was made",
        _made(facts),
        "Settings:",
        "```json\n" + json.dumps(facts["settings"], indent=1) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: dict[str, Any]) -> str:
    promoted = facts["scores"][facts["promoted"]]
    values = {
        "license": facts["licence"].lower(),
        "tags": ["pulmonary-embolism", "computed-tomography", "research-use-only"],
        "synthetic": facts["synthetic"],
        "model": facts["promoted"],
        "dataset": facts["data"]["name"],
        "metric": {part: found["metric"] for part, found in promoted.items() if found},
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _data(facts: dict[str, Any]) -> str:
    data, folds = facts["data"], facts["folds"]
    lines = [
        f"{data['name']}: {data['training_exams']} training exams ({data['training_exams_with_pe']} with PE; "
        f"{data['training_slices']} slices, {data['training_slices_with_pe']} with PE) and {data['test_exams']} test "
        f"exams ({data['test_slices']} slices). Unreadable slices: {_or_dash(data['quarantined_slices'])}. Folds of "
        f"exams, stratified over all labels (seed {folds['seed']}): {', '.join(map(str, folds['exams']))} exams.",
        _table(["label", "training exams"], data["training_exams_by_label"].items()),
        facts["citation"],
    ]
    return "\n\n".join(lines)


def _scores(facts: dict[str, Any]) -> str:
    found = facts["scores"][facts["promoted"]]
    rows = [
        (words, _interval((found["out_of_fold"] or {}).get(key)), _interval((found["test_truth"] or {}).get(key)))
        for key, words in _FIGURES.items()
    ]
    note = "Brackets: bootstrap over exams. A dash: not measured."
    return _table(["figure", "out of fold", "test truth"], rows) + "\n\n" + note


def _candidates(facts: dict[str, Any]) -> str:
    rows = []
    for name, found in facts["scores"].items():
        cells = [_interval((found[part] or {}).get("metric")) for part in ("out_of_fold", "test_truth")]
        rows.append((f"{name} *" if name == facts["promoted"] else name, *cells))
    return _table(["candidate", "out of fold", "test truth"], rows)


def _networks(facts: dict[str, Any]) -> str:
    rows = [
        (each["network"], each["fold"], _number(each["metrics"].get("oof_slice_auc")),
         _number(each["metrics"].get("final_loss")), each["engine"], _or_dash(each["seed"]),
         _or_dash(each["wall_seconds"]))
        for each in facts["networks"]
    ]  # fmt: skip
    head = ["network", "held-out fold", "slice AUC there", "training loss", "inference", "seed", "seconds"]
    return _table(head, rows) if rows else "No network's manifest is at hand."


def _made(facts: dict[str, Any]) -> str:
    environment = facts["environment"]
    libraries = ", ".join(f"{name} {'/'.join(versions)}" for name, versions in environment["libraries"].items())
    lines = [
        f"finished {facts['when']}, commit {facts['commit'] or 'unknown'}",
        f"system: {'; '.join(environment['machine']) or 'not recorded'}",
        f"hardware: {_hardware(environment['hardware'])}",
        f"Python {'/'.join(environment['python']) or 'not recorded'}; {libraries or 'libraries not recorded'}",
        "seconds of work: " + ", ".join(f"{stage} {seconds:g}" for stage, seconds in facts["seconds"].items()),
        "identities: " + ", ".join(f"{stage} {identity}" for stage, identity in facts["identities"].items()),
    ]
    return _items(lines)


def _hardware(found: dict[str, Any] | None) -> str:
    if not found:
        return "not recorded"
    cards = ", ".join(found["graphics"]) or "no graphics card"
    return f"{found['processor']}, {found['cores']} cores, {found['memory_gb']:g} GB of memory, {cards}"


def _items(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: list[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(found: dict[str, float | None] | None) -> str:
    if not found or found["value"] is None:
        return "-"
    bounds = f" ({_number(found['low'])} to {_number(found['high'])})" if found["low"] is not None else ""
    return _number(found["value"]) + bounds


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value
