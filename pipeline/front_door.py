"""Options and help of `./run.sh`: the main job, its commands and its variables; standard library only.

run.sh calls this module first. It prints the help or the plan of a dry run; otherwise it only checks options and
settings, so that a misspelt one is reported before the set-up.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline import paths
from pipeline.cli import add_experiment_arguments, experiment_options, run, settings_from
from pipeline.environment import set_up_is_current
from pipeline.plan import describe, stage_plans
from pipeline.stages import MAIN_COMMANDS

STAGES = tuple(MAIN_COMMANDS)
DESCRIPTION = """From DICOM files to a scored Kaggle submission (RSNA-STR Pulmonary Embolism Detection).
Without a command, ./run.sh runs every stage whose results are missing or stale.
Rerun the same command to resume a run that was stopped, even by kill -9."""
COMMANDS = """commands (COMMAND --help explains the arguments of each)
  use the finished run
    predict DICOM_DIR       nine exam labels and the findings of unlabelled series, with an evidence report
    predict-contest TREE    a complete submission for the test exams of a contest tree
    export-dicom            predictions as DICOM objects for a PACS (--series DIR --out DIR, --seg)
    evidence                the evidence report on exams of your choice (--exams UID ... --out HTML)
    card                    the model card of the run
    leaderboard             out-of-fold scores of all runs and candidates, with intervals
  compare experiments
    experiments             all experiments: scores, size on disk, complete or how far (--check: files too)
    compare A B             settings, paired bootstrap of every figure, exams that changed most
    blend A B ...           an ensemble over the networks of several experiments
    repeat                  the same recipe with several seeds (--seeds N): spread, and the gain of averaging
    search                  try ensemble settings, and training settings with --networks; states the gain
    export NAME FILE.zip    one file that predicts on another machine (predict --model FILE.zip)
    clean                   artifacts that no experiment uses; --yes deletes them
  check data and results
    check-data TREE         list every fault of a contest tree
    check-store             list raw files that changed since they were read
    check-submission FILE   list every fault of a submission (--data TREE)
    score FILE              the contest's metric, label by label (--truth CSV)
  Kaggle
    upload FILE             check a submission and show the upload command; --really uploads it
    kaggle-dataset          pack code and finished run as Kaggle data sets (--out DIR)
    notebook                the notebook that runs them without Internet (--out FILE.ipynb)
  machine and development
    doctor                  check machine, environment, data and artifacts; list everything that is missing
    scheduler               start a Dask scheduler on this machine; arguments go to `dask scheduler`
    worker ADDRESS          start Dask workers on this machine; arguments go to `dask worker`
    test                    run the tests; arguments go to pytest
    bench NAME              one of the benchmarks that benchmarks/README.md lists
    lock                    rewrite the lock files from pyproject.toml (needs uv)
  any command of a stage
    STAGE VERB              e.g. ./run.sh input phantom --page page.png; ./run.sh STAGE --help lists the verbs

examples
  ./run.sh                                                run everything on the synthetic contest
  ./run.sh --dry-run --data ~/rsna --settings settings/rsna.toml
                                                          artifacts, disk space and hours of the real contest
  ./run.sh --data ~/rsna --settings settings/rsna.toml    the real contest
  ./run.sh --from models --force                          train again, and rebuild what depends on it
  ./run.sh --data ~/rsna --scheduler tcp://node1:8786     on several machines
  ./run.sh predict ~/scans/series7                        exam labels and a CSV of slice probabilities
  ./run.sh worker tcp://node1:8786 --nthreads 4           work for a scheduler, one job per thread
  ./run.sh test -k metric                                 some of the tests

environment variables
  PE_ROOT        folder for artifacts, logs and weights (default: the checkout)
  PE_DEVICE      cpu or gpu: the TensorFlow build (default: gpu if nvidia-smi lists a card)
  PE_VENV        folder of the Python environment (default: .venv)
  PE_PYTHON      use this Python with its packages as they are; nothing is installed
  KERAS_BACKEND  tensorflow (default), jax or torch
"""
#: Top-level commands of run.sh, for suggestions.
SHORTCUTS = (
    "predict", "predict-contest", "export-dicom", "evidence", "card", "leaderboard", "experiments", "compare", "blend",
    "repeat", "search", "export", "clean", "check-data", "check-store", "check-submission", "score", "upload",
    "kaggle-dataset", "notebook", "doctor", "scheduler", "worker", "test", "bench", "lock", "pipeline", *STAGES,
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A parser whose errors name the help instead of repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n./run.sh --help lists options and commands.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="./run.sh",
        usage="./run.sh [options]    or    ./run.sh COMMAND [arguments]",
        description=DESCRIPTION,
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_experiment_arguments(parser)
    group = parser.add_argument_group("stages", f"in this order: {', '.join(STAGES)}")
    group.add_argument("--from", metavar="STAGE", dest="first", choices=STAGES, default=STAGES[0], help="start here")
    group.add_argument("--to", metavar="STAGE", dest="last", choices=STAGES, default=STAGES[-1], help="stop after it")
    group.add_argument("--force", action="store_true", help="rebuild the selected stages even if they are up to date")
    group.add_argument(
        "--dry-run", action="store_true",
        help="print what exists, what would run, and the estimated disk space and hours; for data that are not there, "
        "the published counts of the contest are used",
    )  # fmt: skip
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the main job.

    Returns:
        data, settings, overrides, scheduler, first, last, force and dry_run.

    Raises:
        SystemExit: status 0 after --help, status 2 with a message after a wrong option.
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], SHORTCUTS, n=1)
        suggestion = f". Did you mean {nearest[0]}?" if nearest else ""
        parser.error(f"unknown option or command: {unknown[0]}{suggestion}")
    if STAGES.index(arguments.first) > STAGES.index(arguments.last):
        parser.error(f"--from {arguments.first} is after --to {arguments.last}")
    if arguments.data and not arguments.dry_run and not Path(arguments.data).expanduser().is_dir():
        parser.error(f"--data {arguments.data}: no such folder")
    return arguments


def selected_stages(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Names of the stages from --from to --to."""
    return STAGES[STAGES.index(arguments.first) : STAGES.index(arguments.last) + 1]


def _describe_environment() -> str:
    if os.environ.get("PE_PYTHON"):
        return f"{os.environ['PE_PYTHON']} (PE_PYTHON), used as it is"
    venv = Path(os.environ.get("PE_VENV") or paths.CHECKOUT / ".venv")
    state = "up to date" if set_up_is_current(venv) else "missing or stale; ./run.sh installs it first"
    return f"{paths.shown(venv)}: {state}"


def main() -> int:
    """Check options and settings; print the plan of a dry run."""
    arguments = parse(sys.argv[1:])
    settings_from(arguments)
    if arguments.dry_run:
        plans = stage_plans(experiment_options(arguments))
        print(f"{'environment':<13} {_describe_environment()}")
        print("\n".join(describe(plans, arguments.settings, selected_stages(arguments))))
    return 0


if __name__ == "__main__":
    run(main)
