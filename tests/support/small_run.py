"""A small experiment, run in this process up to the ensemble; only its networks are trained in another process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.__main__ import main as ensemble_main
from features.__main__ import main as features_main
from input.__main__ import main as input_main
from models.__main__ import main as models_main
from pipeline import paths
from pipeline.load_settings import load_settings
from pipeline.settings import Settings

NAME, FILE = "small", "settings/tests.toml"
# One job at a time, with all cores: as many threads as a job on a cluster whose worker has one thread.
OVERRIDES = (
    'models.backbones=["mobilenetv2"]', "models.weights=none", "models.workers=1", "models.epochs=2",
    "models.used_share=0.2", "models.frozen_share=0.1", "models.exam.kinds=[]", "models.flip_tta=false",
    "models.height=32", "models.width=32", "models.epoch_slices=32", "models.artery_hu=350.0",
    "phantom.rows=64", "phantom.slices=14", "phantom.train_exams=10", "phantom.test_exams=3",
    "ensemble.exam_rounds=10", "ensemble.slice_rounds=10",
)  # fmt: skip
OPTIONS = ["--name", NAME, "--settings", FILE, *(word for override in OVERRIDES for word in ("--set", override))]


def select(root: Path, patch: pytest.MonkeyPatch) -> Settings:
    """Make the experiment under an artifact root the current one; return its settings."""
    patch.setenv("PE_ROOT", str(root))
    paths.select_experiment(NAME)
    return load_settings(FILE, overrides=OVERRIDES)


def command(main: Callable[[], object], *words: str) -> None:
    """Run a command of a stage in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stage", *words])
        main()


def finish_small_run(root: Path) -> None:
    """Run the experiment up to the ensemble, under an artifact root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(root))
        patch.setenv(paths.EXPERIMENT, "")
        command(input_main, "prepare", *OPTIONS)
        command(features_main, "build", *OPTIONS)
        command(models_main, "train", *OPTIONS)
        command(ensemble_main, "fit", *OPTIONS)
