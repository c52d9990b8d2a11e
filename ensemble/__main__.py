"""Commands of the ensemble stage: fit, search."""

import argparse

from pipeline import paths
from pipeline.cli import add_experiment_arguments, add_settings_arguments, run, settings_from
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
    _add_search(verbs)
    return top


def _add_search(verbs: argparse._SubParsersAction) -> None:
    search = verbs.add_parser(
        "search",
        help="try ensemble settings, choose some, and measure the gain on exams that chose nothing",
        description="Try settings of [ensemble] for an experiment whose networks are trained. Two thirds of the "
        "training exams choose the settings by their out-of-fold metric, the others measure the gain; the test exams "
        "are not used. Writes the chosen settings as a TOML file for --settings. Rerun the same command to resume a "
        "search that was stopped; a larger budget continues it.",
        epilog="examples: ./run.sh search --budget 40; ./run.sh search --budget 10 --networks",
    )
    add_experiment_arguments(search)
    search.add_argument(
        "--budget", metavar="N", type=int, default=20,
        help="number of trials, those of an earlier search included (default: %(default)s)",
    )  # fmt: skip
    search.add_argument(
        "--networks", action="store_true",
        help="first try N settings of [models]; each trial trains all networks, in an experiment of its own",
    )  # fmt: skip


def _fit(arguments: argparse.Namespace) -> int:
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


def _search(arguments: argparse.Namespace) -> int:
    from ensemble.search import search

    search(settings_from(arguments), budget=arguments.budget, networks=arguments.networks)
    return 0


_COMMANDS = {"fit": _fit, "search": _search}


def main() -> int:
    """Parse the command line and run the chosen verb."""
    arguments = parser().parse_args()
    return _COMMANDS[arguments.verb](arguments)


if __name__ == "__main__":
    run(main)
