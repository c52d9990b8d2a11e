"""How well rules and novelty catch exams that must not be read without a warning, on a finished run.

    ./run.sh bench acceptance
    ./run.sh bench acceptance --exams 3

Every kind of fault in `benchmarks.shifts` is applied to some synthetic test exams of the finished run under PE_ROOT,
which are read, stored, measured and judged like new scans. The score of an exam is its outcome (0 assessable, 1
caution, 2 not assessable), and among equal outcomes its distance to the training exams. For each kind: outcomes, exams
beyond the limit of the distance, and the AUROC against all clean test exams, for the rules with the distance and for
the distance alone. Half of the kinds were never looked at while thresholds were chosen. For clean exams: outcomes and
their reasons.

On shifted exams that are not assessable, the contest's metric of the networks is compared with that of the prior, exam
labels only. Synthetic data.
"""

import argparse
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.shifts import HELD_OUT, TUNED, Shift
from ensemble.apply_ensemble import apply
from ensemble.candidates import PRIOR
from ensemble.decode import decode
from ensemble.fit_novelty import measure_novelty, novelty_reason, read_distances, read_references
from ensemble.predictions import measured_of
from features.acceptance_measurements import measure_acceptance
from features.acceptance_rules import Acceptance, Outcome, judge
from features.build_acceptance import read_acceptance, training_step_mm
from features.build_store import assemble
from features.ingest import ingest_series
from features.store import open_exam
from input.contest import EXAM_LABELS, SERIES, SOP, STUDY
from input.dicom import Series, read_series
from input.metric import EXAM_WEIGHTS
from input.tables import load_exams
from models.apply_networks import FinishedNetworks
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.settings import Settings
from submissions.bootstrap_intervals import RankedScores
from submissions.finished_run import require_finished, truth_path
from submissions.score import read_truth
from submissions.text_table import text_table

LEVELS = {Outcome.ASSESSABLE: 0, Outcome.CAUTION: 1, Outcome.NOT_ASSESSABLE: 2}


@dataclasses.dataclass(frozen=True)
class Judged:
    """One exam: rules and distance together, the rules alone, the distance, and the metric's exam part if refused."""

    kind: str
    acceptance: Acceptance
    distance: float
    network_loss: float = np.nan
    prior_loss: float = np.nan

    @property
    def score(self) -> float:
        """Outcome, then distance: the larger, the less the exam should be trusted."""
        return LEVELS[self.acceptance.outcome] + float(np.clip(self.distance / 100, 0, 0.99))


class FinishedJudge:
    """The finished run, applied to series in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._networks = settings, FinishedNetworks(settings)
        self._references, self._step_mm = read_references(), training_step_mm()

    def judge(self, kind: str, series: Series, truth: pd.Series) -> Judged:
        """Store, measure and predict a series as `./run.sh predict` does."""
        with tempfile.TemporaryDirectory(prefix="acceptance-") as folder:
            store = Path(folder)
            ingested = ingest_series(series, store, self._settings.features)
            measured = measure_acceptance(open_exam(store, series.study_uid), ingested.slices, ingested.numbers)
            networks = self._networks.predict(store, [series.study_uid])
        slices = pd.DataFrame({STUDY: series.study_uid, SERIES: "", SOP: series.sop_uids, "z_mm": series.z_mm})
        tables = assemble(slices.assign(split="test", quarantine=""), [ingested])
        owner = np.repeat(series.study_uid, len(series.sop_uids))
        distance = measure_novelty(self._references, networks.embeddings, owner)[series.study_uid]
        acceptance = judge(measured, self._step_mm).with_reason(novelty_reason(distance))
        if acceptance.allows_labels:
            return Judged(kind, acceptance, distance)
        losses = [
            exam_loss(decode(*apply(networks.tables, slices, measured=measured_of(*tables), candidate=name))[0], truth)
            for name in (None, PRIOR)
        ]
        return Judged(kind, acceptance, distance, *losses)


def exam_loss(exams: pd.DataFrame, truth: pd.Series) -> float:
    """The metric's exam part of one exam."""
    probability = exams[list(EXAM_LABELS)].iloc[0].clip(1e-6, 1 - 1e-6)
    label = truth[list(EXAM_LABELS)].astype(float)
    losses = -(label * np.log(probability) + (1 - label) * np.log(1 - probability))
    weights = pd.Series(EXAM_WEIGHTS)[list(EXAM_LABELS)]
    return float((weights * losses).sum() / weights.sum())


def clean_exams() -> list[Judged]:
    """The run's own test exams."""
    exams = load_exams()
    acceptance, distances = read_acceptance(), read_distances()
    studies = [study for study in exams.loc[exams["split"] == "test", STUDY] if study in acceptance]
    return [
        Judged("clean", acceptance[study].with_reason(novelty_reason(distances[study])), distances[study])
        for study in studies
    ]


def auroc(shifted: Sequence[float], clean: Sequence[float]) -> float:
    """Probability that a shifted exam has the larger score; ties count half."""
    truth = np.r_[np.ones(len(shifted)), np.zeros(len(clean))]
    return RankedScores(np.r_[shifted, clean], truth, np.arange(len(truth))).auc()


def table_rows(shifted: list[Judged], clean: list[Judged], kinds: dict[str, Shift], title: str) -> list[list[str]]:
    """One row per kind, and one for all of them."""
    rows = []
    for kind in [*kinds, title]:
        exams = [exam for exam in shifted if exam.kind == kind or (kind == title and exam.kind in kinds)]
        outcomes = Counter(exam.acceptance.outcome for exam in exams)
        beyond = sum(exam.distance > 1 for exam in exams)
        reasons = Counter(reason.rule for exam in exams for reason in exam.acceptance.reasons)
        scores = auroc([exam.score for exam in exams], [exam.score for exam in clean])
        alone = auroc([exam.distance for exam in exams], [exam.distance for exam in clean])
        named = ", ".join(f"{rule} {count}" for rule, count in reasons.most_common(3)) if kind != title else ""
        counts = [str(outcomes[level]) for level in Outcome]
        rows.append([kind, *counts, str(beyond), f"{scores:.3f}", f"{alone:.3f}", named])
    return rows


def report(shifted: list[Judged], clean: list[Judged]) -> None:
    """Print the tables."""
    head = ["kind", *(str(outcome) for outcome in Outcome), "unlike", "AUROC", "distance alone", "rules (exams)"]
    for kinds, title in ((TUNED, "all looked at"), (HELD_OUT, "all never looked at")):
        say(f"\n{text_table(head, table_rows(shifted, clean, kinds, title))}")
    everything = auroc([exam.score for exam in shifted], [exam.score for exam in clean])
    outcomes = Counter(str(exam.acceptance.outcome) for exam in clean)
    say(f"\nall kinds together: AUROC {everything:.3f}")
    say(f"{len(clean)} clean test exams: {', '.join(f'{count} {name}' for name, count in sorted(outcomes.items()))}")
    for exam in clean:
        if exam.acceptance.reasons:
            say(f"  {exam.acceptance.line()}")
    refused = [exam for exam in shifted if not exam.acceptance.allows_labels]
    if refused:
        losses = np.array([[exam.network_loss, exam.prior_loss] for exam in refused])
        networks, prior = losses.mean(axis=0)
        say(
            f"{len(refused)} shifted exams that are not assessable, metric's exam part: networks {networks:.3f}, prior "
            f"{prior:.3f}; the prior is better on {np.mean(losses[:, 1] < losses[:, 0]):.0%} of them"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="./run.sh bench acceptance", description=__doc__.splitlines()[0])
    parser.add_argument("--exams", metavar="N", type=int, default=10, help="exams per kind (default %(default)s)")
    add_settings_arguments(parser)
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    require_finished(settings)
    truth = read_truth(truth_path(settings)).exams.set_index(STUDY)
    judge_of_run = FinishedJudge(settings)
    clean, shifted = clean_exams(), []
    studies = sorted(truth.index)[:: max(1, len(truth) // arguments.exams)][: arguments.exams]
    for number, study in enumerate(progress(studies, desc="shifted exams", unit="exam")):
        series = dataclasses.replace(read_series(settings.data_root / "test" / study), study_uid=study)
        for kind, shift in (TUNED | HELD_OUT).items():
            faulty = shift(series, np.random.default_rng([number, len(kind)]))
            shifted.append(judge_of_run.judge(kind, faulty, truth.loc[study]))
    report(shifted, clean)


if __name__ == "__main__":
    run(main)
