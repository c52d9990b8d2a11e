"""How well the findings locate PE, measured on test exams whose clots are known.

Lesions are the connected clots of an exam. A finding is true if its key point lies within NEAR_MM of clot, and detects
the lesions within NEAR_MM of it. Everything about location is measured among exams with PE, so that detecting PE does
not look like locating it; false findings are counted over all exams.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from features.clot_masks import mask_on_store
from features.store import StoredExam, is_stored, open_exam
from inference.clot_maps import ClotMap
from inference.finding_text import REPORT_THRESHOLD
from inference.findings import Finding
from inference.lung_vessels import UNKNOWN
from inference.occluded_share_metrics import occluded_summary, true_occluded_shares
from input.clot_masks import MASKS, find_masks, read_arteries, read_mask
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, LEFT, RIGHT, STUDY
from input.tables import verify_generated
from pipeline import paths
from pipeline.console import progress
from pipeline.settings import Settings
from submissions.bootstrap_intervals import RankedScores, ratio_interval, resample_counts
from submissions.score import pe_score

#: A key point this near to clot is a hit, mm.
NEAR_MM = 15.0
#: Bounds of the classes of lesion volume, ml, in which sensitivity is reported.
LESION_ML = (0.4, 0.8)
#: Lesion sensitivities at which false findings per exam are reported.
SENSITIVITIES = (0.7, 0.85)
RESAMPLES, SEED = 1000, 0
#: Title of each location label, and the contest labels whose sum it is.
LOCATION_LABELS = {
    "Left-sided PE": (LEFT,),
    "Right-sided PE": (RIGHT,),
    "Central PE": (CENTRAL,),
    "Chronic PE (alone or with acute)": (CHRONIC, ACUTE_AND_CHRONIC),
}


@dataclasses.dataclass(frozen=True)
class ExamLocation:
    """What the findings of one exam hit.

    Attributes:
        study: StudyInstanceUID.
        lesions: number of lesions.
        scores: (findings,) probability of each finding, likeliest first.
        distance_mm: (findings,) distance of each key point from clot; infinite without clot.
        detected: for each finding, the lesions that it detects.
        first_on_clot: the first finding's key slice shows clot.
        volume_ml, true_volume_ml: expected and true clot volume.
        lesion_ml: (lesions,) true volume of each lesion, NaN where lengths are unknown; lesion i is number i + 1 in
            `detected`.
        occluded, true_occluded: estimated and true share of the arteries in the left and the right lung that clot
            occludes; NaN where unknown.
    """

    study: str
    lesions: int
    scores: np.ndarray
    distance_mm: np.ndarray
    detected: tuple[frozenset[int], ...]
    first_on_clot: bool
    volume_ml: float
    true_volume_ml: float
    lesion_ml: np.ndarray
    occluded: tuple[float, float] = UNKNOWN
    true_occluded: tuple[float, float] = UNKNOWN

    def found(self, threshold: float) -> np.ndarray:
        """(lesions,) whether a finding of at least this probability detects the lesion."""
        likely = [lesions for score, lesions in zip(self.scores, self.detected, strict=True) if score >= threshold]
        return np.isin(np.arange(1, self.lesions + 1), list(frozenset[int]().union(*likely)))


def compare_with_masks(
    settings: Settings, findings: Mapping[str, Sequence[Finding]], maps: Mapping[str, ClotMap]
) -> list[ExamLocation]:
    """Compare findings with the clot masks of the contest tree; exams without a mask are left out.

    Args:
        settings: of the finished run.
        findings: StudyInstanceUID -> findings, likeliest first.
        maps: StudyInstanceUID -> clot map.
    """
    verify_generated(settings, MASKS)
    files = find_masks(settings.data_root)
    exams = []
    for study in progress(sorted(set(findings) & set(files)), desc="location", unit="exam"):
        if study in maps and is_stored(paths.store(), study):
            exam = open_exam(paths.store(), study)
            codes = read_mask(settings.data_root, study, files[study])
            if len(codes) == len(exam):
                arteries = read_arteries(settings.data_root, study) if settings.is_phantom else None
                exams.append(
                    compare_exam(
                        exam, mask_on_store(codes, exam) > 0, findings[study], maps[study],
                        arteries=None if arteries is None else mask_on_store(arteries, exam) > 0,
                    )
                )  # fmt: skip
    return exams


def compare_exam(
    exam: StoredExam,
    mask: np.ndarray,
    findings: Sequence[Finding],
    clot: ClotMap,
    *,
    arteries: np.ndarray | None = None,
) -> ExamLocation:
    """Compare the findings of one exam with its mask.

    Args:
        exam: the stored exam.
        mask: bool (z, y, x) on the stored planes.
        findings: likeliest first.
        clot: the exam's clot map.
        arteries: bool (z, y, x), all pulmonary arteries with their clots; None where they are not known.
    """
    scale = np.array(exam.spacing_mm)
    voxels = np.argwhere(mask)
    owner, count = _lesions(mask, voxels)
    places = np.column_stack([exam.z_mm[voxels[:, 0]], voxels[:, 1:] * scale])
    tree = cKDTree(places) if len(places) else None
    row_of = {sop: row for row, sop in enumerate(exam.sop_uids)}
    distances, detected = [], []
    for finding in findings:
        if tree is None:
            distances.append(np.inf)
            detected.append(frozenset[int]())
            continue
        at = np.array([exam.z_mm[row_of[finding.sop]], *(np.array(finding.point) * scale)])
        distances.append(float(tree.query(at)[0]))
        detected.append(frozenset(owner[tree.query_ball_point(at, NEAR_MM)].tolist()))
    voxel_ml = float(np.prod(scale)) * clot.thickness_mm / 1000
    lesion_ml = np.bincount(owner, weights=voxel_ml[voxels[:, 0]], minlength=count + 1)[1:]
    return ExamLocation(
        study=exam.study, lesions=count, scores=np.array([finding.probability for finding in findings]),
        distance_mm=np.array(distances), detected=tuple(detected),
        first_on_clot=bool(findings and mask[row_of[findings[0].sop]].any()),
        volume_ml=float(clot.volumes_ml().sum()), true_volume_ml=float(mask.sum(axis=(1, 2)) @ voxel_ml),
        lesion_ml=lesion_ml,
        occluded=clot.occluded_shares(),
        true_occluded=UNKNOWN if arteries is None else true_occluded_shares(exam, mask, arteries, voxel_ml),
    )  # fmt: skip


def _lesions(mask: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the lesion of each clot voxel, from 1, and the number of lesions.

    Voxels of one clot may touch only at corners, or across a slice that is too thin to show it.
    """
    if not len(voxels):
        return np.zeros(0, int), 0
    first = voxels.min(axis=0)
    box = tuple(slice(low, high + 1) for low, high in zip(first, voxels.max(axis=0), strict=True))
    grown = ndimage.binary_dilation(np.pad(mask[box], 1), np.ones((3, 3, 3), bool))
    labels, count = ndimage.label(grown)
    return labels[tuple((voxels - first + 1).T)], count


def free_response(exams: Sequence[ExamLocation]) -> pd.DataFrame:
    """Free-response ROC curve: one row per threshold on the findings' probability, highest first.

    Returns:
        threshold, sensitivity (detected lesions over all lesions), false_per_exam (findings that hit nothing).
    """
    lesions = sum(exam.lesions for exam in exams)
    rows = [
        (score, index, number)
        for index, exam in enumerate(exams)
        for number, score in enumerate(exam.scores)
    ]  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    found: set[tuple[int, int]] = set()
    false, curve = 0, []
    for score, index, number in rows:
        found |= {(index, lesion) for lesion in exams[index].detected[number]}
        false += exams[index].distance_mm[number] > NEAR_MM
        curve.append((score, len(found) / max(lesions, 1), false / max(len(exams), 1)))
    return pd.DataFrame(curve, columns=["threshold", "sensitivity", "false_per_exam"])


def location_summary(exams: Sequence[ExamLocation]) -> dict[str, Any]:
    """The figures of location as JSON values; intervals are 95 %, by bootstrap over exams with PE.

    Args:
        exams: all compared exams, with and without PE.
    """
    positive = [exam for exam in exams if exam.lesions]
    curve = free_response(exams)
    summary: dict[str, Any] = {"exams": len(exams), "exams_with_pe": len(positive)}
    if not positive:
        return summary
    counts = resample_counts(len(positive), RESAMPLES, SEED)
    hits = {
        "first_finding_key_slice_on_clot": [exam.first_on_clot for exam in positive],
        "first_finding_point_within_15_mm": [bool((exam.distance_mm[:1] <= NEAR_MM).any()) for exam in positive],
    }
    for name, values in hits.items():
        summary[name] = dataclasses.asdict(ratio_interval(np.array(values, float), np.ones(len(values)), counts))
    first = [exam.distance_mm[0] if len(exam.distance_mm) else np.inf for exam in positive]
    summary["first_finding_distance_mm_median"] = float(np.median(first))
    for sensitivity in SENSITIVITIES:
        reached = curve[curve["sensitivity"] >= sensitivity]
        value = float(reached["false_per_exam"].iat[0]) if len(reached) else None
        summary[f"false_findings_per_exam_at_sensitivity_{sensitivity:g}"] = value
    summary["lesions_found_by_volume"] = found_by_volume(exams, REPORT_THRESHOLD)
    summary["highest_sensitivity"] = float(curve["sensitivity"].max()) if len(curve) else 0.0
    volumes = np.array([(exam.volume_ml, exam.true_volume_ml) for exam in positive])
    known = volumes[np.isfinite(volumes).all(axis=1)]
    if len(known) > 2:
        summary["volume_rank_correlation"] = float(spearmanr(*known.T).statistic)
        summary["volume_ratio_median"] = float(np.median(known[:, 0] / known[:, 1]))
        summary["volume_error_ml_median"] = float(np.median(np.abs(known[:, 0] - known[:, 1])))
    return summary | occluded_summary([exam.occluded for exam in exams], [exam.true_occluded for exam in exams])


def found_by_volume(exams: Sequence[ExamLocation], threshold: float) -> list[dict[str, Any]]:
    """Sensitivity for lesions of different size, smallest first; classes without lesions are left out.

    Args:
        exams: compared exams.
        threshold: findings with a lower probability do not count.

    Returns:
        JSON values: `from_ml`, `below_ml` (None: no bound), `lesions`, `found` (share).
    """
    volume = np.concatenate([np.zeros(0), *(exam.lesion_ml for exam in exams)])
    found = np.concatenate([np.zeros(0), *(exam.found(threshold) for exam in exams)])
    classes = []
    for low, high in itertools.pairwise((0.0, *LESION_ML, np.inf)):
        inside = (volume >= low) & (volume < high)
        if inside.any():
            below = high if np.isfinite(high) else None
            classes.append(
                {"from_ml": low, "below_ml": below, "lesions": int(inside.sum()), "found": float(found[inside].mean())}
            )
    return classes


def label_aucs(truth: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """AUC of the location labels among exams with PE, with 95 % intervals, one row per label and candidate.

    `auc` ranks by P(label | PE) = P(label) / P(PE), so that an exam whose PE was nearly missed is judged by location
    only; `auc_unconditional` ranks by P(label), as the submission has it.

    Args:
        truth: STUDY and the nine labels.
        predictions: candidate -> STUDY and its nine probabilities.
    """
    positive = truth[(truth[list((LEFT, RIGHT, CENTRAL))].sum(axis=1) > 0)].set_index(STUDY)
    counts = resample_counts(len(positive), RESAMPLES, SEED)
    rows = []
    for title, labels in LOCATION_LABELS.items():
        target = positive[list(labels)].sum(axis=1).to_numpy() > 0
        for candidate, table in predictions.items():
            exams = table.set_index(STUDY).loc[positive.index]
            score = exams[list(labels)].sum(axis=1).to_numpy(float)
            conditional = score / np.clip(pe_score(exams), 1e-4, 1)
            aucs = (RankedScores(values, target, np.arange(len(target))) for values in (conditional, score))
            given_pe, unconditional = (ranked.interval(counts) for ranked in aucs)
            rows.append(
                {
                    "label": title, "candidate": candidate, "positive": int(target.sum()), "auc": given_pe,
                    "auc_unconditional": unconditional,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
