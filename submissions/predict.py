"""The finished ensemble on DICOM series that nobody labelled."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ensemble.apply import apply
from ensemble.decode import decode
from ensemble.fit import fit_product
from ensemble.predictions import Measured, read_measured
from features.build import store_product
from input.contest import EXAM_LABELS, SERIES, SLICE_LABEL, SOP, STUDY
from models.predict import predict_exams, require_networks
from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_table
from pipeline.settings import Settings
from submissions.evidence.activations import Maps
from submissions.leaderboard import aligned
from submissions.locate import Location, describe_locations, locate_exams, with_points
from submissions.series_reader import Study, read_studies, slice_table
from submissions.sides import fit_sides, opinions
from submissions.write import read_candidates, trained_on_phantoms

if TYPE_CHECKING:
    from submissions.evidence.report import Written

WARNING = "trained on phantoms, not for clinical use"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What the finished ensemble says of some studies.

    Attributes:
        studies: as they were read; `name` is the key of the tables.
        exams: STUDY (a study's name) and the nine labels, decoded: above 0.5 means yes.
        slices: STUDY, SOP and `label`, the probability of PE on the slice.
        measured: the numbers measured on the pixels.
        networks: fold -> network -> what it says of every slice.
        seconds: what took how long.
    """

    studies: list[Study]
    exams: pd.DataFrame
    slices: pd.DataFrame
    measured: Measured
    networks: dict[int, dict[str, pd.DataFrame]]
    seconds: dict[str, float]

    def labels(self, study: Study) -> pd.Series:
        """The nine probabilities of one study."""
        return self.exams[self.exams[STUDY] == study.name].iloc[0]


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
    """Where each study shows PE, by the study's name, and the activation maps there: see `submissions.locate`."""
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
) -> "Written":
    started = time.monotonic()
    from submissions.evidence.cases import cases_of_studies
    from submissions.evidence.model import describe_model
    from submissions.evidence.report import write_evidence

    candidates = read_candidates(paths.ensemble_run())
    cases = cases_of_studies(found, places, candidates.promoted)
    model = describe_model(settings, candidates)
    return write_evidence(path, store, cases, model, settings, maps=maps, started=started)


def predict_studies(settings: Settings, source: Path) -> Predicted:
    """Read every study below a folder, or in a zip archive, and apply the finished ensemble; nothing is kept on disk.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        return predict_into(settings, source, Path(folder))


def predict_into(settings: Settings, source: Path, store: Path) -> Predicted:
    """The same, into an empty folder that becomes the studies' pixel store.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    require_finished(settings)
    times = [time.monotonic()]
    studies = read_studies(source, store, settings.features)
    say(f"{len(studies)} studies, {sum(len(each.slices) for each in studies)} slices read; running the networks")
    times.append(time.monotonic())
    networks = predict_exams(settings, store)
    times.append(time.monotonic())
    measured = read_measured(store)
    exams, slices = decode(*apply(networks, slice_table(studies), measured=measured))
    times.append(time.monotonic())
    parts = ("reading and storing", "networks", "ensemble")
    seconds = {name: end - start for name, start, end in zip(parts, times, times[1:], strict=False)}
    return Predicted(studies, exams, slices, measured, networks, seconds)


def require_finished(settings: Settings) -> None:
    """Make sure that store, networks and ensemble on disk were made with these settings and can be applied.

    Raises:
        UserError: what is missing or differs, and how to go on.
    """
    # The ensemble's identity names the networks that lie there, whatever settings trained them.
    require_networks(settings)
    for product in (store_product(settings), fit_product(settings)):
        reason = product.stale_reason()
        if reason:
            raise UserError(
                f"{product.name}: {reason}; this needs a finished run: ./run.sh, or give the --settings, --set "
                "and --data of the run that is finished"
            )


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
