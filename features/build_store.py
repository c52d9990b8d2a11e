"""The product features/store: every exam's pixels in its lung box, and the numbers measured on them.

<Study>.b2nd, <Study>.json    one exam (features.store)
slices.parquet                a row a slice of the contest's tables: ids, split, row in the array (-1: not
                              stored), z, quarantine reason, measured numbers (NaN where not stored)
exams.parquet                 a row an exam: Study, split, measured numbers (heart and vessels: features.heart_and_vessels)
report.json                   slices stored and quarantined with the reasons counted, exams without a stored slice
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

from features.ingest import Ingested, IngestOrder, ingest_exam
from input.contest import ID_COLUMNS, SERIES, SOP, STUDY
from input.decoding import EXAM_TIMEOUT_S, ExamJob, Outcome, decode_exams
from input.tables import counted_reasons, load_slices
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.cluster import run_on_cluster, scheduler
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import write_json, write_table
from pipeline.isolated_call import run_isolated
from pipeline.settings import FeaturesSettings, Settings

VERSION = 2  # 2: measured heart and great vessels
#: Exams that a worker of a cluster takes at a time: the start of a process for them costs what a few exams do.
BATCH = 16


def build(settings: Settings, *, force: bool = False) -> None:
    """Ingest every exam of input/prepared that the store does not hold yet, then write both tables.

    A killed build goes on after the last exam that was written whole.

    Raises:
        UserError: input/prepared is missing or does not match its manifest, the disk is full, or not one exam
            could be stored.
    """
    product = store_artifact(settings)
    if product.is_current(force=force):
        return
    slices = load_slices()
    started = time.monotonic()
    with product.building(fresh=force) as directory:
        jobs = exam_jobs(slices, settings.data_root, directory, settings.features)
        total = slices.loc[slices["position"] >= 0, STUDY].nunique()
        outcomes = progress(_outcomes(jobs, settings.data_root), what="ingest", total=total, unit="exam")
        ingested = list(map(_ingested, outcomes))
        _require_a_stored_exam(ingested)
        slice_table, exam_table = assemble(slices, ingested)
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
        product.finish(rows={"exams": len(exam_table), "slices": stored}, metrics=metrics)
    _say(slice_table, exam_table, metrics)


def _require_a_stored_exam(ingested: list[Ingested]) -> None:
    """Where every exam failed, the cause lies in the tree or the machine, and an empty store helps nobody."""
    reasons = Counter(reason for each in ingested for reason in each.quarantine.values())
    if ingested and not any(each.sop_uids for each in ingested):
        most = [f"{count} slices: {reason}" for reason, count in reasons.most_common(5)]
        raise UserError.listing(f"None of {len(ingested)} exams could be stored:", most)


def store_exams(slices: pd.DataFrame, data_root: Path, directory: Path, settings: FeaturesSettings) -> None:
    """Ingest exams into a pixel store of their own, with both tables, as `build` does with the contest's.

    Args:
        slices: with the columns of slices.parquet of input/prepared.
        directory: an empty folder.
    """
    ingested = list(map(_ingested, decode_exams(exam_jobs(slices, data_root, directory, settings), ingest_exam)))
    for name, table in zip(("slices", "exams"), assemble(slices, ingested), strict=True):
        write_table(directory / f"{name}.parquet", table)


def store_artifact(settings: Settings) -> Artifact:
    """The product that `build` makes: [features] and the identity of input/prepared."""
    return Artifact(
        paths.store(),
        "features/store",
        version=VERSION,
        settings=dataclasses.asdict(settings.features),
        inputs={"input/prepared": read_manifest(paths.prepared())["identity"]},
    )


def exam_jobs(slices: pd.DataFrame, data_root: Path, directory: Path, settings: FeaturesSettings) -> Iterator[ExamJob]:
    """A job an exam with readable slices, its files feet to head; made one by one, a contest has two million files."""
    readable = slices[slices["position"] >= 0].sort_values([STUDY, "position"])
    for study, rows in readable.groupby(STUDY, sort=True):
        yield ExamJob(
            name=study,
            files=tuple(data_root / path for path in rows["path"]),
            payload=IngestOrder(rows[SERIES].iat[0], tuple(rows[SOP]), directory, settings),
        )


def _ingested(outcome: Outcome) -> Ingested:
    """What an ingest told; of an exam that failed as a whole, its slices with the reason."""
    if not outcome.fault:
        return outcome.value
    reasons = dict.fromkeys(outcome.job.payload.sop_uids, f"the exam could not be ingested: {outcome.fault}")
    return Ingested(outcome.name, (), pd.DataFrame(), {}, reasons)


def _outcomes(jobs: Iterator[ExamJob], data_root: Path) -> Iterator[Outcome]:
    """The exams ingested on this machine, or on the cluster, some at a time; in the order of `jobs`."""
    if not scheduler():
        yield from decode_exams(jobs, ingest_exam)
        return
    batches = iter(lambda: tuple(itertools.islice(jobs, BATCH)), ())
    for outcomes in run_on_cluster(_ingest_elsewhere, ((batch,) for batch in batches), reads=data_root):
        yield from outcomes


def _ingest_elsewhere(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    """Runs on a worker of the cluster: a hostile file takes down a process of its own, never the worker."""
    try:
        return run_isolated(_ingest_plainly, jobs, timeout_s=EXAM_TIMEOUT_S * len(jobs))
    except RuntimeError:  # a file killed, hung or broke its decoder: find out which; whole exams stay as they are
        return run_isolated(_ingest_guarded, jobs)


def _ingest_plainly(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    return [Outcome(job, ingest_exam(job, {})) for job in jobs]


def _ingest_guarded(jobs: tuple[ExamJob, ...]) -> list[Outcome]:
    return list(decode_exams(jobs, ingest_exam, workers=1, timeout_s=EXAM_TIMEOUT_S))


def assemble(slices: pd.DataFrame, ingested: list[Ingested]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join what the exams told to the slice table by UID; every slice and every exam keeps its row.

    Args:
        slices: slices.parquet of input/prepared.
        ingested: one entry an exam that had readable slices.

    Returns:
        (slice table, exam table) as the module's docstring says.
    """
    parts = [
        each.slices.assign(**{STUDY: each.study, SOP: each.sop_uids, "row": np.arange(len(each.sop_uids))})
        for each in ingested
        if each.sop_uids
    ]
    measured = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[STUDY, SOP, "row"])
    table = slices[[*ID_COLUMNS, "split", "z_mm", "quarantine"]].merge(
        measured, on=[STUDY, SOP], how="left", validate="1:1"
    )
    table["row"] = table["row"].fillna(-1).astype(np.int64)
    faults = {(each.study, sop): reason for each in ingested for sop, reason in each.quarantine.items()}
    found = pd.Series([faults.get(key, "") for key in zip(table[STUDY], table[SOP], strict=True)], index=table.index)
    table["quarantine"] = table["quarantine"].where(table["quarantine"] != "", found)
    numbers = pd.DataFrame([{STUDY: each.study, **each.numbers} for each in ingested])
    exams = slices[[STUDY, "split"]].drop_duplicates(STUDY)
    exams = exams.merge(numbers, on=STUDY, how="left", validate="1:1") if len(numbers) else exams
    return table, exams.reset_index(drop=True).reindex(columns=_with(exams.columns, "n_stored", "lungs_found"))


def report(slices: pd.DataFrame, exams: pd.DataFrame) -> dict[str, Any]:
    """What an ingest left out and why, counted; input/prepared/report.json counts syntaxes and flags."""
    return {
        "slices_stored": int((slices["row"] >= 0).sum()),
        "slices_quarantined": int((slices["quarantine"] != "").sum()),
        "quarantine_reasons": counted_reasons(slices["quarantine"]),
        "exams_not_stored": exams.loc[~(exams["n_stored"] > 0), STUDY].tolist(),
        "lungs_not_found": exams.loc[exams["lungs_found"] == 0, STUDY].tolist(),
    }


def _with(columns: pd.Index, *names: str) -> list[str]:
    """The columns, and these names where no exam was stored that would have brought them."""
    return [*columns, *(name for name in names if name not in columns)]


def _say(slices: pd.DataFrame, exams: pd.DataFrame, metrics: dict[str, float]) -> None:
    say(
        f"features/store: {int((exams['n_stored'] > 0).sum())} exams, {int((slices['row'] >= 0).sum())} slices, "
        f"{metrics['megabytes']:g} MB, {metrics['quarantined']} slices quarantined, "
        f"lungs not found in {metrics['lungs_not_found']} exams, {metrics['slices_per_second']:g} slices/s"
    )
    for reason, count in list(counted_reasons(slices["quarantine"]).items())[:5]:
        say(f"features/store: {count} slices: {reason}")
    for study in exams.loc[~(exams["n_stored"] > 0), STUDY].head(5):
        say(f"features/store: exam {study} has no usable slice; its rows get a stated prior later")
