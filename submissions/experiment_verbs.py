"""Verbs on whole experiments: experiments, blend, clean, export."""

import argparse
from pathlib import Path

from pipeline.console import say


def add_experiment_verbs(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs to the command line of the submissions stage."""
    listing = verbs.add_parser(
        "experiments", help="list all experiments: scores, size on disk, complete or how far",
        description="List all experiments: date, data, scores, size on disk, complete or how far.",
        epilog="example: ./run.sh experiments --check",
    )  # fmt: skip
    listing.add_argument(
        "--check", action="store_true", help="instead, compare every file of all artifacts and results with its sha256"
    )
    blend = verbs.add_parser(
        "blend", help="an ensemble over the networks of several finished experiments",
        description="Make an experiment with the networks of several finished ones of the same exams and folds, and "
        "run it: no network is trained, an ensemble is fitted and promoted by the same rule.",
        epilog="example: ./run.sh blend phantom phantom,models.seed=18 --name two-seeds",
    )  # fmt: skip
    blend.add_argument("names", metavar="NAME", nargs="+", help="finished experiments; ./run.sh experiments lists them")
    blend.add_argument("--name", metavar="NAME", default="", help="name of the new experiment (default: all names)")
    clean = verbs.add_parser(
        "clean", help="list the artifacts that no experiment uses, with their sizes; --yes deletes them",
        description="List the artifacts that no experiment uses, with their sizes. To remove an experiment, remove "
        "its folder; then its own artifacts are listed here.",
        epilog="example: ./run.sh clean --yes",
    )  # fmt: skip
    clean.add_argument("--yes", action="store_true", help="delete them")
    export = verbs.add_parser(
        "export", help="write a finished experiment as one file that predicts on another machine",
        description="Write a finished experiment as one zip file: networks, trees, settings, model card, checksums; no "
        "pickle, no pixels, no labels. `predict --model FILE.zip` uses it.",
        epilog="example: ./run.sh export phantom model.zip",
    )  # fmt: skip
    export.add_argument("name", metavar="NAME", help="the experiment; ./run.sh experiments lists them")
    export.add_argument("file", metavar="FILE.zip", type=Path, help="the file to write")


def experiments(arguments: argparse.Namespace) -> int:
    """Print all experiments, or check their files."""
    if arguments.check:
        from submissions.check_artifacts import check_artifacts

        check_artifacts()
        return 0
    from submissions.experiment_table import experiments_table

    say(experiments_table())
    return 0


def blend(arguments: argparse.Namespace) -> int:
    """Blend experiments."""
    from submissions.blend_experiments import blend as blend_experiments

    return blend_experiments(arguments.names, arguments.name)


def clean(arguments: argparse.Namespace) -> int:
    """Print or delete unused artifacts."""
    from submissions.experiment_table import clean as clean_artifacts

    clean_artifacts(really=arguments.yes)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Export an experiment."""
    from pipeline import paths
    from pipeline.experiments import recorded_settings
    from submissions.packed_model import export_model

    settings = recorded_settings(arguments.name)
    paths.select_experiment(arguments.name)
    export_model(settings, arguments.file.expanduser())
    return 0


COMMANDS = {"experiments": experiments, "blend": blend, "clean": clean, "export": export}
