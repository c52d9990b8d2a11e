"""The artifact features/acceptance: the acceptance measurements of every stored exam.

    exams.parquet    Study, split and the columns of `features.acceptance_measurements`

The manifest records the median slice distance of the training exams and the number of exams per outcome. Outcomes are
not stored: `read_acceptance` applies the rules (`features.acceptance_rules`), so a changed rule needs no new
measurements.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from features.acceptance_measurements import FIELDS, AcceptanceMeasurements, measure_acceptance
from features.acceptance_rules import Acceptance, Outcome, Reason, accept, judge
from features.store import open_exam, store_table, stored_studies
from input.contest import STUDY
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.files import read_table, write_table
from pipeline.jobs import run_jobs

VERSION = 1
TRAINING_STEP = "training_step_mm"
NOT_STORED = accept((Reason("not stored", "no readable slice", True),))


def acceptance_artifact() -> Artifact:
    """The artifact that `build_acceptance` writes; its input is the store alone."""
    return Artifact(
        paths.acceptance(),
        "features/acceptance",
        version=VERSION,
        settings={},
        inputs={"features/store": read_manifest(paths.store())["identity"]},
        shared=True,
    )


def build_acceptance(*, force: bool = False) -> None:
    """Measure every exam of the store.

    Args:
        force: rebuild even when the measurements are up to date.

    Raises:
        UserError: no finished store.
    """
    artifact = acceptance_artifact()
    if artifact.is_current(force=force):
        return
    with artifact.building(fresh=True) as directory:
        table = measure_store(paths.store())
        write_table(directory / "exams.parquet", table)
        step_mm = float(table.loc[table["split"] == "train", "step_mm"].median())
        outcomes = Counter(str(acceptance.outcome) for acceptance in judged(table, step_mm).values())
        metrics = {TRAINING_STEP: step_mm if np.isfinite(step_mm) else None, "outcomes": dict(sorted(outcomes.items()))}
        artifact.finish(rows={"exams": len(table)}, metrics=metrics)
    say(f"features/acceptance: {', '.join(f'{outcomes[outcome]} exams {outcome}' for outcome in Outcome)}")


def measure_store(store: Path) -> pd.DataFrame:
    """Measure every exam of a pixel store that has both of its tables.

    Returns:
        STUDY, `split` and the columns of FIELDS, one row per stored exam.

    Raises:
        UserError: a table does not match the store's manifest.
    """
    slices, exams = store_table(store, "slices"), store_table(store, "exams")
    studies = stored_studies(store)
    if slices is None or exams is None or not studies:
        return pd.DataFrame(columns=[STUDY, "split", *FIELDS])
    rows_by_study = dict(list(slices[slices["row"] >= 0].sort_values("row").groupby(STUDY)))
    numbers = exams.set_index(STUDY).to_dict("index")
    jobs = [(store, study, rows_by_study[study], numbers[study]) for study in studies]
    measured = list(run_jobs(_measure, jobs, desc="acceptance", workers=0 if len(jobs) > 8 else 1, reads=store))
    return pd.DataFrame(
        [
            {STUDY: study, "split": numbers[study]["split"], **numbers_of_exam.as_dict()}
            for study, numbers_of_exam in zip(studies, measured, strict=True)
        ]
    )


def _measure(store: Path, study: str, slices: pd.DataFrame, numbers: dict[str, float]) -> AcceptanceMeasurements:
    import cv2

    cv2.setNumThreads(1)  # exams are distributed over the cores already
    return measure_acceptance(open_exam(store, study), slices, numbers)


def judged(table: pd.DataFrame, training_step_mm: float) -> dict[str, Acceptance]:
    """StudyInstanceUID -> acceptance by the rules.

    Args:
        table: from `measure_store`.
        training_step_mm: median slice distance of the training exams; NaN where unknown.
    """
    return {
        row[STUDY]: judge(AcceptanceMeasurements(**{field: row[field] for field in FIELDS}), training_step_mm)
        for row in table.to_dict("records")
    }


def training_step_mm() -> float:
    """Median slice distance of the training exams of the finished run; NaN where unknown.

    Raises:
        UserError: the run has no acceptance measurements.
    """
    step_mm = read_manifest(paths.acceptance())["metrics"][TRAINING_STEP]
    return np.nan if step_mm is None else float(step_mm)


def read_acceptance() -> dict[str, Acceptance]:
    """StudyInstanceUID -> acceptance by the rules, of every stored exam of the finished run.

    Raises:
        UserError: the run has no acceptance measurements, or they do not match their manifest.
    """
    verify(paths.acceptance(), ["exams.parquet"])
    return judged(read_table(paths.acceptance() / "exams.parquet"), training_step_mm())
