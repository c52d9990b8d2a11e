"""The `predict` command: labels, findings, slice probabilities and an evidence report for unlabelled DICOM series."""

import tempfile
import time
from pathlib import Path

import pandas as pd

from inference.evidence.evidence_report import WrittenReport, write_report
from inference.evidence.model_facts import describe_model
from inference.evidence.study_cases import cases_of_studies
from inference.finding_text import describe_burden, describe_findings
from inference.findings import Finding, locate_findings
from inference.predicted_studies import SYNTHETIC_WARNING, PredictedStudies, predict_into_store
from inference.series_reader import Study, slice_table
from inference.study_text import describe_missing_parts, describe_other_series, describe_unused_files, flag_words
from input.contest import EXAM_LABELS, LABEL_TITLES, SERIES, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.console import say
from pipeline.files import require_writable, write_table
from pipeline.settings import Settings
from submissions.finished_run import read_candidates, trained_on_phantoms
from submissions.text_table import text_table

#: Unused files of a study that are printed one by one.
PRINTED_FILES = 10


def predict_folder(settings: Settings, source: Path, out: Path, evidence: Path | None = None) -> None:
    """Print the labels and findings of every study below a folder; write slice probabilities and evidence.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either; archives in the folder are read too.
        out: the CSV: study, series and slice UID, z_mm (feet to head), pe_present_on_image.
        evidence: the HTML report; None: no report.

    Raises:
        UserError: no finished run with these settings, no usable series, or a file that cannot be written.
    """
    for path in filter(None, (out, evidence)):
        require_writable(path)
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        store = Path(folder)
        predicted = predict_into_store(settings, source, store)
        started = time.monotonic()
        findings = study_findings(predicted)
        predicted.seconds["findings"] = time.monotonic() - started
        for study in predicted.studies:
            lines = [
                "",
                describe_study(study, predicted.labels(study)),
                describe_burden(predicted.maps[study.name]),
                *describe_findings(findings[study.name]),
            ]
            say("\n".join(lines))
        write_table(out, output_table(predicted.studies, predicted.slices))
        say(f"\nslice probabilities: {paths.shown(out)}")
        if evidence:
            report = _write_evidence(settings, predicted, findings, store, evidence)
            predicted.seconds["report"] = report.seconds
            say(f"evidence: {report}")
    say(f"time: {', '.join(f'{step} {seconds:.1f} s' for step, seconds in predicted.seconds.items())}")
    if trained_on_phantoms():
        say(SYNTHETIC_WARNING)


def study_findings(predicted: PredictedStudies) -> dict[str, list[Finding]]:
    """Locate the findings of predicted studies: study name -> findings, likeliest first."""
    slices = predicted.slices.merge(slice_table(predicted.studies)[[SOP, "z_mm"]], on=SOP)
    return locate_findings(predicted.exams, slices, predicted.maps, predicted.measured.slices)


def _write_evidence(
    settings: Settings,
    predicted: PredictedStudies,
    findings: dict[str, list[Finding]],
    store: Path,
    html: Path,
) -> WrittenReport:
    started = time.monotonic()
    candidates = read_candidates(paths.ensemble_run())
    cases = cases_of_studies(predicted, findings, candidates.promoted)
    model = describe_model(settings, candidates)
    return write_report(html, store, cases, model, settings, started=started)


def describe_study(study: Study, labels: pd.Series) -> str:
    """Describe a study as text: its series, its warnings, and a table of its labels.

    Args:
        study: the study.
        labels: the nine decoded probabilities, which obey the contest's rules; above 0.5 means yes.
    """
    lines = [f"study {study.study_uid}", f"series {study.series_uid} ({study.selection_reason})"]
    lines += describe_other_series(study)
    lines += describe_missing_parts(study)
    lines += [f"warnings: {', '.join(map(flag_words, study.flags))}"] if study.flags else []
    lines += describe_unused_files(study, PRINTED_FILES)
    rows = [
        [LABEL_TITLES[label], f"{labels[label]:.3f}", "yes" if labels[label] > 0.5 else ""] for label in EXAM_LABELS
    ]
    return "\n".join([*lines, text_table(["label", "probability", ""], rows)])


def output_table(studies: list[Study], slices: pd.DataFrame) -> pd.DataFrame:
    """Build the CSV of slice probabilities with the UIDs of the files, each study feet to head.

    Args:
        studies: the studies.
        slices: SOP and `label`, the probability of PE on the slice.
    """
    probability = slices.set_index(SOP)["label"]
    parts = [
        pd.DataFrame(
            {
                STUDY: study.study_uid,
                SERIES: study.series_uid,
                SOP: study.slices[SOP],
                "z_mm": study.slices["z_mm"],
                SLICE_LABEL: probability.reindex(study.slices[SOP]).to_numpy(),
            }
        )
        for study in studies
    ]
    return pd.concat(parts, ignore_index=True)
