"""Commands of the submissions stage: results, whole experiments, submission files, and Kaggle."""

import argparse
from pathlib import Path

from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.experiments import start
from pipeline.stage_plan import StagePlan, add_dry_run_arguments, artifact_states, print_plan
from submissions.experiment_verbs import COMMANDS as EXPERIMENT_COMMANDS
from submissions.experiment_verbs import add_experiment_verbs

_FILE, _TREE = "experiments/phantom/submission.csv", "experiments/phantom/artifacts/raw"


def parser() -> argparse.ArgumentParser:
    """Build the command line of `./run.sh submissions`."""
    top = argparse.ArgumentParser(
        prog="./run.sh submissions",
        description="Write valid submission files, score them, and package a finished run for Kaggle.",
        epilog=f"example: ./run.sh submissions check-submission {_FILE} --data {_TREE}",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_run_verbs(verbs)
    _add_file_verbs(verbs)
    _add_kaggle_verbs(verbs)
    add_experiment_verbs(verbs)
    return top


def _add_run_verbs(verbs: argparse._SubParsersAction) -> None:
    write = _add(
        verbs, "write", "decode, write and check every candidate's CSV; extend the leaderboard; write report and card",
        "./run.sh submissions write --settings settings/phantom.toml",
    )  # fmt: skip
    add_dry_run_arguments(write)
    _add(
        verbs, "leaderboard", "print every run and candidate, best CV first within each data set",
        "./run.sh leaderboard", settings=False,
    )  # fmt: skip
    _add(
        verbs, "card", "write the model card of a finished experiment: model_card.md and .json in its folder",
        "./run.sh card",
    )  # fmt: skip


def _add_file_verbs(verbs: argparse._SubParsersAction) -> None:
    check = _add(
        verbs, "check-submission", "list every fault of a submission; exit code 1 if there is one",
        f"./run.sh check-submission {_FILE} --data {_TREE}", settings=False,
    )  # fmt: skip
    check.add_argument("file", metavar="FILE", type=Path, help="the submission")
    check.add_argument("--data", metavar="DIR", type=Path, required=True, help="the contest tree with test.csv")
    score = _add(
        verbs, "score", "print the contest's metric of a submission, its parts and confidence intervals",
        f"./run.sh score {_FILE} --truth {_TREE}/truth/test_truth.csv", settings=False,
    )  # fmt: skip
    score.add_argument("file", metavar="FILE", type=Path, help="the submission")
    score.add_argument("--truth", metavar="CSV", type=Path, required=True, help="labels in the columns of train.csv")
    score.add_argument(
        "--bootstrap", metavar="N", type=int, default=1000, help="resamples of exams (default: %(default)s)"
    )
    score.add_argument("--seed", metavar="N", type=int, default=31, help="of the resamples (default: %(default)s)")


def _add_kaggle_verbs(verbs: argparse._SubParsersAction) -> None:
    upload = _add(
        verbs, "upload", "check a submission and upload it to Kaggle; without --really only print the command",
        f"./run.sh upload {_FILE} --data ~/rsna --really -m 'stack, 5 folds'", settings=False,
    )  # fmt: skip
    upload.add_argument("file", metavar="FILE", type=Path, help="the submission")
    upload.add_argument("--data", metavar="DIR", type=Path, required=True, help="the contest tree with test.csv")
    upload.add_argument("--really", action="store_true", help="upload it; needs the `kaggle` command and its token")
    upload.add_argument(
        "-m", "--message", metavar="TEXT", default="pulmonary-embolism-ensemble",
        help="description of the submission (default: %(default)s)",
    )  # fmt: skip
    upload.add_argument("-c", "--competition", metavar="NAME", help="the competition's name in its URL")
    upload.add_argument("--kernel", metavar="USER/NOTEBOOK", default="", help="the notebook whose output FILE is")
    upload.add_argument("--version", metavar="N", default="", help="the notebook's version")
    pack = _add(
        verbs, "kaggle-dataset", "package code, finished run and the list of wheels as data sets for a Kaggle notebook",
        "./run.sh kaggle-dataset --out ~/kaggle --user me --wheels --python python3.11",
    )  # fmt: skip
    pack.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    pack.add_argument(
        "--user", metavar="NAME", default="USER", help="the data sets' owner on Kaggle (default: %(default)s)"
    )
    pack.add_argument("--wheels", action="store_true", help="also download the wheels with pip")
    pack.add_argument(
        "--python", metavar="COMMAND", default="", help="a Python of Kaggle's version, for --wheels (default: this one)"
    )
    notebook = _add(
        verbs, "notebook", "write the notebook that runs the packaged ensemble on Kaggle without Internet",
        "./run.sh notebook --out pe.ipynb --user me", settings=False,
    )  # fmt: skip
    notebook.add_argument("--out", metavar="FILE.ipynb", type=Path, required=True, help="the notebook")
    notebook.add_argument(
        "--user", metavar="NAME", default="", help="also write kernel-metadata.json for `kaggle kernels push`"
    )


def _add(
    verbs: argparse._SubParsersAction, name: str, summary: str, example: str, settings: bool = True
) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    verb = verbs.add_parser(name, help=summary, description=description, epilog=f"example: {example}")
    if settings:
        add_settings_arguments(verb)
    return verb


def _write(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    if arguments.dry_run:
        print_plan(StagePlan("submissions", artifact_states([paths.submissions()])), as_json=arguments.json)
        return 0
    from ensemble.fit_ensemble import connect_ensemble
    from submissions.finished_run import require_finished
    from submissions.write_submission import write_all

    start(settings)
    connect_ensemble(settings)
    require_finished(settings)  # leaderboard and card record these settings as those of the run
    write_all(settings, force=arguments.force)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from submissions.check_submission import check_file
    from submissions.kaggle_csv import read_layout

    layout = read_layout(arguments.data)
    faults = check_file(arguments.file, layout)
    if faults:
        say(f"{paths.shown(arguments.file)}: not valid, {len(faults)} kind{'s' if len(faults) > 1 else ''} of fault")
        for fault in faults:
            say(f"  - {fault}")
        return 1
    facts = f"{len(layout.ids)} rows, {len(layout.studies)} exams, {len(layout.slices)} slices"
    say(f"{paths.shown(arguments.file)}: valid ({facts}, no rule violation)")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from submissions.score import describe, score_file

    say(describe(score_file(arguments.file, arguments.truth, bootstrap=arguments.bootstrap, seed=arguments.seed)))
    return 0


def _leaderboard(arguments: argparse.Namespace) -> int:
    from submissions.leaderboard import leaderboard_path, read_leaderboard, whole_table

    rows = read_leaderboard(leaderboard_path())
    say(whole_table(rows) if len(rows) else f"{paths.shown(leaderboard_path())}: no runs yet. Start one: ./run.sh")
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from submissions.model_card import card_command

    card_command(settings_from(arguments))
    return 0


def _upload(arguments: argparse.Namespace) -> int:
    from submissions.kaggle.kaggle_upload import COMPETITION, Upload, upload

    request = Upload(
        arguments.file, arguments.competition or COMPETITION, arguments.message, arguments.kernel, arguments.version
    )
    upload(request, arguments.data.expanduser(), really=arguments.really)
    return 0


def _kaggle_dataset(arguments: argparse.Namespace) -> int:
    from submissions.kaggle.kaggle_dataset import download_wheels, pack

    out = arguments.out.expanduser()
    pack(settings_from(arguments), out, user=arguments.user)
    if arguments.wheels:
        download_wheels(out, arguments.python)
    return 0


def _notebook(arguments: argparse.Namespace) -> int:
    from submissions.kaggle.kaggle_notebook import write_notebook

    write_notebook(arguments.out.expanduser(), user=arguments.user)
    return 0


_COMMANDS = {
    "write": _write,
    "check-submission": _check,
    "score": _score,
    "leaderboard": _leaderboard,
    "card": _card,
    "upload": _upload,
    "kaggle-dataset": _kaggle_dataset,
    "notebook": _notebook,
    **EXPERIMENT_COMMANDS,
}


def main() -> int:
    """Parse the command line and run its command."""
    arguments = parser().parse_args()
    return _COMMANDS[arguments.verb](arguments)


if __name__ == "__main__":
    run(main)
