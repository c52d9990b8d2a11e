"""Commands about the run itself; run.sh calls them. All but `doctor`'s library list need no installed package."""

import argparse
import os
from pathlib import Path

from pipeline import doctor, environment, paths, plan
from pipeline.cli import add_settings_arguments, run, settings_from

EPILOG = """examples:
  python -m pipeline plan --set models.epochs=6     are these settings valid, and how far is the work?
  python -m pipeline setup                          .venv and the ImageNet wheels, when missing or stale
  python -m pipeline lock --upgrade                 newer versions into the lock files (needs uv)
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    top = argparse.ArgumentParser(
        prog="python -m pipeline",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    each = verbs.add_parser("setup", help="fill .venv from its lock file and fetch the ImageNet wheels")
    each.add_argument("--check", action="store_true", help="change nothing; status 1 when there is something to do")
    each = verbs.add_parser("plan", help="resolve the settings, and tell how far each stage's products are")
    add_settings_arguments(each)
    each.add_argument("--quiet", action="store_true", help="only check the settings")
    each = verbs.add_parser("doctor", help="machine, environment and products in one screen")
    add_settings_arguments(each)
    verbs.add_parser("lock", help="write requirements-*.lock anew from pyproject.toml; further flags go to uv")
    return top


def main() -> int:
    """Parse, then call one function."""
    arguments, rest = parser().parse_known_args()
    if rest and arguments.verb != "lock":
        parser().error(f"unknown arguments: {' '.join(rest)}")
    venv = Path(os.environ.get("PE_VENV") or paths.CHECKOUT / ".venv")
    if arguments.verb == "lock":
        environment.write_locks(rest)
    elif arguments.verb == "setup":
        return _set_up(venv, arguments.check)
    elif arguments.verb == "plan":
        lines = plan.describe(settings_from(arguments), arguments.settings)
        print("" if arguments.quiet else "\n".join(lines) + "\n", end="")
    else:
        return _doctor(arguments, venv)
    return 0


def _set_up(venv: Path, check: bool) -> int:
    if check:
        return 0 if environment.set_up_is_current(venv) else 1
    environment.set_up(venv)
    return 0


def _doctor(arguments: argparse.Namespace, venv: Path) -> int:
    lines, faults = doctor.examine(settings_from(arguments), venv)
    print("\n".join(lines))
    for fault in faults:
        print(f"LACKING       {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
