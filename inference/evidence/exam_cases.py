"""What the report tells of one exam, gathered from a finished run or from freshly predicted studies."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ensemble.candidates import Candidate, load_one
from ensemble.decode import decode
from ensemble.predictions import Measured, make_view, read_measured, read_networks
from features.store import store_table
from inference.evidence.feature_contributions import Contributions, contributions
from inference.findings import Location, locate_exams
from inference.predicted_studies import Predicted
from inference.series_reader import Study, slice_table
from inference.side_calibration import fit_sides, opinions
from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from input.tables import load_exams, load_slices
from pipeline import paths
from pipeline.artifact import verify
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.settings import EvidenceSettings, Settings
from submissions.finished_run import Candidates, known_test_truth
from submissions.score import Truth, pe_score, prepared_truth

TEST, OUT_OF_FOLD, UNLABELLED = "Test exam", "Training exam, out of fold", "Unlabelled exam"
Networks = dict[int, dict[str, pd.DataFrame]]
#: Unused files that a page names one by one.
NOTED = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """One exam of the report.

    Attributes:
        name: in the store.
        title: its StudyInstanceUID, as the page shows it.
        role: whose predictions these are.
        labels: the nine decoded probabilities.
        slices: SOP, z_mm, `label` (probability), `quarantine`, feet to head; `truth` (0, 1) where known.
        numbers: the exam's row of the store's exam table; empty where it was never stored.
        flags: what is odd about the series.
        notes: further facts as sentences.
        contributions: what moved the second level; None where nothing did.
        truth: the nine labels where they are known.
        folds: whose networks predicted it.
        places: where it shows PE, likeliest first.
    """

    name: str
    title: str
    role: str
    labels: dict[str, float]
    slices: pd.DataFrame
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    contributions: Contributions | None = None
    truth: dict[str, int] | None = None
    folds: tuple[int, ...] = ()
    places: tuple[Location, ...] = ()

    @property
    def risk(self) -> float:
        """P(PE), as the score takes it: 1 - P(negative) - P(indeterminate)."""
        return float(np.clip(pe_score(pd.DataFrame([self.labels]))[0], 0, 1))


def chosen_exams(exams: pd.DataFrame, settings: EvidenceSettings) -> list[str]:
    """The riskiest exams and some drawn from the rest, by name.

    Args:
        exams: STUDY and the nine labels, decoded.
        settings: how many of either.
    """
    order = exams[STUDY].to_numpy()[np.argsort(-pe_score(exams), kind="stable")]
    rest = order[settings.riskiest :]
    drawn = np.random.default_rng(settings.seed).permutation(len(rest))[: settings.random]
    return [*order[: settings.riskiest], *rest[np.sort(drawn)]]


def cases_of_run(settings: Settings, candidates: Candidates, wanted: Sequence[str] = ()) -> list[Case]:
    """Cases of a finished run, with the promoted candidate's predictions.

    Args:
        settings: of the run.
        candidates: the finished ensemble.
        wanted: StudyInstanceUIDs, of test exams or of training exams (then out of fold); empty: the bounded selection
            of test exams that [inference.evidence] describes.

    Raises:
        UserError: an exam that the run does not know.
    """
    tables = {
        role: candidates.predictions(candidates.promoted, role) for role in (["test", "oof"] if wanted else ["test"])
    }
    if not wanted:
        decoded = decode(*tables["test"])
        wanted = chosen_exams(decoded[0], settings.inference.evidence)
    known = {role: set(exams[STUDY]) for role, (exams, _) in tables.items()}
    strangers = [study for study in wanted if not any(study in each for each in known.values())]
    if strangers:
        some = ", ".join(sorted(known["test"])[:3])
        raise UserError(f"no exam of this run: {', '.join(strangers)}; test exams are {some}, ...")
    cases = []
    for role, (exams, slices) in tables.items():
        here = [study for study in wanted if study in known[role]]
        if here:
            exams, slices = (table[table[STUDY].isin(here)].reset_index(drop=True) for table in (exams, slices))
            cases += _role_cases(settings, candidates.promoted, role, *decode(exams, slices))
    return by_risk(cases)


def by_risk(cases: Iterable[Case]) -> list[Case]:
    """The likeliest PE first."""
    return sorted(cases, key=lambda case: (-case.risk, case.name))


def _role_cases(settings: Settings, promoted: str, role: str, exams: pd.DataFrame, slices: pd.DataFrame) -> list[Case]:
    prepared, geometry = load_exams().set_index(STUDY), load_slices()
    geometry = geometry[geometry[STUDY].isin(exams[STUDY])]
    measured = read_measured(paths.store())
    networks = _networks(settings, role, exams[STUDY].tolist())
    moved = _moved(promoted, role, networks, geometry, measured)
    truth = _truth(settings, role)
    numbers = exam_numbers()
    table = geometry.merge(slices[[SOP, "label"]], on=SOP, how="left")
    if truth:
        table = table.merge(truth.slices[[SOP, SLICE_LABEL]].rename(columns={SLICE_LABEL: "truth"}), on=SOP, how="left")
    table = _with_decoding_faults(table)
    places = _places(settings, networks, exams, table[table["quarantine"] == ""], measured)
    known = truth.exams.set_index(STUDY) if truth else pd.DataFrame()
    rows_of = dict(list(table.groupby(STUDY)))
    return [
        Case(
            name=row[STUDY],
            title=row[STUDY],
            role=TEST if role == "test" else OUT_OF_FOLD,
            labels={label: float(row[label]) for label in EXAM_LABELS},
            slices=rows_of[row[STUDY]].sort_values("z_mm", kind="stable").reset_index(drop=True),
            numbers=numbers.get(row[STUDY], {}),
            flags=tuple(each for each in str(prepared["flags"].get(row[STUDY], "")).split(";") if each),
            contributions=moved.get(row[STUDY]),
            places=tuple(places.get(row[STUDY], ())),
            truth=_labels(known, row[STUDY]),
            folds=tuple(range(settings.input.folds)) if role == "test" else (int(prepared.at[row[STUDY], "fold"]),),
        )
        for row in exams.to_dict("records")
    ]


def _labels(known: pd.DataFrame, study: str) -> dict[str, int] | None:
    return {label: int(known.at[study, label]) for label in EXAM_LABELS} if study in known.index else None


def exam_numbers() -> dict[str, dict[str, Any]]:
    """StudyInstanceUID -> its row of the store's exam table; empty without a store."""
    table = store_table(paths.store(), "exams")
    return {} if table is None else table.set_index(STUDY).to_dict("index")


def _with_decoding_faults(table: pd.DataFrame) -> pd.DataFrame:
    """The slice table with faults found while decoding, too."""
    stored = store_table(paths.store(), "slices", [SOP, "quarantine"])
    if stored is None:
        return table
    found = stored.set_index(SOP)["quarantine"]
    return table.assign(quarantine=found.reindex(table[SOP]).fillna("").to_numpy())


def _truth(settings: Settings, role: str) -> Truth | None:
    if role == "oof":
        return prepared_truth(load_exams(), load_slices())
    return known_test_truth(settings)


def _networks(settings: Settings, role: str, studies: list[str]) -> Networks:
    """fold -> network -> its rows of some exams; folds that hold none of them are left out."""
    if not (paths.ensemble_run() / "models.json").is_file():
        return {}
    found = {}
    for fold in range(settings.input.folds):
        tables = {
            name: folds[fold][folds[fold][STUDY].isin(studies)]
            for name, folds in read_networks(settings.models.networks, [fold], role).items()
        }
        if all(map(len, tables.values())):
            found[fold] = tables
    return found


def _moved(
    promoted: str, role: str, networks: Networks, slices: pd.DataFrame, measured: Measured
) -> dict[str, Contributions]:
    """Contributions of some exams: out of fold by the model fitted without their fold, else by the final one."""
    views = {fold: make_view(tables, slices, measured) for fold, tables in sorted(networks.items())}
    if role == "oof":
        each = [contributions(saved_candidate(promoted, f"fold{fold}"), [view]) for fold, view in views.items()]
        return {study: parts for found in each for study, parts in found.items()}
    return contributions(saved_candidate(promoted, "final"), list(views.values())) if views else {}


def _places(
    settings: Settings, networks: Networks, exams: pd.DataFrame, slices: pd.DataFrame, measured: Measured
) -> dict[str, list[Location]]:
    """Where the exams show PE, as `predict` tells it; empty without network predictions."""
    tables = [table for folds in networks.values() for table in folds.values()]
    return locate_exams(exams, slices, opinions(tables), fit_sides(settings), measured.slices) if tables else {}


def saved_candidate(name: str, part: str) -> Candidate:
    """A fitted candidate of the finished ensemble; `part` is `final`, or `fold<k>`: fitted without fold k."""
    directory = paths.ensemble_run()
    verify(directory, ["models.json"])
    return load_one(read_json(directory / "models.json")[part], name, directory / "trees" / part)


def cases_of_studies(predicted: Predicted, places: Mapping[str, Sequence[Location]], promoted: str) -> list[Case]:
    """Cases of freshly predicted studies.

    Args:
        predicted: the studies and what the ensemble says of them.
        places: where each study shows PE, by its name.
        promoted: the candidate that predicted.
    """
    table = slice_table(predicted.studies)
    moved = _moved(promoted, "test", predicted.networks, table, predicted.measured)
    numbers = predicted.measured.exams.set_index(STUDY).to_dict("index")
    found = predicted.slices.set_index(SOP)["label"]
    cases = []
    for study in predicted.studies:
        labels = predicted.labels(study)
        rows = study.slices.assign(label=found.reindex(study.slices[SOP]).to_numpy(), quarantine="")
        cases.append(
            Case(
                name=study.name,
                title=study.study_uid,
                role=UNLABELLED,
                labels={label: float(labels[label]) for label in EXAM_LABELS},
                slices=rows.reset_index(drop=True),
                numbers=numbers.get(study.name, {}),
                flags=study.flags,
                notes=_notes(study),
                contributions=moved.get(study.name),
                places=tuple(places.get(study.name, ())),
                folds=tuple(sorted(predicted.networks)),
            )
        )
    return by_risk(cases)


def _notes(study: Study) -> tuple[str, ...]:
    """What was read: the chosen series, the others, and files that were not used."""
    others = [
        f"other series {each.series_uid} ({each.description or 'no description'}, {each.slices} slices): {each.reason}"
        for each in study.others
    ]
    lost = [f"not used: {path.name}: {reason}" for path, reason in study.quarantined[:NOTED]]
    more = len(study.quarantined) - NOTED
    lost += [f"not used: {more} further files"] if more > 0 else []
    return (f"series {study.series_uid} ({study.why})", *others, *lost)
