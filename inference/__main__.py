"""Commands of the inference stage: report, predict, evidence, export-dicom."""

import argparse
from pathlib import Path

from pipeline.cli import add_settings_arguments, run, settings_from


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference",
        description="Predictions for new exams, and the evidence behind them.",
        epilog="example: python -m inference predict my_scans --out slices.csv",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add(
        verbs, "report", "write the evidence report of the finished run's test exams",
        "python -m inference report --settings settings/phantom.toml",
    )  # fmt: skip
    _add_series_verbs(verbs)
    _add_evidence_verb(verbs)
    return parser


def _add_evidence_verb(verbs: argparse._SubParsersAction) -> None:
    evidence = _add(
        verbs, "evidence", "write the evidence report of the finished run: one HTML file for a browser",
        "python -m inference evidence --exams 0a1b2c3d4e5f --out one_exam.html",
    )  # fmt: skip
    evidence.add_argument(
        "--exams", metavar="UID", nargs="+", default=[],
        help="StudyInstanceUIDs of test exams, or of training exams, which are shown as predicted out of fold; without "
        "it the riskiest test exams and some drawn from the rest, as [inference.evidence] says",
    )  # fmt: skip
    evidence.add_argument(
        "--out", metavar="HTML", type=Path, default=Path("evidence.html"), help="the report (%(default)s)"
    )


def _add_series_verbs(verbs: argparse._SubParsersAction) -> None:
    predict = _add(
        verbs, "predict", "nine labels of unlabelled DICOM series, and where they show PE",
        "python -m inference predict my_scans --out slices.csv",
    )  # fmt: skip
    predict.add_argument(
        "dicom_dir", metavar="DICOM_DIR", type=Path, help="a series, a folder of studies, or a zip archive"
    )
    predict.add_argument(
        "--out",
        metavar="CSV",
        type=Path,
        default=Path("predicted_slices.csv"),
        help="slice probabilities (%(default)s)",
    )
    predict.add_argument(
        "--submission", metavar="CSV", type=Path,
        help="DICOM_DIR is a contest tree (test.csv, test/): write the whole submission for its test exams instead",
    )  # fmt: skip
    predict.add_argument(
        "--hours", metavar="H", type=float, default=0.0,
        help="with --submission: when H hours would be exceeded, the exams left get the stated prior (no limit)",
    )  # fmt: skip
    predict.add_argument(
        "--evidence",
        metavar="HTML",
        type=Path,
        default=Path("predicted_evidence.html"),
        help="the evidence report, one file for a browser (%(default)s)",
    )
    predict.add_argument("--no-evidence", action="store_true", help="labels and CSV only")
    export = _add(
        verbs, "export-dicom", "predict series and write a summary picture and a structured report for a PACS",
        "python -m inference export-dicom --series my_scans --out for_pacs",
    )  # fmt: skip
    export.add_argument(
        "--series", metavar="DIR", type=Path, required=True, help="a series, a folder of studies, or a zip archive"
    )
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the DICOM files go")


def _add(verbs: argparse._SubParsersAction, name: str, what: str, example: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", epilog=f"example: {example}")
    add_settings_arguments(verb)
    return verb


def _report(arguments: argparse.Namespace) -> int:
    from inference.evidence.evidence_report import write_run_report

    write_run_report(settings_from(arguments), force=arguments.force)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    if arguments.submission:
        from inference.predict_contest import predict_contest

        tree, limits = arguments.dicom_dir.expanduser(), {"hours": arguments.hours, "force": arguments.force}
        predict_contest(settings, tree, arguments.submission, **limits)
        return 0
    from inference.predict_series import predict_folder

    evidence = None if arguments.no_evidence else arguments.evidence
    predict_folder(settings, arguments.dicom_dir, arguments.out, evidence)
    return 0


def _evidence(arguments: argparse.Namespace) -> int:
    from inference.evidence.evidence_report import write_evidence_command

    write_evidence_command(settings_from(arguments), arguments.exams, arguments.out)
    return 0


def _export_dicom(arguments: argparse.Namespace) -> int:
    from inference.pacs.export_dicom import export_dicom

    export_dicom(settings_from(arguments), arguments.series.expanduser(), arguments.out.expanduser())
    return 0


def main() -> int:
    """Parse the command line and call the one function behind its verb."""
    arguments = _parser().parse_args()
    verbs = {"report": _report, "predict": _predict, "evidence": _evidence, "export-dicom": _export_dicom}
    return verbs[arguments.verb](arguments)


if __name__ == "__main__":
    run(main)
