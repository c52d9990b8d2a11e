"""Commands on a run as a whole: setup, plan, doctor, lock. They need no installed package."""

import argparse
import os
from pathlib import Path

from pipeline import doctor, environment, paths, plan
from pipeline.cli import add_experiment_arguments, experiment_options, run, settings_from
from pipeline.stages import MAIN_COMMANDS

EPILOG = """examples:
  ./run.sh pipeline plan --set models.epochs=6   which artifacts exist, and the estimated disk space and hours
  ./run.sh pipeline setup                        .venv and the ImageNet wheels, if missing or stale
  ./run.sh doctor --data ~/rsna                  everything that a run needs, before it starts
  ./run.sh lock --upgrade                        newer versions in the lock files (needs uv)
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `./run.sh pipeline`."""
    top = argparse.ArgumentParser(
        prog="./run.sh pipeline",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    setup = verbs.add_parser("setup", help="install .venv from its lock file and download the ImageNet wheels")
    setup.add_argument("--check", action="store_true", help="change nothing; status 1 if there is something to do")
    add_experiment_arguments(verbs.add_parser("plan", help="print artifacts, and estimated disk space and hours"))
    add_experiment_arguments(verbs.add_parser("doctor", help="check machine, environment, data and artifacts"))
    verbs.add_parser("lock", help="rewrite requirements-*.lock from pyproject.toml; further options go to uv")
    return top


def main() -> int:
    """Parse the command line and call one function."""
    arguments, uv_options = parser().parse_known_args()
    if uv_options and arguments.verb != "lock":
        parser().error(f"unknown arguments: {' '.join(uv_options)}")
    venv = Path(os.environ.get("PE_VENV") or paths.CHECKOUT / ".venv")
    if arguments.verb == "lock":
        environment.write_locks(uv_options)
    elif arguments.verb == "setup":
        return _set_up(venv, arguments.check)
    elif arguments.verb == "plan":
        settings_from(arguments)
        plans = plan.stage_plans(experiment_options(arguments))
        print("\n".join(plan.describe(plans, arguments.settings, tuple(MAIN_COMMANDS))))
    else:
        return _doctor(arguments, venv)
    return 0


def _set_up(venv: Path, check: bool) -> int:
    if check:
        return 0 if environment.set_up_is_current(venv) else 1
    environment.set_up(venv)
    return 0


def _doctor(arguments: argparse.Namespace, venv: Path) -> int:
    lines, faults = doctor.examine(settings_from(arguments), experiment_options(arguments), venv)
    print("\n".join(lines))
    for fault in faults:
        print(f"{'MISSING':<13} {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
