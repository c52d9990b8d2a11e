"""Arguments shared by all stage commands, and the exit of a command."""

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Callable

from pipeline import paths
from pipeline.errors import UserError
from pipeline.experiments import default_name, experiment_of, is_experiment, is_recipe, recorded_settings
from pipeline.load_settings import load_settings
from pipeline.settings import Settings

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DEFAULT_SETTINGS = "settings/phantom.toml"


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of an experiment and --force, which mean the same in every stage and in run.sh."""
    add_experiment_arguments(parser)
    parser.add_argument("--force", action="store_true", help="rebuild even what is up to date")


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --data, --settings, --set, --name and --scheduler: what is computed, and where."""
    group = parser.add_argument_group("experiment")
    group.add_argument("--data", metavar="DIR", help="a contest tree (train/, test/, train.csv, test.csv); "
                       "without it a synthetic contest is generated and used")  # fmt: skip
    group.add_argument(
        "--settings", metavar="FILE", default=DEFAULT_SETTINGS, help="an experiment (default: %(default)s)"
    )
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one setting, e.g. --set models.epochs=6 (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--name", metavar="NAME", default="",
        help="name of the experiment (default: the settings file's, with the overrides); without other options, the "
        "settings of a finished experiment of this name are used",
    )  # fmt: skip
    group.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="run headers, ingest and training on a Dask cluster, e.g. tcp://node1:8786; its machines must see this "
        "checkout, the data and PE_ROOT under the same paths",
    )  # fmt: skip


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Resolve the settings of a parsed command line, and make their experiment the current one.

    Jobs read the scheduler's address from $PE_SCHEDULER.

    Raises:
        UserError: invalid settings, or the name of an experiment with other settings.
    """
    if arguments.scheduler:
        os.environ["PE_SCHEDULER"] = arguments.scheduler
    name, overrides = arguments.name, arguments.overrides
    has_recipe = arguments.settings != DEFAULT_SETTINGS or any(map(is_recipe, overrides)) or arguments.data
    if name and not has_recipe and is_experiment(name):
        paths.select_experiment(name)
        return recorded_settings(name, overrides)
    settings = load_settings(arguments.settings, overrides=overrides, data=arguments.data)
    wanted = name or default_name(arguments.settings, overrides)
    paths.select_experiment(experiment_of(settings, wanted, is_chosen=bool(name)))
    return settings


def experiment_options(arguments: argparse.Namespace) -> list[str]:
    """The options that start another command on the same experiment; those at their default are left out."""
    options = ["--data", arguments.data] if arguments.data else []
    options += ["--settings", arguments.settings] if arguments.settings != DEFAULT_SETTINGS else []
    options += [word for override in arguments.overrides for word in ("--set", override)]
    options += ["--name", arguments.name] if arguments.name else []
    return options + (["--scheduler", arguments.scheduler] if arguments.scheduler else [])


def run(main: Callable[[], int | None]) -> None:
    """Call the main function of a command and exit.

    The status is what `main` returns, 2 after a UserError or on a full disk (printed without a traceback), 130 after an
    interrupt.
    """
    try:
        sys.exit(main() or 0)
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except OSError as fault:
        if isinstance(fault, BrokenPipeError):
            sys.exit(141)
        if fault.errno not in _DISK_FULL:
            raise
        place = fault.filename or f"{paths.root()} or temporary files in {tempfile.gettempdir()}"
        print(
            f"error: the disk is full: {place}. Delete some files, or set PE_ROOT or TMPDIR to folders on a larger "
            "disk. Rerun the same command to resume.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted. Rerun the same command to resume.", file=sys.stderr)
        sys.exit(130)
