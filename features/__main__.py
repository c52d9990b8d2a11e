"""Commands of the features stage: build the pixel store, check its sources, draw a page of one exam."""

import argparse
from pathlib import Path

from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.settings import Settings


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m features`."""
    top = argparse.ArgumentParser(
        prog="python -m features",
        description="Turn raw series into the pixel store and into numbers that need no learning.",
        epilog="example: python -m features build && python -m features page ~/scans/series7 --out series7.png",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build",
        help="make features/store: HU in the lung box, one file an exam, and measured numbers",
        description="Decode every readable slice once (with its sha256), find the lung box, crop, resample in-plane, "
        "compress without loss, measure. Skipped when up to date; a killed build goes on exam by exam.",
        epilog="examples: python -m features build --data ~/rsna --settings settings/rsna.toml | the same with "
        "--scheduler tcp://node1:8786 on a Dask cluster (./run.sh scheduler, ./run.sh worker) whose machines share "
        "the files: the store has the same bytes, also when a worker dies in the middle",
    )
    add_settings_arguments(build)
    check = verbs.add_parser(
        "check",
        help="tell raw files that changed since they were stored",
        description="Read every raw file of the stored exams in full and compare its sha256 with the one taken at "
        "ingest; changes nothing. Exit code 0: all are the same; 1: the changed and missing files, listed.",
        epilog="example: python -m features check --data ~/rsna --settings settings/rsna.toml",
    )
    add_settings_arguments(check)
    page = verbs.add_parser(
        "page",
        help="draw the lung box and three windows of an exam into a PNG",
        description="Look before you believe: slices from the feet to the head with the lung box (green; red when no "
        "lungs were found), and below them what the store holds in the lung, PE and mediastinal windows.",
        epilog="example: python -m features page ~/scans/series7 --out series7.png",
    )
    page.add_argument("exam", metavar="EXAM", help="a folder or zip archive with DICOM files, or a StudyInstanceUID")
    page.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: EXAM's name with .png, here)")
    page.add_argument("--columns", metavar="N", type=int, default=8, help="slices shown (%(default)s)")
    add_settings_arguments(page)
    return top


def main() -> int | None:
    """Parse, then call the verb's function."""
    arguments = parser().parse_args()
    settings = settings_from(arguments)
    if arguments.verb == "build":
        from features.build_store import build

        build(settings, force=arguments.force)
        return None
    if arguments.verb == "check":
        return check_command(settings)
    from features.exam_preview import draw_exam

    out = arguments.out or Path(f"{Path(arguments.exam).name}.png")
    say(draw_exam(arguments.exam, out, settings, columns=arguments.columns))
    return None


def check_command(settings: Settings) -> int:
    """Print every raw file that changed since it was stored; 0 when there is none."""
    from features.check_sources import changed_sources

    lines = changed_sources(settings)
    for line in lines:
        say(f"  - {line}")
    if lines:
        say(f"{settings.data_root}: {len(lines)} files changed; store them anew: ./run.sh --from input --force")
        return 1
    say(f"{settings.data_root}: every stored file is as it was")
    return 0


if __name__ == "__main__":
    run(main)
