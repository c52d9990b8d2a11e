"""report.md and report.png: what a run reached, label by label, and what it could not read."""

from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, SOP, STUDY
from pipeline.files import atomic_path, write_text
from pipeline.settings import SubmissionsSettings
from submissions.bootstrap_intervals import Interval, resample_counts
from submissions.calibration import Calibration
from submissions.leaderboard import run_table
from submissions.operating_points import PREVALENCE, SENSITIVITY, operating_points
from submissions.score import Score, differences

SYNTHETIC = "Synthetic data: these exams are drawn phantoms. The figures prove the pipeline, not clinical skill."
COLUMNS_EXPLAINED = """CV is the contest's metric of decoded out-of-fold predictions (lower is better), its interval a
bootstrap over exams. exam and image are the weighted log losses of its two parts; slice AUC is over the slices of
exams with PE, PE AUC over exams with the score 1 - P(negative) - P(indeterminate); price is what obeying the
consistency rules added. Where there is a test truth, the second table holds the same figures of the submissions on
it. `*` marks the candidate in submission.csv."""
#: Quarantined files that the report lists one by one.
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
) -> None:
    """Write report.md and report.png.

    Args:
        directory: where they go.
        rows: the leaderboard's rows of this run.
        out_of_fold: candidate -> score of its decoded out-of-fold predictions.
        test: candidate -> score of its submission on the test truth; empty where there is none.
        quarantined: STUDY, SOP, quarantine (reason), one row a slice that no network saw.
        is_phantom: puts the notice on synthetic data at the top and into the picture.
        settings: resamples and seed of the paired differences.
        folds: (training exams,) the fold of each exam of the out-of-fold scores.
    """
    promoted = rows.loc[rows["promoted"].astype(str).str.lower() == "true", "candidate"].iloc[0]
    oof, tested = out_of_fold[promoted], test.get(promoted)
    parts = [
        "# Report of a run",
        *([f"**{SYNTHETIC}**"] if is_phantom else []),
        "## Candidates",
        f"```\n{run_table(rows)}\n```",
        COLUMNS_EXPLAINED,
        f"## Against `{promoted}`",
        f"What each other candidate has more than `{promoted}` (95 % by paired bootstrap over exams; metric and parts "
        "are losses, above zero is worse; of an AUC, below zero is worse):",
        _difference_table(promoted, {"out of fold": out_of_fold, "test": test}, settings),
        f"## Labels of `{promoted}`",
        _label_table(oof, tested),
        "## Calibration of P(PE)",
        _calibration_table(oof, tested),
        "A perfectly calibrated model has an expected calibration error (ECE) above zero too: the null is its mean at "
        "this number of exams, with its 95th percentile.",
        "![reliability](report.png)",
        "## An operating point for PE",
        _operating_table(oof, tested, folds),
        f"The threshold is the highest that finds {SENSITIVITY:.0%} of the exams with PE: on the other folds for the "
        "out-of-fold row, on all training exams for the test row. Intervals are Wilson's; PPV and NPV hold at a "
        f"prevalence of {PREVALENCE:.0%}.",
        "## Unreadable slices",
        _quarantine_list(quarantined),
    ]
    write_text(directory / "report.md", "\n\n".join(parts) + "\n")
    _draw(directory / "report.png", oof, tested, SYNTHETIC if is_phantom else "")


def _difference_table(promoted: str, scores: dict[str, dict[str, Score]], settings: SubmissionsSettings) -> str:
    """Every candidate's metric, its parts and the AUCs minus the promoted one's, on the same resampled exams."""
    lines = ["| exams | candidate | metric | exam part | image part | slice AUC | PE AUC |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for exams, found in scores.items():
        if not found:
            continue
        best = found[promoted]
        counts = resample_counts(best.exams, settings.bootstrap, settings.seed)
        for name, other in found.items():
            if name != promoted:
                cells = map(_signed, differences(other, best, counts).values())
                lines.append(f"| {exams} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(found: Interval) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})" if np.isfinite(found.value) else "-"


def _label_table(out_of_fold: Score, test: Score | None) -> str:
    lines = ["| label | log loss, CV | log loss, test |", "|---|---:|---:|"]
    for label in EXAM_LABELS:
        lines.append(f"| {label} | {out_of_fold.labels[label]:.4f} | {f'{test.labels[label]:.4f}' if test else '-'} |")
    lines.append(f"| slices (weight q) | {out_of_fold.image_part:.4f} | {f'{test.image_part:.4f}' if test else '-'} |")
    return "\n".join(lines)


def _calibration_table(out_of_fold: Score, test: Score | None) -> str:
    lines = ["| exams | ECE | null (95th percentile) | Brier score |", "|---|---:|---:|---:|"]
    for name, score in (("out of fold", out_of_fold), ("test", test)):
        if score:
            found = score.calibration
            lines.append(f"| {name} | {found.ece:.4f} | {found.null:.4f} ({found.null_high:.4f}) | {found.brier:.4f} |")
    return "\n".join(lines)


def _operating_table(out_of_fold: Score, test: Score | None, folds: np.ndarray) -> str:
    lines = ["| exams | sensitivity | specificity | PPV | NPV |", "|---|---:|---:|---:|---:|"]
    for name, each in operating_points(out_of_fold, test, folds).items():
        lines.append(f"| {name} | {each.sensitivity} | {each.specificity} | {each.ppv:.3f} | {each.npv:.3f} |")
    return "\n".join(lines)


def _quarantine_list(quarantined: pd.DataFrame) -> str:
    if quarantined.empty:
        return "None: every slice was read."
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
    # The figure class alone draws without a display and without pyplot's global state.
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
    places = np.arange(len(EXAM_LABELS))
    for shift, name, score in ((-0.2, "out of fold", out_of_fold), (0.2, "test", test)):
        if score:
            losses.barh(places + shift, [score.labels[label] for label in EXAM_LABELS], 0.4, label=name)
    losses.set_yticks(places, EXAM_LABELS)
    losses.invert_yaxis()
    losses.set(xlabel="log loss", title="Exam labels")
    losses.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    if notice:
        figure.supxlabel(notice, fontsize=8, color="0.35")
    with atomic_path(path) as temporary:
        # Without the version text the same figures give the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _reliability_curve(axes: object, name: str, found: Calibration) -> None:
    axes.plot(
        found.predicted,
        found.observed,
        "o-",
        markersize=4,
        label=f"{name} (ECE {found.ece:.3f}, null {found.null:.3f})",
    )
