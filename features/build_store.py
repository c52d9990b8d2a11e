"""The artifact features/store: every exam's pixels inside its lung box, and the measurements taken on them.

<Study>.b2nd, <Study>.json    one exam (features.store)
slices.parquet                one row per slice of the contest's tables: ids, split, row in the array (-1: not
                              stored), z, quarantine reason, measurements (NaN where not stored)
exams.parquet                 one row per exam: Study, split, measurements (heart and vessels:
                              features.heart_and_vessels)
report.json                   slices stored and quarantined with counted reasons, exams without a stored slice
"""

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.ingest import IngestedExam, IngestTask, ingest_exam
from input.contest import ID_COLUMNS, SERIES, SOP, STUDY
from input.safe_decoding import EXAM_TIMEOUT_S, ExamJob, Outcome, decode_exams
from input.tables import count_reasons, load_slices, verify_generated
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.cluster import run_on_cluster, scheduler
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import write_json, write_table
from pipeline.isolated_call import run_isolated
from pipeline.settings import FeaturesSettings, Settings

VERSION = 2  # 2: heart and great vessels are measured
#: Exams per cluster task: starting a process for them costs as much as ingesting a few exams.
BATCH = 16


def build(settings: Settings, *, force: bool = False) -> None:
    """Ingest every exam of input/prepared that is not in the store yet, then write both tables.

    An interrupted build resumes after the last exam that was written completely.

    Args:
        settings: resolved settings of the run.
        force: rebuild even when the store is up to date.

    Raises:
        UserError: input/prepared is missing or does not match its manifest, the disk is full, or no exam could be
            stored.
    """
    artifact = store_artifact(settings)
    if artifact.is_current(force=force):
        return
    verify_generated(settings)
    slices = load_slices()
    started = time.monotonic()
    with artifact.building(fresh=force) as directory:
        jobs = exam_jobs(slices, settings.data_root, directory, settings.features)
        total = slices.loc[slices["position"] >= 0, STUDY].nunique()
        outcomes = progress(_outcomes(jobs, settings.data_root), desc="ingest", total=total, unit="exam")
        exams = list(map(_ingested_exam, outcomes))
        _require_a_stored_exam(exams)
        slice_table, exam_table = assemble(slices, exams)
        write_table(directory / "slices.parquet", slice_table)
        write_table(directory / "exams.parquet", exam_table)
        write_json(directory / "report.json", report(slice_table, exam_table))
        stored = int((slice_table["row"] >= 0).sum())
        metrics = {
            "megabytes": round(sum(path.stat().st_size for path in directory.glob("[!.]*.b2nd")) / 1e6, 1),
            "quarantined": int((slice_table["quarantine"] != "").sum()),
            "slices_per_second": round(stored / (time.monotonic() - started), 1),
            "lungs_not_found": int((exam_table["lungs_found"] == 0).sum()),
        }
        artifact.finish(rows={"exams": len(exam_table), "slices": stored}, metrics=metrics)
    _print_summary(slice_table, exam_table, metrics)


def _require_a_stored_exam(exams: list[IngestedExam]) -> None:
    """Raise when every exam failed: the cause is the tree or the machine, and an empty store is of no use."""
    if exams and not any(exam.sop_uids for exam in exams):
        reasons = Counter(reason for exam in exams for reason in exam.quarantine.values())
        lines = [f"{count} slices: {reason}" for reason, count in reasons.most_common(5)]
        fix = "Check the tree: ./run.sh check-data DIR"
        raise UserError.listing(f"None of {len(exams)} exams could be stored:", lines, fix)


def store_exams(slices: pd.DataFrame, data_root: Path, directory: Path, settings: FeaturesSettings) -> None:
    """Ingest exams into a separate pixel store with both tables, as `build` does for the contest's exams.

    Args:
        slices: with the columns of slices.parquet of input/prepared.
        data_root: the folder that the table's paths are relative to.
        directory: an empty folder for the store.
        settings: lung box margin, largest box and in-plane spacing.
    """
    outcomes = decode_exams(exam_jobs(slices, data_root, directory, settings), ingest_exam)
    exams = list(map(_ingested_exam, outcomes))
    for name, table in zip(("slices", "exams"), assemble(slices, exams), strict=True):
        write_table(directory / f"{name}.parquet", table)


def store_artifact(settings: Settings) -> Artifact:
    """Describe the artifact that `build` writes: its identity covers [features] and input/prepared."""
    return Artifact(
        paths.store(),
        "features/store",
        version=VERSION,
        settings=dataclasses.asdict(settings.features),
        inputs={"input/prepared": read_manifest(paths.prepared())["identity"]},
        shared=True,
    )


def exam_jobs(slices: pd.DataFrame, data_root: Path, directory: Path, settings: FeaturesSettings) -> Iterator[ExamJob]:
    """Yield one job per exam with readable slices, its files ordered feet to head.

    Jobs are made lazily: a contest has two million files.

    Args:
        slices: slices.parquet of input/prepared.
        data_root: the folder that the table's paths are relative to.
        directory: the store to write to.
        settings: lung box margin, largest box and in-plane spacing.
    """
    readable = slices[slices["position"] >= 0].sort_values([STUDY, "position"])
    for study, rows in readable.groupby(STUDY, sort=True):
        yield ExamJob(
            name=study,
            files=tuple(data_root / path for path in rows["path"]),
            payload=IngestTask(rows[SERIES].iat[0], tuple(rows[SOP]), directory, settings),
        )


def _ingested_exam(outcome: Outcome) -> IngestedExam:
    """The result of an ingest; when the whole exam failed, all its slices are quarantined with the reason."""
    if not outcome.fault:
        return outcome.value
    reasons = dict.fromkeys(outcome.job.payload.sop_uids, f"the exam could not be ingested: {outcome.fault}")
    return IngestedExam(outcome.name, (), pd.DataFrame(), {}, reasons)


def _outcomes(jobs: Iterator[ExamJob], data_root: Path) -> Iterator[Outcome]:
    """Ingest the exams on this machine, or in batches on the cluster; outcomes are in the order of `jobs`."""
    if not scheduler():
        yield from decode_exams(jobs, ingest_exam)
        return
    batches = iter(lambda: tuple(itertools.islice(jobs, BATCH)), ())
    for outcomes in run_on_cluster(_ingest_on_worker, ((batch,) for batch in batches), reads=data_root):
        yield from outcomes


def _ingest_on_worker(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    """Run on a cluster worker: a hostile file kills a process of its own, never the worker."""
    try:
        return run_isolated(_ingest_directly, jobs, timeout_s=EXAM_TIMEOUT_S * len(jobs))
    except RuntimeError:  # a file killed, hung or broke its decoder: find out which; complete exams are kept
        return run_isolated(_ingest_guarded, jobs)


def _ingest_directly(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    return [Outcome(job, ingest_exam(job, {})) for job in jobs]


def _ingest_guarded(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    return list(decode_exams(jobs, ingest_exam, workers=1, timeout_s=EXAM_TIMEOUT_S))


def assemble(slices: pd.DataFrame, exams: list[IngestedExam]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the results of the ingest to the slice table by UID; every slice and every exam keeps its row.

    Args:
        slices: slices.parquet of input/prepared.
        exams: one result per exam that had readable slices.

    Returns:
        (slice table, exam table) as described in the module's docstring.
    """
    parts = [
        exam.slices.assign(**{STUDY: exam.study, SOP: exam.sop_uids, "row": np.arange(len(exam.sop_uids))})
        for exam in exams
        if exam.sop_uids
    ]
    measured = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[STUDY, SOP, "row"])
    table = slices[[*ID_COLUMNS, "split", "z_mm", "quarantine"]].merge(
        measured, on=[STUDY, SOP], how="left", validate="1:1"
    )
    table["row"] = table["row"].fillna(-1).astype(np.int64)
    reasons = {(exam.study, sop): reason for exam in exams for sop, reason in exam.quarantine.items()}
    at_ingest = [reasons.get(key, "") for key in zip(table[STUDY], table[SOP], strict=True)]
    table["quarantine"] = table["quarantine"].where(table["quarantine"] != "", pd.Series(at_ingest, index=table.index))
    numbers = pd.DataFrame([{STUDY: exam.study, **exam.numbers} for exam in exams])
    exam_table = slices[[STUDY, "split"]].drop_duplicates(STUDY)
    if len(numbers):
        exam_table = exam_table.merge(numbers, on=STUDY, how="left", validate="1:1")
    columns = _with_columns(exam_table.columns, "n_stored", "lungs_found")
    return table, exam_table.reset_index(drop=True).reindex(columns=columns)


def report(slices: pd.DataFrame, exams: pd.DataFrame) -> dict[str, Any]:
    """Count what the ingest left out and why; input/prepared/report.json counts syntaxes and flags."""
    return {
        "slices_stored": int((slices["row"] >= 0).sum()),
        "slices_quarantined": int((slices["quarantine"] != "").sum()),
        "quarantine_reasons": count_reasons(slices["quarantine"]),
        "exams_not_stored": exams.loc[~(exams["n_stored"] > 0), STUDY].tolist(),
        "lungs_not_found": exams.loc[exams["lungs_found"] == 0, STUDY].tolist(),
    }


def _with_columns(columns: pd.Index, *names: str) -> list[str]:
    """The columns plus those of `names` that are missing because no exam was stored."""
    return [*columns, *(name for name in names if name not in columns)]


def _print_summary(slices: pd.DataFrame, exams: pd.DataFrame, metrics: dict[str, float]) -> None:
    say(
        f"features/store: {int((exams['n_stored'] > 0).sum())} exams, {int((slices['row'] >= 0).sum())} slices, "
        f"{metrics['megabytes']:g} MB, {metrics['quarantined']} slices quarantined, "
        f"lungs not found in {metrics['lungs_not_found']} exams, {metrics['slices_per_second']:g} slices/s"
    )
    for reason, count in list(count_reasons(slices["quarantine"]).items())[:5]:
        say(f"features/store: {count} slices: {reason}")
    for study in exams.loc[~(exams["n_stored"] > 0), STUDY].head(5):
        say(f"features/store: exam {study} has no usable slice; its rows get a documented prior in the submission")
