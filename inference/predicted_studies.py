"""Apply the finished ensemble to unlabelled studies: read, store, run the networks, combine, decode."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.apply_ensemble import apply
from ensemble.decode import decode
from ensemble.fit_novelty import measure_novelty, novelty_reason, read_references
from ensemble.predictions import Measured, measured_of
from features.acceptance_rules import Acceptance, judge
from features.build_acceptance import training_step_mm
from features.build_store import assemble
from features.exam_measurements import enhancement_hu
from inference.clot_maps import ClotMap, predicted_clot_maps
from inference.series_reader import Study, read_studies, slice_table
from input.contest import STUDY
from models.apply_networks import FinishedNetworks, NetworkPredictions
from pipeline.console import say
from pipeline.settings import Settings
from submissions.finished_run import require_finished

#: The steps of a prediction that are timed.
STEPS = ("networks", "ensemble")
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
        acceptance: study name -> whether it can be assessed, with reasons.
        seconds: step -> its wall time.
    """

    studies: list[Study]
    exams: pd.DataFrame
    slices: pd.DataFrame
    measured: Measured
    networks: dict[int, dict[str, pd.DataFrame]]
    maps: dict[str, ClotMap]
    acceptance: dict[str, Acceptance]
    seconds: dict[str, float]

    def labels(self, study: Study) -> pd.Series:
        """The nine probabilities of one study."""
        return self.exams[self.exams[STUDY] == study.name].iloc[0]


class FinishedRun:
    """The finished run, opened once and applied to one group of studies after another.

    Args:
        settings: those of the run.

    Raises:
        UserError: networks that are missing, damaged or have other settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._networks = FinishedNetworks(settings)
        self._training_step_mm, self._references = training_step_mm(), read_references()

    def predict(self, store: Path, studies: list[Study]) -> PredictedStudies:
        """Predict studies that were read into a store."""
        times = [time.monotonic()]
        enhancement = {study.name: enhancement_hu(study.ingested.numbers) for study in studies}
        networks = self._networks.predict(store, [study.name for study in studies], enhancement)
        maps = predicted_clot_maps(self._settings, store, networks.maps, [study.name for study in studies])
        times.append(time.monotonic())
        acceptance = self._acceptance(studies, networks)
        measured = measured_numbers(studies)
        exams, slices = decode(*apply(networks.tables, slice_table(studies), measured=measured))
        times.append(time.monotonic())
        seconds = {step: end - start for step, start, end in zip(STEPS, times, times[1:], strict=False)}
        return PredictedStudies(studies, exams, slices, measured, networks.tables, maps, acceptance, seconds)

    def _acceptance(self, studies: list[Study], networks: NetworkPredictions) -> dict[str, Acceptance]:
        """Judge the measurements of every study, and its distance to the training exams."""
        owner = np.repeat([study.name for study in studies], [len(study.slices) for study in studies])
        distance = measure_novelty(self._references, networks.embeddings, owner)
        return {
            study.name: judge(study.quality, self._training_step_mm).with_reason(novelty_reason(distance[study.name]))
            for study in studies
        }


def measured_numbers(studies: list[Study]) -> Measured:
    """The numbers measured on the pixels of studies."""
    slices = slice_table(studies).assign(split="test", quarantine="")
    return measured_of(*assemble(slices, [study.ingested for study in studies]))


def predict_into_store(settings: Settings, source: Path, store: Path) -> PredictedStudies:
    """Read every study below a folder, or in a zip archive, and apply the finished ensemble to all of them together.

    Args:
        settings: those of the finished run.
        source: one series, a folder of studies, or a zip archive of either.
        store: an empty folder, which becomes the studies' pixel store.

    Raises:
        UserError: no finished run with these settings, or no usable series.
    """
    require_finished(settings)
    studies = read_studies(source, store, settings.features)
    say(f"{len(studies)} studies, {sum(len(study.slices) for study in studies)} slices read; running the networks")
    return FinishedRun(settings).predict(store, studies)
