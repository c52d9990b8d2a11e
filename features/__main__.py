"""Commands of the features stage: build the pixel store, check its source files, preview one exam."""

import argparse
from pathlib import Path

from features.estimate import plan_stage
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.experiments import start
from pipeline.settings import Settings
from pipeline.stage_plan import add_dry_run_arguments, print_plan


def parser() -> argparse.ArgumentParser:
    """Build the command line of `./run.sh features`."""
    top = argparse.ArgumentParser(
        prog="./run.sh features",
        description="Turn raw series into the pixel store and into measurements that need no learning.",
        epilog="example: ./run.sh features build && ./run.sh features page ~/scans/series7 --out series7.png",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build",
        help="build features/store: HU in the lung box, one file per exam, and the measurement tables",
        description="Decode every readable slice once (recording its sha256), find the lung box, crop, resample "
        "in-plane, compress without loss, measure. Skipped when up to date; an interrupted build resumes at the first "
        "exam that is not stored.",
        epilog="examples: ./run.sh features build --data ~/rsna --settings settings/rsna.toml | the same with "
        "--scheduler tcp://node1:8786 on a Dask cluster (./run.sh scheduler, ./run.sh worker) whose machines share "
        "the files: the store has the same bytes, even when a worker dies during the build",
    )
    add_settings_arguments(build)
    add_dry_run_arguments(build)
    check = verbs.add_parser(
        "check-store",
        help="list raw files that changed since they were stored",
        description="Read every raw file of the stored exams in full and compare its sha256 with the one recorded at "
        "ingest. Changes nothing. Exit code 0: all files are unchanged; 1: changed or missing files are listed.",
        epilog="example: ./run.sh features check-store --data ~/rsna --settings settings/rsna.toml",
    )
    add_settings_arguments(check)
    page = verbs.add_parser(
        "page",
        help="draw the lung box and three windows of one exam as a PNG",
        description="Draw slices from the feet to the head with the lung box (green; red when no lungs were found) "
        "and, below them, the stored pixels in the lung, PE and mediastinal windows.",
        epilog="example: ./run.sh features page ~/scans/series7 --out series7.png",
    )
    page.add_argument("exam", metavar="EXAM", help="a folder or zip archive with DICOM files, or a StudyInstanceUID")
    page.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: EXAM's name with .png, here)")
    page.add_argument("--columns", metavar="N", type=int, default=8, help="number of slices (default %(default)s)")
    add_settings_arguments(page)
    return top


def main() -> int | None:
    """Parse the command line and run the verb."""
    arguments = parser().parse_args()
    settings = settings_from(arguments)
    if arguments.verb == "build" and arguments.dry_run:
        print_plan(plan_stage(settings), as_json=arguments.json)
        return None
    if arguments.verb == "build":
        from features.build_acceptance import build_acceptance
        from features.build_store import build
        from features.clot_masks import build_masks
        from input.tables import connect_tables

        start(settings)
        connect_tables(settings)
        build(settings, force=arguments.force)
        build_masks(settings, force=arguments.force)
        build_acceptance(force=arguments.force)
        return None
    if arguments.verb == "check-store":
        return check_store_command(settings)
    from features.exam_preview import write_preview

    out = arguments.out or Path(f"{Path(arguments.exam).name}.png")
    say(write_preview(arguments.exam, out, settings, columns=arguments.columns))
    return None


def check_store_command(settings: Settings) -> int:
    """Print which raw files changed since they were stored, by reason; return 1 when there is any, else 0."""
    from features.check_sources import changed_sources
    from input.slice_errors import describe_faults

    faults = changed_sources(settings)
    for line in describe_faults(faults):
        say(f"  - {line}")
    if faults:
        say(
            f"{settings.data_root}: {len(faults)} files changed since they were stored. "
            "Store them again: ./run.sh --from input --force"
        )
        return 1
    say(f"{settings.data_root}: all stored files are unchanged")
    return 0


if __name__ == "__main__":
    run(main)
