"""Freshly predicted studies for the evidence report."""

from collections.abc import Mapping, Sequence

from inference.evidence.exam_cases import UNLABELLED, ExamCase, by_risk
from inference.evidence.feature_contributions import candidate_contributions
from inference.findings import Finding
from inference.predicted_studies import PredictedStudies
from inference.series_reader import Study, slice_table
from inference.study_text import describe_missing_parts, describe_other_series, describe_unused_files
from input.contest import EXAM_LABELS, SOP, STUDY

#: Unused files that an exam's page lists one by one.
LISTED_FILES = 20


def cases_of_studies(
    predicted: PredictedStudies,
    findings: Mapping[str, Sequence[Finding]],
    promoted: str | None,
    force_labels: bool = False,
) -> list[ExamCase]:
    """Gather freshly predicted studies, highest risk first.

    Args:
        predicted: the studies and their predictions.
        findings: study name -> findings.
        promoted: name of the candidate that predicted; None: no feature contributions.
        force_labels: show labels although a study is not assessable.
    """
    slices = slice_table(predicted.studies)
    contributions = (
        candidate_contributions(promoted, "test", predicted.networks, slices, predicted.measured) if promoted else {}
    )
    numbers = predicted.measured.exams.set_index(STUDY).to_dict("index")
    probability = predicted.slices.set_index(SOP)["label"]
    cases = []
    for study in predicted.studies:
        labels = predicted.labels(study)
        rows = study.slices.assign(label=probability.reindex(study.slices[SOP]).to_numpy(), quarantine="")
        cases.append(
            ExamCase(
                name=study.name,
                title=study.study_uid,
                role=UNLABELLED,
                labels={label: float(labels[label]) for label in EXAM_LABELS},
                slices=rows.reset_index(drop=True),
                numbers=numbers.get(study.name, {}),
                flags=study.flags,
                notes=_notes(study),
                contributions=contributions.get(study.name),
                folds=tuple(sorted(predicted.networks)),
                findings=tuple(findings.get(study.name, ())),
                clot=predicted.maps.get(study.name),
                acceptance=predicted.acceptance[study.name],
                force_labels=force_labels,
            )
        )
    return by_risk(cases)


def _notes(study: Study) -> tuple[str, ...]:
    """The chosen series, the other series, and files that were not used."""
    return (
        f"series {study.series_uid} ({study.selection_reason})",
        *describe_missing_parts(study),
        *describe_other_series(study),
        *describe_unused_files(study, LISTED_FILES, names_only=True),
    )
