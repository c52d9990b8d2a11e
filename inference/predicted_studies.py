"""Apply the finished ensemble to unlabelled studies: read, store, run the networks, combine, decode."""

import dataclasses
import tempfile
import time
from pathlib import Path

import pandas as pd

from ensemble.apply_ensemble import apply
from ensemble.decode import decode
from ensemble.predictions import Measured, read_measured
from inference.clot_maps import ClotMap, predicted_clot_maps
from inference.series_reader import Study, read_studies, slice_table
from input.contest import STUDY
from models.apply_networks import predict_exams
from pipeline.console import say
from pipeline.settings import Settings
from submissions.finished_run import require_finished

#: Printed and exported with every prediction of networks that were trained on the synthetic contest.
SYNTHETIC_WARNING = "trained on synthetic exams (phantoms), not for clinical use"


@dataclasses.dataclass(frozen=True)
class PredictedStudies:
    """Studies and the finished ensemble's predictions for them.

    Attributes:
        studies: as they were read; `name` is the key of the tables.
        exams: STUDY (a study's name) and the nine labels, decoded: above 0.5 means yes.
        slices: STUDY, SOP and `label`, the probability of PE on the slice.
        measured: the numbers measured on the pixels.
        networks: fold -> network -> its predictions for every slice.
        maps: study name -> clot map.
        seconds: step -> its wall time.
    """

    studies: list[Study]
    exams: pd.DataFrame
    slices: pd.DataFrame
    measured: Measured
    networks: dict[int, dict[str, pd.DataFrame]]
    maps: dict[str, ClotMap]
    seconds: dict[str, float]

    def labels(self, study: Study) -> pd.Series:
        """The nine probabilities of one study."""
        return self.exams[self.exams[STUDY] == study.name].iloc[0]


def predict_studies(settings: Settings, source: Path) -> PredictedStudies:
    """Read every study below a folder, or in a zip archive, and apply the finished ensemble; nothing is kept on disk.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    with tempfile.TemporaryDirectory(prefix="predict-") as store:
        return predict_into_store(settings, source, Path(store))


def predict_into_store(settings: Settings, source: Path, store: Path) -> PredictedStudies:
    """Read every study below a folder, or in a zip archive, and apply the finished ensemble.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either.
        store: an empty folder, which becomes the studies' pixel store.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    require_finished(settings)
    times = [time.monotonic()]
    studies = read_studies(source, store, settings.features)
    say(f"{len(studies)} studies, {sum(len(study.slices) for study in studies)} slices read; running the networks")
    times.append(time.monotonic())
    networks = predict_exams(settings, store)
    maps = predicted_clot_maps(settings, store, networks.maps)
    times.append(time.monotonic())
    measured = read_measured(store)
    exams, slices = decode(*apply(networks.tables, slice_table(studies), measured=measured))
    times.append(time.monotonic())
    steps = ("reading and storing", "networks", "ensemble")
    seconds = {step: end - start for step, start, end in zip(steps, times, times[1:], strict=False)}
    return PredictedStudies(studies, exams, slices, measured, networks.tables, maps, seconds)
