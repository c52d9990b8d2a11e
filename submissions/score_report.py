"""report.md and report.png: the scores of a run, label by label, and the slices it could not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, LABEL_TITLES, SOP, STUDY
from pipeline.files import atomic_path, write_text
from pipeline.settings import SubmissionsSettings
from submissions.bootstrap_intervals import Interval, resample_counts
from submissions.calibration import Calibration
from submissions.leaderboard import LEGEND, run_table
from submissions.not_assessable import PriorPolicy
from submissions.operating_points import PREVALENCE, SENSITIVITY, operating_points
from submissions.score import Score, differences
from submissions.selective_prediction import (
    CONFIDENCE,
    DEFERRED,
    apply_deferral,
    cross_fitted_result,
    fix_deferral,
)
from submissions.selective_prediction import SENSITIVITY as SELECTIVE_SENSITIVITY

SYNTHETIC = "Synthetic data: these exams are generated phantoms. The figures test the pipeline, not clinical skill."
#: The meaning of the columns in one paragraph.
COLUMNS_EXPLAINED = "; ".join(f"`{title}`: {meaning}" for title, meaning in LEGEND.items()) + "."
#: Quarantined slices that the report lists individually.
LISTED = 50


def write_report(
    directory: Path,
    *,
    rows: pd.DataFrame,
    out_of_fold: dict[str, Score],
    test: dict[str, Score],
    quarantined: pd.DataFrame,
    is_phantom: bool,
    settings: SubmissionsSettings,
    folds: np.ndarray,
    policy: PriorPolicy,
) -> None:
    """Write report.md and report.png.

    Args:
        directory: the folder for both files.
        rows: the leaderboard's rows of this run.
        out_of_fold: candidate -> score of its decoded out-of-fold predictions.
        test: candidate -> score of its submission on the test truth; empty without a test truth.
        quarantined: STUDY, SOP, quarantine (reason), one row per slice that no network saw.
        is_phantom: adds the notice on synthetic data at the top and in the picture.
        settings: resamples and seed of the paired differences.
        folds: (training exams,) the fold of each exam of the out-of-fold scores.
        policy: exams that are not assessable, and what they get.
    """
    promoted = rows.loc[rows["promoted"].astype(str).str.lower() == "true", "candidate"].iloc[0]
    oof, tested = out_of_fold[promoted], test.get(promoted)
    parts = [
        "# Run report",
        *([f"**{SYNTHETIC}**"] if is_phantom else []),
        "## Candidates",
        f"```\n{run_table(rows)}\n```",
        "\n".join(f"- `{title}`: {meaning}" for title, meaning in LEGEND.items()),
        f"## Difference from `{promoted}`",
        f"Every other candidate minus `{promoted}` (95 % by paired bootstrap over exams; metric and parts are losses, "
        "above zero is worse; for an AUC, below zero is worse):",
        _difference_table(promoted, {"out of fold": out_of_fold, "test": test}, settings),
        f"## Labels of `{promoted}`",
        _label_table(oof, tested),
        "## Calibration of P(PE)",
        _calibration_table(oof, tested),
        "The expected calibration error (ECE) of a perfectly calibrated model is above zero too: the null is its mean "
        "at this number of exams, with its 95th percentile.",
        "![reliability](report.png)",
        "## Operating point for PE",
        _operating_table(oof, tested, folds),
        f"The threshold is the highest with a sensitivity of {SENSITIVITY:.0%} for PE: on the other folds for the "
        "out-of-fold row, on all training exams for the test row. Intervals are Wilson intervals; PPV and NPV are for "
        f"a prevalence of {PREVALENCE:.0%}.",
        "## Selective prediction",
        _selective_table(oof, tested, folds),
        "## Exams that are not assessable",
        policy.describe(),
        "## Unreadable slices",
        _quarantine_list(quarantined),
    ]
    write_text(directory / "report.md", "\n\n".join(parts) + "\n")
    _draw(directory / "report.png", oof, tested, SYNTHETIC if is_phantom else "")


def _difference_table(promoted: str, scores: dict[str, dict[str, Score]], settings: SubmissionsSettings) -> str:
    """Every candidate's metric, its parts and the AUCs minus the promoted candidate's, on the same resamples."""
    lines = ["| exams | candidate | metric | exam part | image part | slice AUC | PE AUC |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for exams, scores_by_candidate in scores.items():
        if not scores_by_candidate:
            continue
        best = scores_by_candidate[promoted]
        counts = resample_counts(best.exams, settings.bootstrap, settings.seed)
        for name, other in scores_by_candidate.items():
            if name != promoted:
                cells = map(_signed, differences(other, best, counts).values())
                lines.append(f"| {exams} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(interval: Interval) -> str:
    if not np.isfinite(interval.value):
        return "-"
    return f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def _label_table(out_of_fold: Score, test: Score | None) -> str:
    lines = ["| label | log loss, CV | log loss, test |", "|---|---:|---:|"]
    for label in EXAM_LABELS:
        on_test = f"{test.labels[label]:.4f}" if test else "-"
        lines.append(f"| {LABEL_TITLES[label]} | {out_of_fold.labels[label]:.4f} | {on_test} |")
    on_test = f"{test.image_part:.4f}" if test else "-"
    lines.append(f"| slices (weight q) | {out_of_fold.image_part:.4f} | {on_test} |")
    return "\n".join(lines)


def _calibration_table(out_of_fold: Score, test: Score | None) -> str:
    lines = ["| exams | ECE | null (95th percentile) | Brier score |", "|---|---:|---:|---:|"]
    for name, score in (("out of fold", out_of_fold), ("test", test)):
        if score:
            check = score.calibration
            lines.append(f"| {name} | {check.ece:.4f} | {check.null:.4f} ({check.null_high:.4f}) | {check.brier:.4f} |")
    return "\n".join(lines)


def _operating_table(out_of_fold: Score, test: Score | None, folds: np.ndarray) -> str:
    lines = ["| exams | sensitivity | specificity | PPV | NPV |", "|---|---:|---:|---:|---:|"]
    for name, point in operating_points(out_of_fold, test, folds).items():
        lines.append(f"| {name} | {point.sensitivity} | {point.specificity} | {point.ppv:.3f} | {point.npv:.3f} |")
    return "\n".join(lines)


def _selective_table(out_of_fold: Score, test: Score | None, folds: np.ndarray) -> str:
    """The limits between which exams are deferred, and what they give on exams that did not fix them."""
    scores, positive = out_of_fold.pe_scores, out_of_fold.positive
    promise = f"sensitivity of {SELECTIVE_SENSITIVITY:.0%} among the other exams, with {CONFIDENCE:.0%} confidence"
    deferral = fix_deferral(scores, positive)
    if deferral is None:
        return f"Too few training exams to promise a {promise}."
    results = {"out of fold": cross_fitted_result(scores, positive, folds)}
    results |= {"test": apply_deferral(deferral, test.pe_scores, test.positive)} if test else {}
    lines = ["| exams | deferred | sensitivity of the rest | specificity of the rest | missed |"]
    lines.append("|---|---:|---:|---:|---:|")
    lines += [
        f"| {name} | {result.deferred} | {result.sensitivity} | {result.specificity} | {result.missed} |"
        for name, result in results.items()
        if result
    ]
    text = (
        f"Exams with P(PE) from {deferral.low:.3f} to {deferral.high:.3f} are deferred to a reader: at most "
        f"{DEFERRED:.0%} of the exams, and a {promise}. The limits were fixed on all out-of-fold exams "
        f"({deferral.missed} of {deferral.answered} answered exams with PE missed: one-sided Clopper-Pearson bound "
        f"{deferral.miss_bound:.1%}; deferred share at most {deferral.deferred_bound:.1%}), by fixed-sequence testing. "
        "The promise holds for exams like the training exams. The out-of-fold row uses, for each fold, limits that the "
        "other folds fixed; intervals are Wilson intervals."
    )
    return "\n".join([*lines, "", text])


def _quarantine_list(quarantined: pd.DataFrame) -> str:
    if quarantined.empty:
        return "None. Every slice was read."
    reasons = quarantined["quarantine"].value_counts()
    lines = [f"Slices with a prior instead of a prediction: {len(quarantined)}", ""]
    lines += [f"- {count} x {reason}" for reason, count in reasons.items()]
    lines += ["", "| exam | slice | reason |", "|---|---|---|"]
    shown = quarantined.sort_values([STUDY, SOP]).head(LISTED)
    lines += [f"| {row[STUDY]} | {row[SOP]} | {row['quarantine']} |" for row in shown.to_dict("records")]
    if len(quarantined) > LISTED:
        lines.append(f"\n... and {len(quarantined) - LISTED} more.")
    return "\n".join(lines)


def _draw(path: Path, out_of_fold: Score, test: Score | None, notice: str) -> None:
    # Figure works without a display and without the global state of pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", dpi=110)
    reliability, losses = figure.subplots(1, 2)
    reliability.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, score in (("out of fold", out_of_fold), ("test", test)):
        if score:
            _reliability_curve(reliability, name, score.calibration)
    reliability.set(
        xlabel="predicted P(PE)", ylabel="share of exams with PE", title="Reliability", xlim=(0, 1), ylim=(0, 1)
    )
    reliability.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    rows = np.arange(len(EXAM_LABELS))
    for shift, name, score in ((-0.2, "out of fold", out_of_fold), (0.2, "test", test)):
        if score:
            losses.barh(rows + shift, [score.labels[label] for label in EXAM_LABELS], 0.4, label=name)
    losses.set_yticks(rows, [LABEL_TITLES[label] for label in EXAM_LABELS])
    losses.invert_yaxis()
    losses.set(xlabel="log loss", title="Exam labels")
    losses.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    if notice:
        figure.supxlabel(notice, fontsize=8, color="0.35")
    with atomic_path(path) as temporary:
        # Without the version of Matplotlib in the file, equal figures give equal bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _reliability_curve(axes: Any, name: str, check: Calibration) -> None:
    label = f"{name} (ECE {check.ece:.3f}, null {check.null:.3f})"
    axes.plot(check.predicted, check.observed, "o-", markersize=4, label=label)
