"""Commands of the input stage: draw the phantom contest, check a tree, prepare the tables."""

import argparse
from pathlib import Path

from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m input`."""
    top = argparse.ArgumentParser(
        prog="python -m input",
        description="Make what the contest gives trustworthy: tables with order, geometry, flags and folds.",
        epilog="example: python -m input check ~/rsna; every verb explains itself: python -m input prepare --help",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    phantom = verbs.add_parser(
        "phantom",
        help="draw the embedded contest: a synthetic CTPA data set in the contest's own layout",
        description="Draw synthetic CT pulmonary angiograms with true labels into input/raw/<phantom.name>.",
        epilog="example: python -m input phantom --set phantom.train_exams=12 --page phantom.png",
    )
    phantom.add_argument("--page", metavar="FILE", type=Path, help="also draw a page of example slices into this PNG")
    add_settings_arguments(phantom)
    check = verbs.add_parser(
        "check",
        help="pre-flight check of a contest tree: every fault at once",
        description="Compare a contest tree's CSVs, labels and files with what the contest promises; changes nothing. "
        "Exit code 0: ready; 1: faults, listed.",
        epilog="example: python -m input check ~/rsna",
    )
    check.add_argument("tree", metavar="DIR", type=Path, help="folder with train.csv, test.csv, train/, test/")
    jpeg256 = verbs.add_parser(
        "jpeg256",
        help="convert a contest tree of DICOM files into its JPEG-256 derivative",
        description="Write train-jpegs/, test-jpegs/ and the CSVs of a contest tree: 256 x 256 RGB, the lung, PE and "
        "mediastinal windows as channels. Spacing, slice distance and whatever is denser than 450 HU are lost.",
        epilog="example: python -m input jpeg256 --data ~/rsna --out ~/rsna-jpeg256",
    )
    jpeg256.add_argument("--data", metavar="DIR", type=Path, required=True, help="the tree of DICOM files")
    jpeg256.add_argument("--out", metavar="DIR", type=Path, required=True, help="an empty or new folder")
    prepare = verbs.add_parser(
        "prepare",
        help="make input/prepared: exam and slice tables, folds (headers only)",
        description="Read every header, order the slices, flag and quarantine, deal the exams into folds. "
        "Without --data the phantom is drawn first.",
        epilog="example: python -m input prepare --data ~/rsna --settings settings/rsna.toml",
    )
    add_settings_arguments(prepare)
    return top


def main() -> int | None:
    """Parse, then call the verb's function."""
    arguments = parser().parse_args()
    if arguments.verb == "check":
        return check_command(arguments.tree.expanduser())
    if arguments.verb == "jpeg256":
        from input.phantom.jpeg256 import convert_tree

        convert_tree(arguments.data.expanduser(), arguments.out.expanduser())
        return None
    settings = settings_from(arguments)
    if arguments.verb == "phantom" and not settings.is_phantom:
        raise UserError(
            f"input.data is {settings.input.data}: the phantom is drawn only where no contest tree is given"
        )
    if settings.is_phantom:
        from input.phantom.contest import draw_contest

        draw_contest(settings.phantom, settings.data_root, force=arguments.force and arguments.verb == "phantom")
    if arguments.verb == "prepare":
        from input.tables import prepare

        prepare(settings, force=arguments.force)
    elif arguments.page:
        from input.phantom.preview import draw_page

        draw_page(settings.data_root, arguments.page)
    return None


def check_command(root: Path) -> int:
    """Print every fault of a contest tree; 0 when there is none."""
    from input.tree import check_tree

    tree, faults = check_tree(root)
    for split, table in tree.tables.items():
        say(f"{split}.csv: {table['StudyInstanceUID'].nunique()} exams, {len(table)} slices")
    for note in tree.notes:
        say(note)
    for fault in faults:
        say(f"  - {fault}")
    say(f"{root}: {len(faults)} faults" if faults else f"{root}: ready")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
