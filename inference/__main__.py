"""Commands of the inference stage: report, predict, predict-contest, evidence, export-dicom, compare, repeat."""

import argparse
from pathlib import Path

from pipeline import paths
from pipeline.cli import add_experiment_arguments, add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.experiments import start
from pipeline.settings import Settings
from pipeline.stage_plan import StagePlan, add_dry_run_arguments, artifact_states, print_plan

_SERIES_HELP = "a series, a folder of studies, or a zip archive"


def parser() -> argparse.ArgumentParser:
    """Build the command line of `./run.sh inference`."""
    top = argparse.ArgumentParser(
        prog="./run.sh inference",
        description="Predict new exams and show the evidence behind the predictions.",
        epilog="example: ./run.sh inference predict my_scans --out slices.csv",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    report = _add_verb(
        verbs, "report", "write the evidence report on the finished run's test exams",
        "./run.sh inference report --settings settings/phantom.toml", keeps_artifact=True,
    )  # fmt: skip
    add_dry_run_arguments(report)
    _add_predict(verbs)
    _add_predict_contest(verbs)
    _add_evidence(verbs)
    _add_export_dicom(verbs)
    _add_compare(verbs)
    _add_repeat(verbs)
    return top


def _add_predict(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs, "predict", "predict the nine exam labels and the findings of unlabelled DICOM series",
        "./run.sh inference predict my_scans --out slices.csv",
    )  # fmt: skip
    parser.add_argument("dicom_dir", metavar="DICOM_DIR", type=Path, help=_SERIES_HELP)
    parser.add_argument(
        "--out", metavar="CSV", type=Path, default=Path("predicted_slices.csv"),
        help="slice probabilities (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--evidence", metavar="HTML", type=Path, default=Path("predicted_evidence.html"),
        help="the evidence report, one self-contained HTML file (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--force-labels", action="store_true", help="also show labels and findings of studies that are not assessable"
    )
    parser.add_argument("--no-evidence", action="store_true", help="write the CSV only, no evidence report")
    _add_model(parser)


def _add_predict_contest(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs, "predict-contest", "write a complete submission for the test exams of a contest tree",
        "./run.sh inference predict-contest ~/rsna --out submission.csv", keeps_artifact=True,
    )  # fmt: skip
    parser.add_argument("tree", metavar="TREE", type=Path, help="a contest tree with test.csv and test/")
    parser.add_argument("--out", metavar="CSV", type=Path, required=True, help="the submission")
    parser.add_argument(
        "--hours", metavar="H", type=float, default=0.0,
        help="time limit; exams that would exceed it get the prior (default: no limit)",
    )  # fmt: skip
    _add_model(parser)


def _add_evidence(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs, "evidence", "write an evidence report on exams of the finished run, one self-contained HTML file",
        "./run.sh inference evidence --exams 0a1b2c3d4e5f --out one_exam.html",
    )  # fmt: skip
    parser.add_argument(
        "--exams", metavar="UID", nargs="+", default=[],
        help="StudyInstanceUIDs of test exams, or of training exams (shown with their out-of-fold predictions); "
        "default: the test exams with the highest risk and a random sample of the others, see [inference.evidence]",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="HTML", type=Path, default=Path("evidence.html"), help="the report (default: %(default)s)"
    )


def _add_export_dicom(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs, "export-dicom", "predict series and write a summary image and a structured report for a PACS",
        "./run.sh inference export-dicom --series my_scans --out for_pacs",
    )  # fmt: skip
    parser.add_argument("--series", metavar="DIR", type=Path, required=True, help=_SERIES_HELP)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the DICOM files")
    parser.add_argument(
        "--force-labels", action="store_true", help="also export labels of studies that are not assessable"
    )
    parser.add_argument(
        "--seg", action="store_true", help="also write the clot map as a DICOM segmentation (SEG) on the source images"
    )
    _add_model(parser)


def _add_compare(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "compare", help="compare two finished experiments on the same exams",
        description="Print how the settings of two finished experiments differ, the paired bootstrap of the metric, "
        "its parts, the AUCs and each label, and the exams whose loss changed most.",
        epilog="example: ./run.sh compare phantom phantom,models.epochs=6 --out ~/comparison",
    )  # fmt: skip
    parser.add_argument("names", metavar="NAME", nargs=2, help="./run.sh experiments lists them")
    parser.add_argument("--exams", metavar="N", type=int, default=10, help="how many exams (default: %(default)s)")
    parser.add_argument(
        "--candidate",
        metavar="NAME",
        default="",
        help="compare this candidate, e.g. stack (default: the promoted ones)",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path,
        help="also write comparison.md, with links to evidence reports of both experiments on these exams",
    )  # fmt: skip


def _add_repeat(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs, "repeat", "train the same recipe with several seeds on the same folds, and report the spread",
        "./run.sh repeat --seeds 3 --settings settings/phantom.toml",
    )  # fmt: skip
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="number of seeds (default: %(default)s)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="FILE", type=Path,
        help="use this file of ./run.sh export instead of an experiment; it is checked and unpacked below PE_ROOT",
    )  # fmt: skip


def _add_verb(
    verbs: argparse._SubParsersAction, name: str, summary: str, example: str, *, keeps_artifact: bool = False
) -> argparse.ArgumentParser:
    """Add a verb; only verbs that keep an artifact have --force."""
    description = summary[0].upper() + summary[1:] + "."
    parser = verbs.add_parser(name, help=summary, description=description, epilog=f"example: {example}")
    if keeps_artifact:
        add_settings_arguments(parser)
    else:
        add_experiment_arguments(parser)
    return parser


def _report(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        settings_from(arguments)
        artifacts = artifact_states([paths.inference() / "evidence"])
        print_plan(StagePlan("inference", artifacts), as_json=arguments.json)
        return 0
    from inference.evidence.evidence_report import write_run_report

    settings = settings_from(arguments)
    start(settings)
    write_run_report(settings, force=arguments.force)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from inference.predict_series import predict_folder

    evidence = None if arguments.no_evidence else arguments.evidence
    if arguments.model and evidence:
        say("no evidence report: a packed model has no exams to compare with")
        evidence = None
    predict_folder(
        _settings(arguments), arguments.dicom_dir, arguments.out, evidence, force_labels=arguments.force_labels
    )
    return 0


def _predict_contest(arguments: argparse.Namespace) -> int:
    from inference.predict_contest import predict_contest

    predict_contest(
        _settings(arguments), arguments.tree.expanduser(), arguments.out,
        hours=arguments.hours, force=arguments.force,
    )  # fmt: skip
    return 0


def _evidence(arguments: argparse.Namespace) -> int:
    from inference.evidence.evidence_report import write_exam_report

    write_exam_report(settings_from(arguments), arguments.exams, arguments.out)
    return 0


def _export_dicom(arguments: argparse.Namespace) -> int:
    from inference.pacs.export_dicom import export_dicom

    export_dicom(
        _settings(arguments),
        arguments.series.expanduser(),
        arguments.out.expanduser(),
        segmentation=arguments.seg,
        force_labels=arguments.force_labels,
    )
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from inference.comparison import compare

    out = arguments.out.expanduser() if arguments.out else None
    compare(*arguments.names, candidate=arguments.candidate, exams=arguments.exams, out=out)
    return 0


def _repeat(arguments: argparse.Namespace) -> int:
    from inference.repeat_seeds import repeat

    repeat(arguments, arguments.seeds)
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the packed model that was given, else of the experiment."""
    if not arguments.model:
        return settings_from(arguments)
    from submissions.packed_model import use_model

    return use_model(arguments.model.expanduser())


_COMMANDS = {
    "report": _report,
    "predict": _predict,
    "predict-contest": _predict_contest,
    "evidence": _evidence,
    "export-dicom": _export_dicom,
    "compare": _compare,
    "repeat": _repeat,
}


def main() -> int:
    """Parse the command line and run the chosen verb."""
    arguments = parser().parse_args()
    return _COMMANDS[arguments.verb](arguments)


if __name__ == "__main__":
    run(main)
