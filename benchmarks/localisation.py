"""Do the places that are told hold clots? On the drawn test exams of a finished run, whose clots are known.

    python -m benchmarks.localisation                        the run under $PE_ROOT (or the checkout)
    python -m benchmarks.localisation --no-points            slices only: no network runs, seconds

`inference.findings` names up to five places an exam, likeliest first. Told over exams with PE, with 95 % intervals of
resampled exams:
    slice      one of the first k places has a key slice with visible clot
    point      ... and its point lies within 15 mm of clot in that slice
Beside it what ignores the exam's pixels would reach: the key slices of the candidate that knows only z (z alone), and
another exam's points on these slices (other exam). Then, over all exams, for places told from a probability on: the
share of exams with PE in which one of them hits, and false places an exam, with and without PE. Last, how often the
likeliest place's side is right where clots lie on one side only, over all such exams and over those whose key slice
shows clot. Synthetic data.
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
from inference.findings import Location, locate_exams, with_points
from inference.side_calibration import fit_sides, opinions
from input.contest import LEFT, RIGHT, SLICE_LABEL, SOP, STUDY
from input.phantom.synthetic_contest import read_masks
from input.tables import load_slices
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.settings import Settings
from submissions.bootstrap_intervals import Interval, ratio_interval, resample_counts
from submissions.finished_run import read_candidates, truth_path
from submissions.leaderboard import aligned
from submissions.score import read_truth

NEAR_MM = 15.0
FIRST = (1, 3)
TOLD = (0.1, 0.3, 0.5)
RESAMPLES = 1000


def located(settings: Settings, candidate: str, points: bool) -> dict[str, list[Location]]:
    """The places of every test exam as a candidate sees them."""
    exams, slices = decode(*read_candidates(paths.ensemble_run()).predictions(candidate, "test"))
    geometry = load_slices()
    slices = slices.merge(geometry[[SOP, "z_mm"]], on=SOP)
    folds = range(settings.input.folds)
    tables = read_networks(settings.models.networks, folds, "test")
    said = opinions(table for network in tables.values() for table in network.values())
    found = locate_exams(exams, slices, said, fit_sides(settings), read_measured(paths.store()).slices)
    if points:
        found, _ = with_points(settings, paths.store(), found, dict.fromkeys(found, tuple(folds)))
    return found


def judged(settings: Settings, found: dict[str, list[Location]]) -> pd.DataFrame:
    """A row a place: study, rank, probability, `slice`, `point`, `foreign` (0/1: does it hit?), side."""
    truth = read_truth(truth_path(settings))
    visible = truth.slices.set_index(SOP)[SLICE_LABEL]
    studies, rows = list(found), []
    for index, study in enumerate(progress(studies, what="clots", unit="exam")):
        other = found[studies[(index + 1) % len(studies)]]
        with_point = any(place.point for place in found[study]) and visible[[p.sop for p in found[study]]].any()
        clots = _clots(settings, study) if with_point else None
        for rank, place in enumerate(found[study], 1):
            hit = bool(visible[place.sop])
            row = {STUDY: study, "rank": rank, "probability": place.probability, "slice": hit}
            row["side"] = "left" if place.left > place.right else "right"
            row["point side"] = "" if place.point is None else "left" if place.point_left_mm > 0 else "right"
            row["point"] = row["foreign"] = False
            if hit and clots:
                exam, distance_mm = clots[0], clots[1](place.sop)
                foreign = other[min(rank, len(other)) - 1]
                row["point"] = _near(distance_mm, place.point)
                row["foreign"] = _near(distance_mm, _moved(foreign, exam))
            rows.append(row)
    return pd.DataFrame(rows)


def _clots(settings: Settings, study: str) -> tuple:
    """The stored exam, and SOP -> distance (y, x) in mm from clot in that slice."""
    exam = open_exam(paths.store(), study)
    sops = read_json(settings.data_root / "truth" / "exams" / f"{study}.json")["sops"]
    mask = read_masks(settings.data_root, study)[0] > 0

    def distance_mm(sop: str) -> np.ndarray:
        clot = stored_mask(mask[[sops.index(sop)]], exam)[0]
        return ndimage.distance_transform_edt(~clot, exam.spacing_mm) if clot.any() else np.full(clot.shape, np.inf)

    return exam, distance_mm


def _near(distance_mm: np.ndarray, point: tuple[float, float] | None) -> bool:
    if point is None:
        return False
    y, x = (int(np.clip(round(each), 0, size - 1)) for each, size in zip(point, distance_mm.shape, strict=True))
    return bool(distance_mm[y, x] <= NEAR_MM)


def _moved(place: Location, exam: StoredExam) -> tuple[float, float] | None:
    """Another exam's point, as far from the patient's middle and from the box's front, on this exam."""
    if place.point is None:
        return None
    return place.point[0], exam.middle_column - 0.5 + place.point_left_mm / exam.spacing_mm[1]


def hit_rows(table: pd.DataFrame, alone: pd.DataFrame, positive: np.ndarray, counts: np.ndarray) -> list[list[str]]:
    """Rows of text: question, k, share of exams with PE, and the same without this exam's pixels."""
    rows = []
    for question, baseline, name, other in (
        ("slice", alone, "slice", "z alone"), ("point", table, "foreign", "other exam"),
    ):  # fmt: skip
        for k in FIRST:
            ours = _any_of_first(table, question, k).reindex(positive, fill_value=False)
            theirs = _any_of_first(baseline, name, k).reindex(positive, fill_value=False)
            cells = [_share(each, counts) for each in (ours, theirs)]
            rows.append([question, str(k), *cells, other])
    return rows


def _any_of_first(table: pd.DataFrame, question: str, k: int) -> pd.Series:
    return table[table["rank"] <= k].groupby(STUDY)[question].any()


def _share(values: pd.Series, counts: np.ndarray) -> str:
    return shown(ratio_interval(values.to_numpy(float), np.ones(len(values)), counts))


def shown(each: Interval) -> str:
    """An interval with three digits."""
    return f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})"


def told_rows(table: pd.DataFrame, positive: np.ndarray, studies: np.ndarray, question: str) -> list[list[str]]:
    """Rows of text: threshold, exams with PE that are hit, false places an exam, the same without PE."""
    rows = []
    negative = np.setdiff1d(studies, positive)
    for threshold in TOLD:
        told = table[table["probability"] >= threshold]
        hit = told.groupby(STUDY)[question].any()
        false = (~told[question].astype(bool)).groupby(told[STUDY]).sum()
        cells = []
        for series, some in ((hit, positive), (false, studies), (false, negative)):
            values = series.astype(float).reindex(some, fill_value=0)
            cells.append(_share(values, resample_counts(len(some), RESAMPLES, 0)))
        rows.append([question, f"{threshold:g}", *cells])
    return rows


def side_rows(table: pd.DataFrame, settings: Settings) -> list[list[str]]:
    """Rows of text: how often the likeliest place's side is that of the exam's clots, where they lie on one side: of
    all such exams that have a place, and of those whose key slice shows clot."""
    exams = read_truth(truth_path(settings)).exams.set_index(STUDY)
    one = exams[(exams[LEFT] + exams[RIGHT]) == 1]
    likeliest = table[(table["rank"] == 1) & table[STUDY].isin(one.index)].set_index(STUDY)
    rows = []
    for which, first in (("all", likeliest), ("key slice shows clot", likeliest[likeliest["slice"].astype(bool)])):
        wanted = np.where(one.loc[first.index, LEFT] == 1, "left", "right")
        for name, column in (("networks' opinion", "side"), ("point", "point side")):
            right = pd.Series(first[column].to_numpy() == wanted)
            if len(right) and (first[column] != "").any():
                share = _share(right, resample_counts(len(right), RESAMPLES, 0))
                rows.append([f"{name}, {which}", str(len(right)), share])
    return rows


def main() -> None:
    """Locate, judge, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings_arguments(parser)
    parser.add_argument("--candidate", help="whose predictions (the promoted one's)")
    parser.add_argument("--no-points", action="store_true", help="slices only")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    if not settings.is_phantom:
        raise UserError("benchmarks.localisation needs the drawn contest: only there the clots are known")
    started = time.monotonic()
    candidate = arguments.candidate or read_candidates(paths.ensemble_run()).promoted
    table = judged(settings, located(settings, candidate, not arguments.no_points))
    alone = judged(settings, located(settings, Z_ONLY, False))
    truth = read_truth(truth_path(settings))
    positive = truth.slices.groupby(STUDY)[SLICE_LABEL].max()
    studies, positive = positive.index.to_numpy(), positive.index[positive > 0].to_numpy()
    counts = resample_counts(len(positive), RESAMPLES, 0)
    say(f"{len(positive)} exams with PE of {len(studies)}, places by {candidate}; synthetic exams\n")
    rows = hit_rows(table, alone, positive, counts)
    questions = ["slice"] if arguments.no_points else ["slice", "point"]
    rows = [row for row in rows if row[0] in questions]
    say(aligned(["hit", "first k", "exams with PE", "without its pixels", "which is"], rows))
    say("")
    told = [row for question in questions for row in told_rows(table, positive, studies, question)]
    say(aligned(["hit", "told from", "exams with PE hit", "false places an exam", "an exam without PE"], told))
    say("")
    say(aligned(["side of the likeliest place", "exams", "right"], side_rows(table, settings)))
    say(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run(main)
