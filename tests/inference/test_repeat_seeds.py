"""Repeats with several seeds: the spread, the promotions, and the gain of averaging."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from inference.comparison import OUT_OF_FOLD, TEST, Finished
from inference.repeat_seeds import describe, gain, repeat
from input.contest import EXAM_LABELS, SLICE_LABEL, SOP, STUDY
from pipeline.errors import UserError
from pipeline.settings import Settings, SubmissionsSettings
from submissions.finished_run import Candidates
from submissions.score import Truth
from tests.support.submission_cases import predict, random_labels

SETTINGS = Settings(submissions=SubmissionsSettings(bootstrap=100))


def finished(name: str, seed: int) -> Finished:
    """An experiment with noisy predictions on 60 exams."""
    labels = random_labels(60, seed=1)
    truth = Truth(labels.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]], labels[[STUDY, SOP, SLICE_LABEL]])
    predictions = predict(labels, strength=1.0, seed=seed)
    candidates = Candidates(Path("."), ("stack",), "stack", name)
    return Finished(name, SETTINGS, candidates, "stack", "exams", {OUT_OF_FOLD: predictions}, {OUT_OF_FOLD: truth})


def averaged(runs: list[Finished]) -> Finished:
    exams, slices = (table.copy() for table in runs[0].predictions[OUT_OF_FOLD])
    for table, columns, part in ((exams, list(EXAM_LABELS), 0), (slices, ["label"], 1)):
        table[columns] = np.mean([run.predictions[OUT_OF_FOLD][part][columns] for run in runs], axis=0)
    return dataclasses.replace(runs[0], name="blend", predictions={OUT_OF_FOLD: (exams, slices)})


def test_the_spread_the_promotions_and_the_gain_are_printed() -> None:
    runs = [finished(f"seed{seed}", seed) for seed in (1, 2, 3)]
    text = describe(runs, [["mean", "stack"], ["stack"], ["stack"]], averaged(runs))
    for line in ("seed2", "mean of the seeds", "standard deviation", "mean in 1 of 3, stack in 3 of 3"):
        assert line in text
    assert "averaging the seeds, out of fold: -" in text and TEST not in text.splitlines()[0]


def test_averaging_noise_is_a_gain_whose_interval_is_paired() -> None:
    losses = [(np.full(50, value), np.ones(50)) for value in (0.3, 0.5, 0.35)]
    interval = gain(losses, finished("blend", 1))
    assert (interval.value, interval.low, interval.high) == pytest.approx((-0.05, -0.05, -0.05))


def test_one_seed_is_no_repeat() -> None:
    with pytest.raises(UserError, match="--seeds 1: expected at least 2"):
        repeat(argparse.Namespace(), 1)
