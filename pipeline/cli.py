"""The arguments that every stage's commands share, and how a command ends."""

import argparse
import os
import sys
from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.settings import Settings, load_settings


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --settings, --set, --data, --scheduler and --force, which mean the same in every stage and in run.sh."""
    group = parser.add_argument_group("the experiment")
    group.add_argument(
        "--settings", metavar="FILE", default="settings/phantom.toml", help="one experiment (%(default)s)"
    )
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one setting, e.g. --set models.epochs=6 (repeatable)",
    )  # fmt: skip
    group.add_argument("--data", metavar="DIR", help="a contest tree; without it the phantom's is drawn and used")
    group.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="hand the jobs (headers, ingest, networks) to a Dask cluster, e.g. tcp://10.0.0.5:8786; its machines "
        "must see this checkout, the data and $PE_ROOT under the same paths",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="rebuild even what is up to date")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The resolved settings of a parsed command line; a scheduler goes into $PE_SCHEDULER, whence jobs read it."""
    if arguments.scheduler:
        os.environ["PE_SCHEDULER"] = arguments.scheduler
    return load_settings(arguments.settings, overrides=arguments.overrides, data=arguments.data)


def run(main: Callable[[], int | None]) -> None:
    """Call a command's main; a UserError ends it with a readable message and status 2."""
    try:
        sys.exit(main() or 0)
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
