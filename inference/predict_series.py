"""The finished ensemble on DICOM series that nobody labelled."""

import tempfile
import time
from pathlib import Path

import pandas as pd

from inference.evidence.evidence_report import Written, write_evidence
from inference.evidence.exam_cases import cases_of_studies
from inference.evidence.model_facts import describe_model
from inference.findings import Location, describe_locations, locate_exams, with_points
from inference.key_slice_maps import Maps
from inference.predicted_studies import WARNING, Predicted, predict_into
from inference.series_reader import Study, slice_table
from inference.side_calibration import fit_sides, opinions
from input.contest import EXAM_LABELS, SERIES, SLICE_LABEL, SOP, STUDY
from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_table
from pipeline.settings import Settings
from submissions.finished_run import read_candidates, trained_on_phantoms
from submissions.leaderboard import aligned


def predict_folder(settings: Settings, source: Path, out: Path, evidence: Path | None = None) -> None:
    """Print the nine exam labels of every study below a folder, and write its slice probabilities and the evidence.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either; archives in the folder are read too.
        out: the CSV: study, series and slice UID, z_mm (feet to head), pe_present_on_image.
        evidence: the HTML report; None: no report.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        found = predict_into(settings, source, Path(folder))
        started = time.monotonic()
        places, maps = places_of(settings, found, Path(folder))
        found.seconds["places"] = time.monotonic() - started
        for study in found.studies:
            say("\n".join(["", describe(study, found.labels(study)), *describe_locations(places[study.name])]))
        write_table(out, output_table(found.studies, found.slices))
        say(f"\nslice probabilities: {paths.shown(out)}")
        if evidence:
            written = _write_evidence(settings, found, places, maps, Path(folder), evidence)
            found.seconds["report"] = written.seconds
            say(f"evidence: {written}")
    say(f"time: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in found.seconds.items())}")
    if trained_on_phantoms():
        say(WARNING)


def places_of(settings: Settings, found: Predicted, store: Path) -> tuple[dict[str, list[Location]], Maps]:
    """Where each study shows PE, by the study's name, and the activation maps there: see `inference.findings`."""
    tables = (table for networks in found.networks.values() for table in networks.values())
    slices = found.slices.merge(slice_table(found.studies)[[SOP, "z_mm"]], on=SOP)
    try:
        fitted = fit_sides(settings)
    except UserError as fault:
        say(f"the sides are told as the networks say them, without calibration: {fault}")
        fitted = {}
    places = locate_exams(found.exams, slices, opinions(tables), fitted, found.measured.slices)
    return with_points(settings, store, places, dict.fromkeys(places, tuple(found.networks)))


def _write_evidence(
    settings: Settings, found: Predicted, places: dict[str, list[Location]], maps: Maps, store: Path, path: Path
) -> Written:
    started = time.monotonic()
    candidates = read_candidates(paths.ensemble_run())
    cases = cases_of_studies(found, places, candidates.promoted)
    model = describe_model(settings, candidates)
    return write_evidence(path, store, cases, model, settings, maps=maps, started=started)


def describe(study: Study, labels: pd.Series) -> str:
    """A study's labels as text; the probabilities obey the contest's rules, above 0.5 means yes."""
    lines = [f"study {study.study_uid}", f"series {study.series_uid} ({study.why})"]
    lines += [
        f"other series {each.series_uid} ({each.description or 'no description'}, {each.slices} slices): {each.reason}"
        for each in study.others
    ]
    lines += [f"odd about it: {', '.join(study.flags)}"] if study.flags else []
    lines += [f"not used: {path}: {reason}" for path, reason in study.quarantined[:10]]
    if len(study.quarantined) > 10:
        lines.append(f"not used: {len(study.quarantined) - 10} further files")
    cells = [[label, f"{labels[label]:.3f}", "yes" if labels[label] > 0.5 else ""] for label in EXAM_LABELS]
    return "\n".join([*lines, aligned(["label", "probability", ""], cells)])


def output_table(studies: list[Study], slices: pd.DataFrame) -> pd.DataFrame:
    """Slice probabilities with the UIDs of the files, each study feet to head."""
    found = slices.set_index(SOP)["label"]
    parts = [
        pd.DataFrame(
            {
                STUDY: study.study_uid,
                SERIES: study.series_uid,
                SOP: study.slices[SOP],
                "z_mm": study.slices["z_mm"],
                SLICE_LABEL: found.reindex(study.slices[SOP]).to_numpy(),
            }
        )
        for study in studies
    ]
    return pd.concat(parts, ignore_index=True)
