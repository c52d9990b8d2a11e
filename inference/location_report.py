"""The location report of a finished run: location.json, and its figures as text."""

from typing import Any

import numpy as np
import pandas as pd

from ensemble.candidates import Z_ONLY
from ensemble.decode import decode
from ensemble.predictions import read_measured
from inference.clot_maps import run_clot_maps
from inference.finding_text import REPORT_THRESHOLD
from inference.findings import locate_findings
from inference.location_metrics import NEAR_MM, SENSITIVITIES, compare_with_masks, label_aucs, location_summary
from input.contest import SOP, STUDY
from input.tables import load_slices
from pipeline import paths
from pipeline.settings import Settings
from submissions.bootstrap_intervals import Interval
from submissions.finished_run import Candidates, known_test_truth
from submissions.text_table import text_table

#: File beside the evidence report.
LOCATION = "location.json"


def measure_location(settings: Settings, candidates: Candidates, candidate: str) -> dict[str, Any]:
    """Measure where the findings of a candidate lie on the test exams.

    Args:
        settings: of the finished run.
        candidates: the finished ensemble.
        candidate: whose slice and exam probabilities rank the findings.

    Returns:
        JSON values; empty if the truth of the test exams is not known.
    """
    truth = known_test_truth(settings)
    if truth is None:
        return {}
    exams, slices = decode(*candidates.predictions(candidate, "test"))
    slices = slices.merge(load_slices()[[SOP, "z_mm"]], on=SOP)
    studies = exams[STUDY].tolist()
    maps = run_clot_maps(settings, studies, dict.fromkeys(studies, range(settings.input.folds)), role="test")
    findings = locate_findings(exams, slices, maps, read_measured(paths.store()).slices)
    summary = location_summary(compare_with_masks(settings, findings, maps))
    names = [name for name in (candidate, Z_ONLY) if name in candidates.names]
    predictions = {name: candidates.predictions(name, "test")[0] for name in names}
    aucs = label_aucs(truth.exams, predictions)
    summary["candidate"] = candidate
    summary["auc_among_exams_with_pe"] = [
        {**row, **{name: _as_list(row[name]) for name in ("auc", "auc_unconditional")}}
        for row in aucs.to_dict("records")
    ]
    return summary


def _as_list(auc: Interval) -> list[float] | None:
    """Value, low and high; None where a label has one class only."""
    return [auc.value, auc.low, auc.high] if np.isfinite(auc.value) else None


def describe_location(summary: dict[str, Any]) -> str:
    """Describe the figures as text, with an explanation of each."""
    if "auc_among_exams_with_pe" not in summary:
        return "location: not measured, the clots of the test exams are not known"
    aucs = pd.DataFrame(summary["auc_among_exams_with_pe"])
    rows = [
        [
            row["label"],
            row["candidate"],
            str(row["positive"]),
            _interval(row["auc"]),
            _interval(row["auc_unconditional"]),
        ]
        for row in aucs.to_dict("records")
    ]
    lines = [
        "Location, test exams with PE only:",
        text_table(["label", "candidate", "positive", "AUC given PE (95 %)", "AUC (95 %)"], rows),
        "",
        "  AUC given PE  ranks these exams by P(label) / P(PE), so that detecting PE does not count",
        "  AUC           ranks them by P(label), as the submission has it",
    ]
    if "first_finding_distance_mm_median" in summary:
        lines += ["", text_table(["findings on the clot maps", "value"], _finding_rows(summary))]
    return "\n".join(lines)


def _finding_rows(summary: dict[str, Any]) -> list[list[str]]:
    hits = {
        "first finding: key slice shows clot": "first_finding_key_slice_on_clot",
        f"first finding: point within {NEAR_MM:g} mm of clot": "first_finding_point_within_15_mm",
    }
    rows = [
        [title, _interval([summary[name][key] for key in ("value", "low", "high")])] for title, name in hits.items()
    ]
    rows.append(["first finding: median distance from clot, mm", f"{summary['first_finding_distance_mm_median']:.1f}"])
    for sensitivity in SENSITIVITIES:
        value = summary[f"false_findings_per_exam_at_sensitivity_{sensitivity:g}"]
        shown = "not reached" if value is None else f"{value:.2f}"
        rows.append([f"false findings per exam at a lesion sensitivity of {sensitivity:g}", shown])
    for group in summary["lesions_found_by_volume"]:
        size = (
            f"{group['from_ml']:g} ml or more"
            if group["below_ml"] is None
            else f"{group['from_ml']:g} to {group['below_ml']:g} ml"
        )
        title = f"lesions of {size}: share with a finding of probability {REPORT_THRESHOLD:g} or more"
        rows.append([title, f"{group['found']:.2f} of {group['lesions']}"])
    rows.append(["highest lesion sensitivity", f"{summary['highest_sensitivity']:.2f}"])
    if "volume_rank_correlation" in summary:
        rows.append(["clot volume: rank correlation with the truth", f"{summary['volume_rank_correlation']:.2f}"])
        rows.append(["clot volume: median error, ml", f"{summary['volume_error_ml_median']:.2f}"])
        rows.append(["clot volume: median of measured / true", f"{summary['volume_ratio_median']:.2f}"])
    if "occluded_share_rank_correlation" in summary:
        title = "occluded share of a lung's arteries"
        rows.append([f"{title}: lungs with clot", str(summary["occluded_share_lungs"])])
        rows.append([f"{title}: rank correlation", f"{summary['occluded_share_rank_correlation']:.2f}"])
        for name in ("median error", "median bias", "mean bias"):
            value = summary[f"occluded_share_{name.replace(' ', '_')}"]
            rows.append([f"{title}: {name}, percentage points", f"{100 * value:.1f}"])
        limit = 100 * summary["occluded_share_without_clot_p90"]
        rows.append([f"{title}: 90th percentile in lungs without clot, %", f"{limit:.1f}"])
    return rows


def _interval(values: list[float] | None) -> str:
    """A value with its interval; a label that all exams, or none, carry has no AUC."""
    if values is None:
        return "undefined"
    value, low, high = values
    return f"{value:.3f} ({low:.3f}-{high:.3f})"
