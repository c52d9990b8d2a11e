"""Trials of training settings: each trains the networks of an experiment of its own, on the same exams and folds."""

import subprocess

from ensemble.search_study import TrialFailed
from pipeline import paths
from pipeline.console import say
from pipeline.experiments import experiment_of, start
from pipeline.settings import Settings


def train_trial(base: str, number: int, settings: Settings) -> None:
    """Train the networks of a trial; what is finished is reused. Its experiment becomes the current one.

    Args:
        base: name of the experiment that the search starts from.
        number: of the trial.
        settings: of the trial.

    Raises:
        TrialFailed: the training failed.
    """
    name = experiment_of(settings, f"{base},search={number}", is_chosen=False)
    paths.select_experiment(name)
    start(settings)
    say(f"search: experiment {name}")
    command = [str(paths.CHECKOUT / "run.sh"), "--name", name, "--from", "models", "--to", "models"]
    if subprocess.run(command).returncode:
        raise TrialFailed(
            f"The training of trial {number} failed: {name}. The log is named above. If the cause is not the recipe, "
            f"remove it first. Rerun the same command: the search continues with another trial."
        )
