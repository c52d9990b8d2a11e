"""Accuracy of the reported findings, on the synthetic test exams of a finished run, whose clots are known.

    ./run.sh bench localisation                        the run under $PE_ROOT (or the checkout)
    ./run.sh bench localisation --no-points            slices only: no network runs, takes seconds

`inference.findings` reports up to five findings per exam, most probable first. Over exams with PE, with 95 % bootstrap
intervals over exams:
    slice      share of exams in which one of the first k findings has a key slice with visible clot
    point      ... and a key point within 15 mm of clot in that slice
Baselines that ignore the exam's pixels: the key slices of the candidate that uses only z (z alone), and the key points
of another exam on these slices (other exam). Then, for findings above a probability threshold: the share of exams with
PE with at least one hit, and false findings per exam, over all exams and over exams without PE. Last, how often the
side of the most probable finding is correct where clots are on one side only, over all such exams and over those whose
key slice shows clot. Synthetic data.
"""

import argparse
import time

import numpy as np
import pandas as pd
from scipy import ndimage

from benchmarks.activation import stored_mask
from ensemble.candidates import Z_ONLY
from ensemble.decode import decode
from ensemble.predictions import read_measured, read_networks
from features.store import StoredExam, open_exam
from inference.findings import Finding, locate_findings
from inference.key_points import add_key_points
from inference.side_calibration import fit_side_calibration, side_logits
from input.contest import LEFT, RIGHT, SLICE_LABEL, SOP, STUDY
from input.phantom.synthetic_contest import read_masks
from input.tables import load_slices
from models.network_names import network_names
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.settings import Settings
from submissions.bootstrap_intervals import Interval, ratio_interval, resample_counts
from submissions.finished_run import read_candidates, truth_path
from submissions.score import read_truth
from submissions.text_table import text_table

NEAR_MM = 15.0
FIRST = (1, 3)
THRESHOLDS = (0.1, 0.3, 0.5)
RESAMPLES = 1000


def findings_by_exam(settings: Settings, candidate: str, points: bool) -> dict[str, list[Finding]]:
    """Locate the findings of every test exam.

    Args:
        settings: of the finished run.
        candidate: the candidate whose predictions are used.
        points: add key points, which runs the networks.

    Returns:
        StudyInstanceUID -> findings, most probable first.
    """
    exams, slices = decode(*read_candidates(paths.ensemble_run()).predictions(candidate, "test"))
    geometry = load_slices()
    slices = slices.merge(geometry[[SOP, "z_mm"]], on=SOP)
    folds = range(settings.input.folds)
    tables = read_networks(network_names(settings.models), folds, "test")
    sides = side_logits(table for network in tables.values() for table in network.values())
    calibration, measured = fit_side_calibration(settings), read_measured(paths.store()).slices
    findings = locate_findings(exams, slices, sides, calibration, measured)
    if points:
        findings, _ = add_key_points(settings, paths.store(), findings, dict.fromkeys(findings, tuple(folds)))
    return findings


def compare_with_truth(settings: Settings, findings: dict[str, list[Finding]]) -> pd.DataFrame:
    """Compare findings with the ground truth.

    Args:
        settings: of the finished run.
        findings: StudyInstanceUID -> findings.

    Returns:
        One row per finding: study, rank, probability, the hits `slice`, `point` and `other exam` (bool), `side` and
        `point side`.
    """
    truth = read_truth(truth_path(settings))
    visible = truth.slices.set_index(SOP)[SLICE_LABEL]
    studies, rows = list(findings), []
    for index, study in enumerate(progress(studies, desc="clots", unit="exam")):
        own, other = findings[study], findings[studies[(index + 1) % len(studies)]]
        with_point = any(finding.point for finding in own) and visible[[finding.sop for finding in own]].any()
        clots = _clots(settings, study) if with_point else None
        for rank, finding in enumerate(own, 1):
            hit = bool(visible[finding.sop])
            row = {STUDY: study, "rank": rank, "probability": finding.probability, "slice": hit}
            row["side"] = "left" if finding.left > finding.right else "right"
            row["point side"] = "" if finding.point is None else "left" if finding.point_left_mm > 0 else "right"
            row["point"] = row["other exam"] = False
            if hit and clots:
                exam, distance_mm = clots[0], clots[1](finding.sop)
                foreign = other[min(rank, len(other)) - 1]
                row["point"] = _is_near(distance_mm, finding.point)
                row["other exam"] = _is_near(distance_mm, _moved(foreign, exam))
            rows.append(row)
    return pd.DataFrame(rows)


def _clots(settings: Settings, study: str) -> tuple:
    """The stored exam, and a function from SOP to the distance (y, x) in mm from clot in that slice."""
    exam = open_exam(paths.store(), study)
    sops = read_json(settings.data_root / "truth" / "exams" / f"{study}.json")["sops"]
    mask = read_masks(settings.data_root, study)[0] > 0

    def distance_mm(sop: str) -> np.ndarray:
        clot = stored_mask(mask[[sops.index(sop)]], exam)[0]
        return ndimage.distance_transform_edt(~clot, exam.spacing_mm) if clot.any() else np.full(clot.shape, np.inf)

    return exam, distance_mm


def _is_near(distance_mm: np.ndarray, point: tuple[float, float] | None) -> bool:
    if point is None:
        return False
    y, x = (int(np.clip(round(index), 0, size - 1)) for index, size in zip(point, distance_mm.shape, strict=True))
    return bool(distance_mm[y, x] <= NEAR_MM)


def _moved(finding: Finding, exam: StoredExam) -> tuple[float, float] | None:
    """Another exam's key point on this exam, at the same distance from the midline and from the box's front."""
    if finding.point is None:
        return None
    return finding.point[0], exam.middle_column - 0.5 + finding.point_left_mm / exam.spacing_mm[1]


def hit_rows(table: pd.DataFrame, alone: pd.DataFrame, positive: np.ndarray, counts: np.ndarray) -> list[list[str]]:
    """Format the shares of exams with a hit among the first k findings.

    Args:
        table: from `compare_with_truth`.
        alone: the same for the candidate that uses only z.
        positive: UIDs of exams with PE.
        counts: (resamples, exams with PE) multiplicity of each exam.

    Returns:
        Rows of text: kind of hit, k, share, share of the baseline, name of the baseline.
    """
    rows = []
    for kind, baseline_table, column, baseline in (
        ("slice", alone, "slice", "z alone"), ("point", table, "other exam", "other exam"),
    ):  # fmt: skip
        for k in FIRST:
            hits = _any_of_first(table, kind, k).reindex(positive, fill_value=False)
            baseline_hits = _any_of_first(baseline_table, column, k).reindex(positive, fill_value=False)
            rows.append([kind, str(k), _share(hits, counts), _share(baseline_hits, counts), baseline])
    return rows


def _any_of_first(table: pd.DataFrame, kind: str, k: int) -> pd.Series:
    return table[table["rank"] <= k].groupby(STUDY)[kind].any()


def _share(values: pd.Series, counts: np.ndarray) -> str:
    return format_interval(ratio_interval(values.to_numpy(float), np.ones(len(values)), counts))


def format_interval(interval: Interval) -> str:
    """Format an interval with three decimals."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def threshold_rows(table: pd.DataFrame, positive: np.ndarray, studies: np.ndarray, kind: str) -> list[list[str]]:
    """Format hits and false findings above probability thresholds.

    Args:
        table: from `compare_with_truth`.
        positive: UIDs of exams with PE.
        studies: UIDs of all exams.
        kind: of hit: slice or point.

    Returns:
        Rows of text: kind, threshold, share of exams with PE with a hit, false findings per exam, the same over exams
        without PE.
    """
    rows = []
    negative = np.setdiff1d(studies, positive)
    for threshold in THRESHOLDS:
        reported = table[table["probability"] >= threshold]
        hit = reported.groupby(STUDY)[kind].any()
        false = (~reported[kind].astype(bool)).groupby(reported[STUDY]).sum()
        cells = []
        for series, exams in ((hit, positive), (false, studies), (false, negative)):
            values = series.astype(float).reindex(exams, fill_value=0)
            cells.append(_share(values, resample_counts(len(exams), RESAMPLES, 0)))
        rows.append([kind, f"{threshold:g}", *cells])
    return rows


def side_rows(table: pd.DataFrame, settings: Settings) -> list[list[str]]:
    """Format how often the side of the most probable finding is that of the exam's clots, where they are on one side.

    Args:
        table: from `compare_with_truth`.
        settings: of the finished run.

    Returns:
        Rows of text, for all such exams with a finding and for those whose key slice shows clot: source of the side,
        exams, share.
    """
    exams = read_truth(truth_path(settings)).exams.set_index(STUDY)
    one_sided = exams[(exams[LEFT] + exams[RIGHT]) == 1]
    first = table[(table["rank"] == 1) & table[STUDY].isin(one_sided.index)].set_index(STUDY)
    rows = []
    for group, members in (("all", first), ("key slice shows clot", first[first["slice"].astype(bool)])):
        true_side = np.where(one_sided.loc[members.index, LEFT] == 1, "left", "right")
        for name, column in (("networks", "side"), ("key point", "point side")):
            correct = pd.Series(members[column].to_numpy() == true_side)
            if len(correct) and (members[column] != "").any():
                share = _share(correct, resample_counts(len(correct), RESAMPLES, 0))
                rows.append([f"{name}, {group}", str(len(correct)), share])
    return rows


def main() -> None:
    """Locate the findings, compare them with the ground truth, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench localisation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings_arguments(parser)
    parser.add_argument("--candidate", help="the candidate whose predictions are used (the promoted one)")
    parser.add_argument("--no-points", action="store_true", help="slices only")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    if not settings.is_phantom:
        raise UserError(
            "The clots are unknown: --data. Expected the synthetic contest, got another tree. Run without --data."
        )
    started = time.monotonic()
    candidate = arguments.candidate or read_candidates(paths.ensemble_run()).promoted
    table = compare_with_truth(settings, findings_by_exam(settings, candidate, not arguments.no_points))
    alone = compare_with_truth(settings, findings_by_exam(settings, Z_ONLY, False))
    truth = read_truth(truth_path(settings))
    positive = truth.slices.groupby(STUDY)[SLICE_LABEL].max()
    studies, positive = positive.index.to_numpy(), positive.index[positive > 0].to_numpy()
    counts = resample_counts(len(positive), RESAMPLES, 0)
    say(f"{len(positive)} exams with PE of {len(studies)}, findings of {candidate}; synthetic exams\n")
    rows = hit_rows(table, alone, positive, counts)
    kinds = ["slice"] if arguments.no_points else ["slice", "point"]
    rows = [row for row in rows if row[0] in kinds]
    say(text_table(["hit", "first k", "exams with PE", "baseline", "which is"], rows))
    say("")
    rows = [row for kind in kinds for row in threshold_rows(table, positive, studies, kind)]
    header = ["hit", "threshold", "exams with PE hit", "false findings per exam", "per exam without PE"]
    say(text_table(header, rows))
    say("")
    say(text_table(["side of the most probable finding", "exams", "correct"], side_rows(table, settings)))
    say(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run(main)
