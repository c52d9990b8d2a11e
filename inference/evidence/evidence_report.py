"""Writes the evidence report: cases and the model become one HTML file."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.evidence.exam_cases import Case, cases_of_run
from inference.evidence.exam_page import QUALITY, Context, exam_page, key_rows
from inference.evidence.html_page import write_page
from inference.evidence.model_facts import Model, describe_model, training_numbers
from inference.key_slice_maps import Maps, activation_maps
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.settings import Settings
from submissions.finished_run import Candidates, read_candidates, require_finished, submission_artifact

#: The report of the main job, in its own folder.
EVIDENCE = "evidence.html"


@dataclasses.dataclass(frozen=True)
class Written:
    """A report that was written: where, how many exams, how large, how long it took."""

    path: Path
    exams: int
    megabytes: float
    seconds: float

    def __str__(self) -> str:
        return f"{paths.shown(self.path)} ({self.exams} exams, {self.megabytes:.1f} MB, {self.seconds:.1f} s)"


def write_run_evidence(
    settings: Settings, candidates: Candidates, path: Path, *, wanted: Sequence[str] = (), run: str = ""
) -> Written:
    """The report of a finished run.

    Args:
        settings: of the run.
        candidates: the finished ensemble.
        path: the HTML file.
        wanted: StudyInstanceUIDs; empty: the selection that [inference.evidence] describes.
        run: identity of the submissions; empty: of those that lie there.
    """
    started = time.monotonic()
    cases = cases_of_run(settings, candidates, wanted)
    model = describe_model(settings, candidates, run)
    return write_evidence(path, paths.store(), cases, model, settings, started=started)


def write_evidence(
    path: Path, store: Path, cases: list[Case], model: Model, settings: Settings, *,
    maps: Maps | None = None, started: float | None = None,
) -> Written:  # fmt: skip
    """Write the report of some cases.

    Args:
        path: the HTML file.
        store: the pixel store that holds the cases.
        cases: the exams, the likeliest PE first.
        model: the promoted candidate.
        settings: of the run.
        maps: activation maps that are there already, such as of the places' key slices; None: they are made here.
        started: when the work began (time.monotonic), to tell how long it took.
    """
    started = time.monotonic() if started is None else started
    context = Context(
        store=store,
        reliability=model.reliability,
        training=training_numbers([column for column, _, _ in QUALITY]),
        budget=settings.inference.evidence.megabytes * 1e6 / max(1, len(cases)),
        activations=_activations(settings, store, cases) if maps is None else maps,
    )
    pages = [
        exam_page(number, case, context)
        for number, case in enumerate(progress(cases, what="evidence", unit="exam"), start=1)
    ]
    write_page(path, pages, model)
    return Written(path, len(cases), path.stat().st_size / 1e6, time.monotonic() - started)


def _activations(settings: Settings, store: Path, cases: list[Case]) -> Maps:
    """Maps of the key slices; of many exams fewer, as [inference.evidence] says."""
    evidence = settings.inference.evidence
    count, folds = evidence.mapped_slices, {case.name: case.folds for case in cases}
    backbones = len(settings.models.backbones)
    if count * backbones * sum(map(len, folds.values())) > evidence.most_maps:
        count, folds = min(count, 1), {name: some[:1] for name, some in folds.items()}
        cases = cases[: evidence.most_maps // backbones]  # they are sorted by risk
    return activation_maps(settings, store, {case.name: key_rows(store, case, count) for case in cases}, folds)


def write_evidence_command(settings: Settings, exams: Sequence[str], out: Path) -> None:
    """`python -m inference evidence`: the report of a finished run, of chosen exams where some are named."""
    require_finished(settings)
    written = write_run_evidence(settings, read_candidates(paths.ensemble_run()), out, wanted=list(np.unique(exams)))
    say(f"evidence: {written}")


def write_run_report(settings: Settings, *, force: bool = False) -> None:
    """Write the evidence report of the finished run's test exams, unless it is up to date.

    Args:
        settings: of the run.
        force: write it even when it is up to date.

    Raises:
        UserError: the submissions of this run are not finished.
    """
    require_finished(settings)
    candidates = read_candidates(paths.ensemble_run())
    submission = submission_artifact(settings, candidates)
    reason = submission.stale_reason()
    if reason:
        raise UserError(f"{submission.name}: {reason}; the report needs it: ./run.sh --from submissions")
    product = Artifact(
        paths.inference() / "evidence",
        "inference/evidence",
        version=1,
        settings={"evidence": dataclasses.asdict(settings.inference.evidence)},
        inputs={"submissions": submission.identity, "store": read_manifest(paths.store())["identity"]},
    )
    if product.is_current(force=force):
        return
    with product.building(fresh=force):
        written = write_run_evidence(settings, candidates, product.directory / EVIDENCE, run=submission.identity)
        product.finish(rows={"exams": written.exams}, metrics={})
    say(f"evidence: {written}")
