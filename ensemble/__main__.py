"""Commands of the ensemble stage: fit."""

import argparse

from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.experiments import start
from pipeline.stage_plan import StagePlan, add_dry_run_arguments, artifact_states, print_plan


def parser() -> argparse.ArgumentParser:
    """The command line of `./run.sh ensemble`."""
    top = argparse.ArgumentParser(
        prog="./run.sh ensemble",
        description="Combine the networks' predictions: LightGBM stack, logit mean and baselines; promote one of them.",
        epilog="example: ./run.sh ensemble fit --settings settings/phantom.toml",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    fit = verbs.add_parser(
        "fit",
        help="fit every candidate on the networks' out-of-fold predictions and predict the test exams",
        description="Reads networks, store and tables. Writes the artifact ensemble/fit: the predictions of "
        "every candidate (out-of-fold and test), the fitted second-level models, and which candidate was promoted.",
        epilog="example: ./run.sh ensemble fit --set ensemble.exam_rounds=400",
    )
    add_settings_arguments(fit)
    add_dry_run_arguments(fit)
    return top


def main() -> int:
    """Parse the command line and fit the ensemble."""
    arguments = parser().parse_args()
    settings = settings_from(arguments)
    if arguments.dry_run:
        print_plan(StagePlan("ensemble", artifact_states([paths.ensemble_run()])), as_json=arguments.json)
        return 0
    from ensemble.fit_ensemble import fit
    from ensemble.fit_novelty import fit_novelty
    from models.apply_networks import require_networks
    from models.network_artifacts import connect_networks

    start(settings)
    connect_networks(settings)
    require_networks(settings)  # networks on disk may have been trained with other settings
    fit(settings, force=arguments.force)
    fit_novelty(settings, force=arguments.force)
    return 0


if __name__ == "__main__":
    run(main)
