"""Write the evidence report: exams and model as one HTML file."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.evidence.exam_cases import ExamCase
from inference.evidence.exam_page import Context, exam_page
from inference.evidence.exam_tables import QUALITY
from inference.evidence.html_page import write_page
from inference.evidence.model_facts import Model, describe_model, training_numbers
from inference.evidence.run_cases import cases_of_run
from inference.location_report import LOCATION, describe_location, measure_location
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import require_writable, write_json
from pipeline.settings import Settings
from submissions.finished_run import Candidates, read_candidates, require_finished, submission_artifact

#: The report of the stage's main command, in its own folder.
EVIDENCE = "evidence.html"
FORMAT_VERSION = 5  # 3: acceptance of every exam; 4: clot maps are averaged over backbones; 5: volumes of weak cells


@dataclasses.dataclass(frozen=True)
class WrittenReport:
    """Path, StudyInstanceUIDs in their order, size and wall time of a report."""

    path: Path
    studies: tuple[str, ...]
    megabytes: float
    seconds: float

    def __str__(self) -> str:
        exams = f"{len(self.studies)} exam{'' if len(self.studies) == 1 else 's'}"
        return f"{paths.shown(self.path)} ({exams}, {self.megabytes:.1f} MB, {self.seconds:.1f} s)"


def write_run_report(settings: Settings, *, force: bool = False) -> None:
    """Write the evidence report on the finished run's test exams, unless it is up to date.

    Args:
        settings: of the run.
        force: write it even if it is up to date.

    Raises:
        UserError: the run or its submissions are not finished.
    """
    require_finished(settings)
    candidates = read_candidates(paths.ensemble_run())
    artifact = _report_artifact(settings, candidates)
    if not artifact.is_current(force=force):
        with artifact.building(fresh=force) as directory:
            report = write_evidence(settings, candidates, directory / EVIDENCE)
            location = measure_location(settings, candidates, candidates.promoted)
            write_json(directory / LOCATION, location)
            artifact.finish(rows={"exams": len(report.studies)})
        say(f"\n{describe_location(location)}\n")
        say(f"evidence: {report}")
    say(f"experiment: {paths.experiment().name}, all results in {paths.shown(paths.experiment())}")


def _report_artifact(settings: Settings, candidates: Candidates) -> Artifact:
    """The artifact that `write_run_report` makes.

    The submissions' identity covers the networks, the ensemble, the prepared tables and the test truth; the store is
    the source of the pixels.
    """
    submission = submission_artifact(settings, candidates)
    reason = submission.stale_reason()
    if reason:
        raise UserError(
            f"{submission.name}: {reason}. The evidence report needs finished submissions. "
            "Write them: ./run.sh --from submissions"
        )
    return Artifact(
        paths.inference() / "evidence",
        "inference/evidence",
        version=FORMAT_VERSION,
        settings={"evidence": dataclasses.asdict(settings.inference.evidence)},
        inputs={
            "submissions": submission.identity,
            "store": read_manifest(paths.store())["identity"],
            "novelty": read_manifest(paths.novelty())["identity"],
        },
    )


def write_exam_report(settings: Settings, studies: Sequence[str], html: Path) -> None:
    """Write the evidence report on chosen exams of a finished run.

    Args:
        settings: of the run.
        studies: StudyInstanceUIDs; empty: the selection that [inference.evidence] describes.
        html: the HTML file.

    Raises:
        UserError: the run is not finished, or an exam is not part of it.
    """
    require_finished(settings)
    require_writable(html)
    candidates = read_candidates(paths.ensemble_run())
    say(f"evidence: {write_evidence(settings, candidates, html, studies=list(np.unique(studies)))}")


def write_evidence(
    settings: Settings, candidates: Candidates, html: Path, *, studies: Sequence[str] = ()
) -> WrittenReport:
    """Write the evidence report on exams of a finished run.

    Args:
        settings: of the run.
        candidates: the finished ensemble.
        html: the HTML file.
        studies: StudyInstanceUIDs; empty: the selection that [inference.evidence] describes.
    """
    started = time.monotonic()
    cases = cases_of_run(settings, candidates, studies)
    model = describe_model(settings, candidates)
    return write_report(html, paths.store(), cases, model, settings, started=started)


def write_report(
    html: Path,
    store: Path,
    cases: list[ExamCase],
    model: Model,
    settings: Settings,
    *,
    started: float | None = None,
) -> WrittenReport:
    """Write the evidence report on given exams.

    Args:
        html: the HTML file.
        store: the pixel store with the exams.
        cases: the exams, highest risk first.
        model: the promoted candidate.
        settings: of the run.
        started: when the work began (time.monotonic), for the reported wall time; None: now.
    """
    started = time.monotonic() if started is None else started
    context = Context(
        store=store,
        reliability=model.reliability,
        training=training_numbers([column for column, _, _ in QUALITY]),
        characters_per_exam=settings.inference.evidence.megabytes * 1e6 / max(1, len(cases)),
        mapped_slices=settings.inference.evidence.mapped_slices,
    )
    pages = [
        exam_page(number, case, context)
        for number, case in enumerate(progress(cases, desc="evidence", unit="exam"), start=1)
    ]
    write_page(html, pages, model)
    return WrittenReport(
        html, tuple(case.name for case in cases), html.stat().st_size / 1e6, time.monotonic() - started
    )
