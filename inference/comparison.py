"""The `compare` command: two finished experiments on the same exams."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.decode import decode
from inference.evidence.evidence_report import write_evidence
from input.contest import EXAM_LABELS, LABEL_TITLES, STUDY
from input.metric import contributions
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.artifact import read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import recorded_settings
from pipeline.files import require_writable, write_text
from pipeline.identity import differences
from pipeline.settings import Settings
from submissions.bootstrap_intervals import Interval, paired_difference, resample_counts
from submissions.finished_run import Candidates, known_test_truth, read_candidates, require_finished
from submissions.score import Score, Truth, pe_score, prepared_truth, read_predictions, score
from submissions.score import differences as score_differences
from submissions.text_table import text_table

OUT_OF_FOLD, TEST = "out of fold", "test"
#: Exams and slices.
Tables = tuple[pd.DataFrame, pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Finished:
    """One of the two experiments.

    Attributes:
        name: of the experiment.
        settings: its settings.
        candidates: its ensemble.
        candidate: the one that is compared.
        exams: identity of the tables that it was made from.
        predictions: `out of fold` and, if the test truth is known, `test` -> its predictions, as they are
            submitted.
        truth: the same keys -> the truth.
    """

    name: str
    settings: Settings
    candidates: Candidates
    candidate: str
    exams: str
    predictions: dict[str, Tables]
    truth: dict[str, Truth]


def compare(first: str, second: str, *, candidate: str = "", exams: int = 10, out: Path | None = None) -> None:
    """Print the comparison of two experiments.

    Args:
        first, second: their names; differences are the second minus the first.
        candidate: the candidate of both; empty: the promoted one of each.
        exams: how many of the exams whose loss changed most are listed.
        out: folder for comparison.md and two evidence reports on these exams; None: neither.

    Raises:
        UserError: an experiment is not finished, or they were made from different exams.
    """
    if out:
        require_writable(out / "comparison.md")
    pair = read_finished(first, candidate), read_finished(second, candidate)
    if pair[0].exams != pair[1].exams:
        raise UserError(
            f"{first} and {second} have different exams, labels or folds, so their predictions cannot be paired. "
            "Compare experiments of the same --data and [input]."
        )
    parts = [settings_table(*pair)]
    for role in pair[0].predictions:
        parts.append(f"{role}, {pair[0].candidate} and {pair[1].candidate}:")
        parts.append(figures_table(pair, role))
    changed = changed_exams(pair, exams)
    parts += ["exams whose loss changed most:", _exams_table(pair, changed)]
    say("\n\n".join(parts))
    if out:
        _write_report(pair, parts[:-1], changed, out)


def read_finished(name: str, candidate: str = "") -> Finished:
    """Read an experiment; it becomes the current one.

    Args:
        name: of the experiment.
        candidate: its candidate; empty: the promoted one.

    Raises:
        UserError: it is not finished, or has no such candidate.
    """
    settings = recorded_settings(name)
    paths.select_experiment(name)
    require_finished(settings)
    candidates = read_candidates(paths.ensemble_run())
    candidate = candidate or candidates.promoted
    if candidate not in candidates.names:
        raise UserError(f"{name} has no candidate {candidate}. Expected one of {', '.join(candidates.names)}.")
    predictions = {OUT_OF_FOLD: decode(*candidates.predictions(candidate, "oof"))}
    truth = {OUT_OF_FOLD: prepared_truth(load_exams(), load_slices())}
    test_truth = known_test_truth(settings)
    if test_truth is not None:
        file = f"{candidate}.csv"
        verify(paths.submissions(), [file])
        truth[TEST] = test_truth
        predictions[TEST] = read_predictions(paths.submissions() / file, test_truth)
    identity = read_manifest(paths.prepared())["identity"]
    return Finished(name, settings, candidates, candidate, identity, predictions, truth)


def settings_table(first: Finished, second: Finished) -> str:
    """The settings that differ, as text."""
    changed = differences(first.settings.as_dict(), second.settings.as_dict())
    if not changed:
        return "settings: equal"
    rows = [[key, *(_shown(value) for value in values)] for key, values in changed.items()]
    return text_table(["setting", first.name, second.name], rows, left=3)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def figures_table(pair: tuple[Finished, Finished], role: str) -> str:
    """Metric, parts, AUCs and labels of both experiments, and their paired differences with intervals, as text."""
    truth, submissions = pair[0].truth[role], pair[0].settings.submissions
    counts = resample_counts(len(truth.exams), submissions.bootstrap, submissions.seed)
    scores = [score(truth, *one.predictions[role], counts=counts, seed=submissions.seed) for one in pair]
    gaps = score_differences(scores[1], scores[0], counts)
    rows = [[name, *(f"{value:.4f}" for value in _values(scores, name)), _signed(gap)] for name, gap in gaps.items()]
    losses = [contributions(truth.exams, truth.slices, *one.predictions[role]) for one in pair]
    each = np.ones(len(truth.exams))
    for label in EXAM_LABELS:
        gap = paired_difference(losses[1][label].to_numpy(), losses[0][label].to_numpy(), each, counts)
        values = [f"{loss[label].mean():.4f}" for loss in losses]
        rows.append([f"log loss: {LABEL_TITLES[label]}", *values, _signed(gap)])
    return text_table(["figure", pair[0].name, pair[1].name, "difference (95 %)"], rows)


def _values(scores: Sequence[Score], figure: str) -> list[float]:
    """The value of one of the figures of `submissions.score.differences` in both scores."""
    attributes = {
        "metric": lambda one: one.total.value, "exam part": lambda one: one.exam_part,
        "image part": lambda one: one.image_part, "slice AUC": lambda one: one.slice_auc.value,
        "exam AUC": lambda one: one.exam_auc.value,
    }  # fmt: skip
    return [attributes[figure](one) for one in scores]


def _signed(gap: Interval) -> str:
    if not np.isfinite(gap.value):
        return "-"
    clear = "*" if gap.low > 0 or gap.high < 0 else " "
    return f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}){clear}"


def changed_exams(pair: tuple[Finished, Finished], count: int) -> pd.DataFrame:
    """The exams whose share of the metric changed most.

    Returns:
        One row per exam, the largest change first: STUDY, role, change of the loss, P(PE) of both as `first`, `second`.
    """
    tables = []
    for role, truth in pair[0].truth.items():
        parts = [contributions(truth.exams, truth.slices, *one.predictions[role]) for one in pair]
        loss = [(part["exam_loss"] + part["image_loss"]).to_numpy() for part in parts]
        ordered = [one.predictions[role][0].set_index(STUDY).reindex(truth.exams[STUDY]) for one in pair]
        chances = [pe_score(exams) for exams in ordered]
        tables.append(
            pd.DataFrame(
                {
                    STUDY: truth.exams[STUDY].to_numpy(),
                    "role": role,
                    "change": loss[1] - loss[0],
                    "first": chances[0],
                    "second": chances[1],
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    order = table["change"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].head(count).reset_index(drop=True)


def _exams_table(pair: tuple[Finished, Finished], changed: pd.DataFrame) -> str:
    rows = [
        [row[STUDY], row["role"], f"{row['first']:.3f}", f"{row['second']:.3f}", f"{row['change']:+.2f}"]
        for row in changed.to_dict("records")
    ]
    titles = [f"P(PE), {one.name}" for one in pair]
    return text_table(["exam", "exams", *titles, "change of loss"], rows, left=2)


def _write_report(pair: tuple[Finished, Finished], parts: list[str], changed: pd.DataFrame, out: Path) -> None:
    """Write comparison.md and one evidence report per experiment on the changed exams."""
    out.mkdir(parents=True, exist_ok=True)
    files = [f"evidence-{number}.html" for number in (1, 2)]
    keys = []
    for one, file in zip(pair, files, strict=True):
        paths.select_experiment(one.name)
        report = write_evidence(one.settings, one.candidates, out / file, studies=changed[STUDY].tolist())
        keys.append({study: f"{file}#exam-{number}" for number, study in enumerate(report.studies, start=1)})
        say(f"evidence: {report}")
    lines = ["| exam | exams | P(PE) | P(PE) | change of loss |", "|---|---|---:|---:|---:|"]
    for row in changed.to_dict("records"):
        cells = [f"[{row[name]:.3f}]({keys[number][row[STUDY]]})" for number, name in enumerate(("first", "second"))]
        lines.append(f"| {row[STUDY]} | {row['role']} | {' | '.join(cells)} | {row['change']:+.2f} |")
    head = [f"# {pair[0].name} and {pair[1].name}", *(f"```text\n{part}\n```" for part in parts)]
    write_text(out / "comparison.md", "\n\n".join([*head, "\n".join(lines)]) + "\n")
    say(f"comparison: {paths.shown(out / 'comparison.md')}")
