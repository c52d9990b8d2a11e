"""Commands of the submissions: write, check, score, leaderboard, model card, Kaggle."""

import argparse
from pathlib import Path

from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m submissions",
        description="Valid submission files, their scores, and predictions for unlabelled series.",
        epilog="example: python -m submissions check submissions/submission.csv --data input/raw/phantom",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add(
        verbs, "write", "decode, write and check every candidate's CSV; extend the leaderboard; write the report",
        "python -m submissions write --settings settings/phantom.toml",
    )  # fmt: skip
    check = _add(
        verbs, "check", "list every fault of a submission; exit code 1 when there is one",
        "python -m submissions check submissions/submission.csv --data input/raw/phantom", settings=False,
    )  # fmt: skip
    check.add_argument("file", metavar="FILE", type=Path, help="the submission")
    check.add_argument("--data", metavar="DIR", type=Path, required=True, help="the contest tree with test.csv")
    scoring = _add(
        verbs, "score", "the contest's metric of a submission against labels, taken apart",
        "python -m submissions score submissions/submission.csv --truth input/raw/phantom/truth/test_truth.csv",
        settings=False,
    )  # fmt: skip
    scoring.add_argument("file", metavar="FILE", type=Path, help="the submission")
    scoring.add_argument("--truth", metavar="CSV", type=Path, required=True, help="labels in the columns of train.csv")
    scoring.add_argument("--bootstrap", metavar="N", type=int, default=1000, help="resamples of exams (%(default)s)")
    scoring.add_argument("--seed", metavar="N", type=int, default=31, help="of the resamples (%(default)s)")
    _add(
        verbs, "leaderboard", "every run and candidate so far, best CV first within each data set",
        "python -m submissions leaderboard", settings=False,
    )  # fmt: skip
    _add_run_verbs(verbs)
    _add_kaggle_verbs(verbs)
    return parser


def _add_run_verbs(verbs: argparse._SubParsersAction) -> None:
    _add(
        verbs, "card", "write the model card of the finished run: submissions/results/model_card.md and .json",
        "python -m submissions card",
    )  # fmt: skip


def _add_kaggle_verbs(verbs: argparse._SubParsersAction) -> None:
    upload = _add(
        verbs, "upload", "check a submission and send it to Kaggle; without --really only the command is shown",
        "python -m submissions upload submissions/submission.csv --data ~/rsna --really -m 'stack, 5 folds'",
        settings=False,
    )  # fmt: skip
    upload.add_argument("file", metavar="FILE", type=Path, help="the submission")
    upload.add_argument("--data", metavar="DIR", type=Path, required=True, help="the contest tree with test.csv")
    upload.add_argument("--really", action="store_true", help="send it; needs the `kaggle` command and its token")
    upload.add_argument("-m", "--message", metavar="TEXT", default="pulmonary-embolism-ensemble", help="(%(default)s)")
    upload.add_argument("-c", "--competition", metavar="NAME", help="the competition's name in its address")
    upload.add_argument("--kernel", metavar="USER/NOTEBOOK", default="", help="FILE is that notebook's output")
    upload.add_argument("--version", metavar="N", default="", help="the notebook's version")
    pack = _add(
        verbs, "kaggle-dataset", "pack code, finished run and the list of wheels as data sets for a Kaggle notebook",
        "python -m submissions kaggle-dataset --out ~/kaggle --user me --wheels --python python3.11",
    )  # fmt: skip
    pack.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    pack.add_argument("--user", metavar="NAME", default="USER", help="the data sets' owner on Kaggle (%(default)s)")
    pack.add_argument("--wheels", action="store_true", help="also run the `pip download` that fills the wheels' folder")
    pack.add_argument(
        "--python", metavar="COMMAND", default="", help="a Python of Kaggle's version, for --wheels (this one)"
    )
    notebook = _add(
        verbs, "notebook", "write the notebook that runs the packed ensemble on Kaggle without Internet",
        "python -m submissions notebook --out pe.ipynb --user me", settings=False,
    )  # fmt: skip
    notebook.add_argument("--out", metavar="FILE.ipynb", type=Path, required=True, help="the notebook")
    notebook.add_argument(
        "--user", metavar="NAME", default="", help="also write kernel-metadata.json, for `kaggle kernels push`"
    )


def _add(
    verbs: argparse._SubParsersAction, name: str, what: str, example: str, settings: bool = True
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", epilog=f"example: {example}")
    if settings:
        add_settings_arguments(verb)
    return verb


def _write(arguments: argparse.Namespace) -> int:
    from submissions.finished_run import require_finished
    from submissions.write_submission import write_all

    settings = settings_from(arguments)
    require_finished(settings)  # leaderboard and card say that these settings made the run
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
    say(whole_table(rows) if len(rows) else f"{paths.shown(leaderboard_path())}: no run yet; start one with ./run.sh")
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from submissions.model_card import card_command

    card_command(settings_from(arguments))
    return 0


def _upload(arguments: argparse.Namespace) -> int:
    from submissions.kaggle.kaggle_upload import COMPETITION, Upload, upload

    order = Upload(
        arguments.file, arguments.competition or COMPETITION, arguments.message, arguments.kernel, arguments.version
    )
    upload(order, arguments.data.expanduser(), really=arguments.really)
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


def main() -> int:
    """Parse the command line and call the one function behind its verb."""
    arguments = _parser().parse_args()
    verbs = {
        "write": _write, "check": _check, "score": _score, "leaderboard": _leaderboard, "card": _card, "upload": _upload,
        "kaggle-dataset": _kaggle_dataset,
        "notebook": _notebook,
    }  # fmt: skip
    return verbs[arguments.verb](arguments)


if __name__ == "__main__":
    run(main)
