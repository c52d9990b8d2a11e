"""The `predict` command: labels, findings, slice probabilities and an evidence report for unlabelled DICOM series."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.acceptance_rules import Acceptance
from inference.evidence.evidence_report import write_report
from inference.evidence.exam_cases import ExamCase, by_risk
from inference.evidence.model_facts import describe_model
from inference.evidence.study_cases import cases_of_studies
from inference.finding_text import describe_burden, describe_findings
from inference.findings import Finding, locate_findings
from inference.partial_results import PartialResults, StudyResult, partial_results
from inference.predicted_studies import SYNTHETIC_WARNING, FinishedRun, PredictedStudies
from inference.series_reader import Study, find_studies, read_found, slice_table
from inference.study_text import describe_missing_parts, describe_other_series, describe_unused_files, flag_words
from input.contest import EXAM_LABELS, LABEL_TITLES, SERIES, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.artifact import identity_of, read_manifest
from pipeline.console import say
from pipeline.files import require_writable, write_table
from pipeline.settings import Settings
from submissions.finished_run import read_candidates, require_finished, trained_on_phantoms
from submissions.text_table import text_table

#: Printed in place of the labels of a study that is not assessable.
WITHHELD = "labels and findings are withheld (--force-labels prints them)"
#: Studies that are withheld for the same reason and printed one by one.
PRINTED_ALIKE = 3
#: Unused files of a study that are printed one by one.
PRINTED_FILES = 10
#: Studies are predicted in groups of at least this many slices: small ones share the overhead of a call.
GROUP_SLICES = 200
VERSION = 5  # 2: acceptance in the results; 3: clot maps averaged over backbones; 4: occluded shares; 5: weak cells


def predict_folder(
    settings: Settings, source: Path, out: Path, evidence: Path | None = None, *, force_labels: bool = False
) -> None:
    """Print the labels and findings of every study below a folder; write labels, slice probabilities and evidence.

    Labels, findings and probabilities of a study that is not assessable are withheld.

    Studies are read while earlier ones are predicted. Each is printed as soon as it is finished and kept beside `out`
    until the command ends, so that a killed run resumes.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either; archives in the folder are read too.
        out: the CSV of slices: study, series and slice UID, z_mm (feet to head), pe_present_on_image. The labels of the
            exams are written beside it, see `exams_path`.
        evidence: the HTML report; None: no report.
        force_labels: show labels although a study is not assessable.

    Raises:
        UserError: no finished run with these settings, no usable series, or a file that cannot be written.
    """
    for path in filter(None, (out, exams_path(out), evidence)):
        require_writable(path)
    seconds: dict[str, float] = defaultdict(float)
    started = time.monotonic()
    require_finished(settings)
    with (
        partial_results(out, _depends_on(settings, force_labels), keeps_pixels=evidence is not None) as partial,
        ThreadPoolExecutor(1) as background,
    ):
        run = background.submit(FinishedRun, settings)  # while files are being read
        results = _predict_studies(settings, source, run, partial, out, seconds, force_labels)
        write_table(out, slice_rows(results))
        say(f"\nexam labels: {paths.shown(exams_path(out))}\nslice probabilities: {paths.shown(out)}")
        if evidence:
            candidates = read_candidates(paths.ensemble_run())
            cases, model = by_risk(result.case for result in results), describe_model(settings, candidates)
            report = write_report(evidence, partial.folder, cases, model, settings)
            seconds["report"] = report.seconds
            say(f"evidence: {report}")
    steps = ", ".join(f"{step} {spent:.1f} s" for step, spent in seconds.items())
    say(f"time: {time.monotonic() - started:.1f} s ({steps})")
    if trained_on_phantoms():
        say(SYNTHETIC_WARNING)


def _depends_on(settings: Settings, force_labels: bool) -> dict[str, str | int]:
    """What the results of a study depend on, besides its files."""
    return {
        "version": VERSION,
        "ensemble": read_manifest(paths.ensemble_run())["identity"],
        "acceptance": read_manifest(paths.acceptance())["identity"],
        "settings": identity_of(settings.as_dict()),
        "force_labels": force_labels,
    }


def _predict_studies(
    settings: Settings, source: Path, run: Future[FinishedRun], partial: PartialResults, out: Path,
    seconds: dict[str, float], force_labels: bool,
) -> list[StudyResult]:  # fmt: skip
    """Predict and print the studies that an earlier run has not finished; return the results of all."""
    started = time.monotonic()
    found = find_studies(source, partial.folder, settings.features)
    jobs = {job.name: job for job in found.jobs}
    results = partial.finished(found.jobs)
    if results:
        say(f"{len(results)} of {len(jobs)} studies were predicted by an earlier run")
        say("\n".join(result.text for result in results.values()))
    seconds["headers"] = time.monotonic() - started
    alike: Counter[str] = Counter()  # studies without labels, by reason
    started = time.monotonic()
    for studies in _grouped(read_found(found, [job for name, job in jobs.items() if name not in results])):
        seconds["waiting for files"] += time.monotonic() - started
        for result in _predict_group(run.result(), studies, partial, seconds, force_labels):
            partial.add(result, jobs[result.case.name])
            results[result.case.name] = result
            reason = "" if result.case.shows_labels else result.case.acceptance.line()
            alike[reason] += 1
            if not reason or alike[reason] <= PRINTED_ALIKE:
                say(f"{result.text}\n{len(results)} of {len(jobs)} studies")
        write_table(exams_path(out), exam_rows(results.values()))
        started = time.monotonic()
    for reason, count in alike.items():
        if reason and count > PRINTED_ALIKE:
            say(f"\n{count - PRINTED_ALIKE} more studies: {reason}; see {paths.shown(exams_path(out))}")
    return [results[name] for name in sorted(results)]


def _grouped(studies: Iterable[Study]) -> Iterator[list[Study]]:
    group: list[Study] = []
    for study in studies:
        group.append(study)
        if sum(len(member.slices) for member in group) >= GROUP_SLICES:
            yield group
            group = []
    if group:
        yield group


def _predict_group(
    run: FinishedRun, studies: list[Study], partial: PartialResults, seconds: dict[str, float], force_labels: bool
) -> list[StudyResult]:
    predicted = run.predict(partial.folder, studies)
    for step, spent in predicted.seconds.items():
        seconds[step] += spent
    started = time.monotonic()
    findings = study_findings(predicted)
    candidate = read_candidates(paths.ensemble_run()).promoted if partial.keeps_pixels else None
    cases = {case.name: case for case in cases_of_studies(predicted, findings, candidate, force_labels)}
    results = []
    for study in studies:
        lines = ["", describe_study(study, predicted.acceptance[study.name])]
        if cases[study.name].shows_labels:
            lines += [describe_labels(predicted.labels(study)), describe_burden(predicted.maps[study.name])]
            lines += describe_findings(findings[study.name])
        else:
            lines += [WITHHELD]
        results.append(StudyResult(cases[study.name], study.series_uid, "\n".join(lines)))
    seconds["findings"] += time.monotonic() - started
    return results


def study_findings(predicted: PredictedStudies) -> dict[str, list[Finding]]:
    """Locate the findings of predicted studies: study name -> findings, likeliest first."""
    slices = predicted.slices.merge(slice_table(predicted.studies)[[SOP, "z_mm"]], on=SOP)
    return locate_findings(predicted.exams, slices, predicted.maps, predicted.measured.slices)


def describe_study(study: Study, acceptance: Acceptance) -> str:
    """Describe a study as text: whether it can be assessed, its series, its warnings, and unused files."""
    lines = [f"study {study.study_uid}: {acceptance.line()}"]
    lines += [f"series {study.series_uid} ({study.selection_reason})"]
    lines += describe_other_series(study)
    lines += describe_missing_parts(study)
    lines += [f"warnings: {', '.join(map(flag_words, study.flags))}"] if study.flags else []
    return "\n".join([*lines, *describe_unused_files(study, PRINTED_FILES)])


def describe_labels(labels: pd.Series) -> str:
    """A table of the nine decoded probabilities, which obey the contest's rules; above 0.5 means yes."""
    rows = [
        [LABEL_TITLES[label], f"{labels[label]:.3f}", "yes" if labels[label] > 0.5 else ""] for label in EXAM_LABELS
    ]
    return text_table(["label", "probability", ""], rows)


def exams_path(out: Path) -> Path:
    """The CSV of the exams' labels beside the CSV of slices: slices.csv -> slices_exams.csv."""
    return out.with_name(f"{out.stem}_exams.csv")


def exam_rows(results: Iterable[StudyResult]) -> pd.DataFrame:
    """The CSV of the nine decoded labels with the UIDs of the files, in the order of the studies' UIDs."""
    rows: list[dict[str, Any]] = []
    for result in results:
        case = result.case
        labels = case.labels if case.shows_labels else dict.fromkeys(case.labels, np.nan)
        rows.append({STUDY: case.title, SERIES: result.series_uid})
        rows[-1] |= labels | _acceptance_columns(case)
    return pd.DataFrame(rows).sort_values(STUDY, kind="stable")


def slice_rows(results: Iterable[StudyResult]) -> pd.DataFrame:
    """The CSV of slice probabilities with the UIDs of the files, each study feet to head."""
    parts = []
    for result in results:
        table = result.case.slices[[SOP, "z_mm", "label"]].rename(columns={"label": SLICE_LABEL})
        table = table if result.case.shows_labels else table.assign(**{SLICE_LABEL: np.nan})
        keys = {STUDY: result.case.title, SERIES: result.series_uid}
        parts.append(table.assign(**keys, **_acceptance_columns(result.case)))
    columns = [STUDY, SERIES, SOP, "z_mm", SLICE_LABEL, "acceptance", "reasons"]
    return pd.concat(parts, ignore_index=True)[columns]


def _acceptance_columns(case: ExamCase) -> dict[str, str]:
    return {"acceptance": str(case.acceptance.outcome), "reasons": case.acceptance.reason_text}
