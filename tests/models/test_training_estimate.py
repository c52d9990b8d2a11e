"""Estimates of the training: memory and duration."""

import dataclasses

import pytest

from models.estimate import TRAINING_BYTES, memory_bytes, training_hours
from pipeline.estimates import EIGHT_GPUS, ONE_GPU, Hardware
from pipeline.settings import ExamNetworkSettings, ModelsSettings, Settings


def test_memory_grows_with_the_number_of_parallel_jobs() -> None:
    assert memory_bytes(Settings(), available_cores=4) == 4 * TRAINING_BYTES
    one_worker = Settings(models=ModelsSettings(workers=1))
    assert memory_bytes(one_worker, available_cores=4) == TRAINING_BYTES


def test_hours_grow_with_the_slices_and_shrink_with_the_gpus() -> None:
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",), epochs=4, epoch_slices=10_000))
    once = training_hours(settings, 0, 0, ONE_GPU)
    twice = dataclasses.replace(settings, models=dataclasses.replace(settings.models, epochs=8))
    assert training_hours(twice, 0, 0, ONE_GPU) == pytest.approx(2 * once)
    assert training_hours(settings, 0, 0, EIGHT_GPUS) == pytest.approx(once / 3)  # three folds
    assert training_hours(settings, 0, 0, Hardware("", 1)) > 5 * once


def test_exam_networks_need_predictions_for_all_training_slices() -> None:
    """A slice network alone predicts its held-out fold and the test slices; for an exam network all slices."""
    models = ModelsSettings(backbones=("mobilenetv2",), epochs=1, epoch_slices=1)
    alone = Settings(models=models)
    embedded = Settings(models=dataclasses.replace(models, exam=ExamNetworkSettings(kinds=("gru",))))
    assert training_hours(embedded, 30_000, 0, ONE_GPU) == pytest.approx(
        3 * training_hours(alone, 30_000, 0, ONE_GPU), rel=1e-3
    )
