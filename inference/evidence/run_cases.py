"""Exams of a finished run for the evidence report, with the promoted candidate's predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ensemble.decode import decode
from ensemble.fit_novelty import novelty_reason, read_distances
from ensemble.predictions import read_measured, read_networks
from features.build_acceptance import NOT_STORED, read_acceptance
from features.store import store_table
from inference.clot_maps import run_clot_maps
from inference.evidence.exam_cases import OUT_OF_FOLD, TEST, ExamCase, by_risk
from inference.evidence.feature_contributions import Networks, candidate_contributions
from inference.findings import locate_findings
from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from input.tables import load_exams, load_slices
from models.network_names import network_names
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import EvidenceSettings, Settings
from submissions.finished_run import Candidates, known_test_truth
from submissions.score import Truth, pe_score, prepared_truth


def cases_of_run(settings: Settings, candidates: Candidates, studies: Sequence[str] = ()) -> list[ExamCase]:
    """Gather exams of a finished run.

    Args:
        settings: of the run.
        candidates: the finished ensemble.
        studies: StudyInstanceUIDs of test exams, or of training exams (shown with their out-of-fold predictions);
            empty: the bounded selection of test exams that [inference.evidence] describes.

    Returns:
        The exams, highest risk first.

    Raises:
        UserError: an exam that is not part of the run.
    """
    roles = ["test", "oof"] if studies else ["test"]
    tables = {role: candidates.predictions(candidates.promoted, role) for role in roles}
    if not studies:
        decoded_exams, _ = decode(*tables["test"])
        studies = select_exams(decoded_exams, settings.inference.evidence)
    studies_by_role = {role: set(exams[STUDY]) for role, (exams, _) in tables.items()}
    unknown = [study for study in studies if not any(study in known for known in studies_by_role.values())]
    if unknown:
        examples = ", ".join(sorted(studies_by_role["test"])[:3])
        raise UserError(f"exams not in this run: {', '.join(unknown)}. Expected StudyInstanceUIDs such as {examples}.")
    cases = []
    for role, role_tables in tables.items():
        selected = [study for study in studies if study in studies_by_role[role]]
        if selected:
            exams, slices = (table[table[STUDY].isin(selected)].reset_index(drop=True) for table in role_tables)
            cases += _cases_of_role(settings, candidates.promoted, role, *decode(exams, slices))
    return by_risk(cases)


def select_exams(exams: pd.DataFrame, settings: EvidenceSettings) -> list[str]:
    """Select the exams with the highest risk and a random sample of the others.

    Args:
        exams: STUDY and the nine labels, decoded.
        settings: how many of each, and the seed of the sample.

    Returns:
        StudyInstanceUIDs.
    """
    order = exams[STUDY].to_numpy()[np.argsort(-pe_score(exams), kind="stable")]
    others = order[settings.riskiest :]
    sample = np.random.default_rng(settings.seed).permutation(len(others))[: settings.random]
    return [*order[: settings.riskiest], *others[np.sort(sample)]]


def _cases_of_role(
    settings: Settings, promoted: str, role: str, exams: pd.DataFrame, slices: pd.DataFrame
) -> list[ExamCase]:
    prepared, geometry = load_exams().set_index(STUDY), load_slices()
    geometry = geometry[geometry[STUDY].isin(exams[STUDY])]
    measured = read_measured(paths.store())
    networks = _read_networks(settings, role, exams[STUDY].tolist())
    contributions = candidate_contributions(promoted, role, networks, geometry, measured)
    truth = prepared_truth(load_exams(), load_slices()) if role == "oof" else known_test_truth(settings)
    true_exams = truth.exams.set_index(STUDY) if truth else pd.DataFrame()
    numbers, acceptance, distances = _exam_numbers(), read_acceptance(), read_distances()
    table = _slice_table(geometry, slices, truth)
    every_fold = tuple(range(settings.input.folds))
    folds = {study: every_fold if role == "test" else (int(prepared.at[study, "fold"]),) for study in exams[STUDY]}
    maps = run_clot_maps(settings, exams[STUDY].tolist(), folds, role=role) if networks else {}
    findings = locate_findings(exams, table[table["quarantine"] == ""], maps, measured.slices)
    slices_of = dict(list(table.groupby(STUDY)))
    cases = []
    for row in exams.to_dict("records"):
        study = row[STUDY]
        is_labelled = study in true_exams.index
        cases.append(
            ExamCase(
                name=study,
                title=study,
                role=TEST if role == "test" else OUT_OF_FOLD,
                labels={label: float(row[label]) for label in EXAM_LABELS},
                slices=slices_of[study].sort_values("z_mm", kind="stable").reset_index(drop=True),
                numbers=numbers.get(study, {}),
                flags=tuple(flag for flag in str(prepared["flags"].get(study, "")).split(";") if flag),
                contributions=contributions.get(study),
                truth={label: int(true_exams.at[study, label]) for label in EXAM_LABELS} if is_labelled else None,
                folds=folds[study],
                findings=tuple(findings.get(study, ())),
                clot=maps.get(study),
                acceptance=acceptance.get(study, NOT_STORED).with_reason(novelty_reason(distances.get(study, 0.0))),
            )
        )
    return cases


def _slice_table(geometry: pd.DataFrame, slices: pd.DataFrame, truth: Truth | None) -> pd.DataFrame:
    """Geometry, probability, truth where known, and quarantine reason, including those found while decoding."""
    table = geometry.merge(slices[[SOP, "label"]], on=SOP, how="left")
    if truth:
        table = table.merge(truth.slices[[SOP, SLICE_LABEL]].rename(columns={SLICE_LABEL: "truth"}), on=SOP, how="left")
    stored = store_table(paths.store(), "slices", [SOP, "quarantine"])
    if stored is None:
        return table
    reasons = stored.set_index(SOP)["quarantine"]
    return table.assign(quarantine=reasons.reindex(table[SOP]).fillna("").to_numpy())


def _exam_numbers() -> dict[str, dict[str, Any]]:
    """StudyInstanceUID -> its row of the store's exam table; empty without a store."""
    table = store_table(paths.store(), "exams")
    return {} if table is None else table.set_index(STUDY).to_dict("index")


def _read_networks(settings: Settings, role: str, studies: list[str]) -> Networks:
    """The networks' predictions for some exams; folds without predictions for them are omitted."""
    if not (paths.ensemble_run() / "models.json").is_file():
        return {}
    networks = {}
    for fold in range(settings.input.folds):
        tables = {
            name: folds[fold][folds[fold][STUDY].isin(studies)]
            for name, folds in read_networks(network_names(settings.models), [fold], role).items()
        }
        if all(map(len, tables.values())):
            networks[fold] = tables
    return networks
