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
    add_implant_arguments(
        verbs.add_parser(
            "implant",
            help="implant drawn clots into real CT without PE: real anatomy and noise, exact truth",
            description="Find pulmonary arteries on PE-negative scans, draw clots into them with the texture of the "
            "blood that they replace, and write a tree in the contest's layout: DICOM, CSVs, masks, labels derived "
            "from what shows. Use it for test exams (--with-source adds every scan as it is, a negative twin) or to "
            "augment the contest's PE-negative exams (--split train, then add its folders and its rows of train.csv "
            "and fold_groups.csv to yours: that file keeps exams of one scan in one fold). No central clots are "
            "drawn. Exams of one scan share their anatomy: keep them in one split.",
            epilog="examples: python -m input implant --ct ~/scans/series7 --out ~/implanted --with-source; "
            "python -m input implant --ct thorax.nii.gz --out ~/implanted --variants 4 --page implanted.png; then "
            "./run.sh predict ~/implanted/test, and ~/implanted/truth/test_truth.csv holds the labels",
        )
    )
    prepare = verbs.add_parser(
        "prepare",
        help="make input/prepared: exam and slice tables, folds (headers only)",
        description="Read every header, order the slices, flag and quarantine, deal the exams into folds. "
        "Without --data the phantom is drawn first.",
        epilog="example: python -m input prepare --data ~/rsna --settings settings/rsna.toml",
    )
    add_settings_arguments(prepare)
    return top


def add_implant_arguments(implant: argparse.ArgumentParser) -> None:
    """What `python -m input implant` takes."""
    implant.add_argument(
        "--ct", metavar="SCAN", type=Path, nargs="+", required=True,
        help="PE-negative scans: folders or zip archives of DICOM files, .nii or .nii.gz volumes",
    )  # fmt: skip
    implant.add_argument("--out", metavar="DIR", type=Path, required=True, help="an empty or new folder")
    implant.add_argument("--split", choices=("train", "test"), default="test", help="which part to write (%(default)s)")
    implant.add_argument("--variants", metavar="N", type=int, default=1, help="exams a scan (%(default)s)")
    implant.add_argument("--with-source", action="store_true", help="also write every scan as it is, labelled negative")
    implant.add_argument(
        "--difficulty", choices=("easy", "medium", "contest"), default="contest", help="of the clots (%(default)s)"
    )
    implant.add_argument(
        "--rv-lv", choices=("rv_lv_ratio_lt_1", "rv_lv_ratio_gte_1"), default="rv_lv_ratio_lt_1",
        help="the label that the scans' hearts deserve; look at them (%(default)s)",
    )  # fmt: skip
    implant.add_argument("--seed", metavar="N", type=int, default=1, help="of the clots (%(default)s)")
    implant.add_argument(
        "--train", metavar="DIR", type=Path,
        help="link this contest tree's training part beside the test exams, so that --out is a whole contest",
    )  # fmt: skip
    implant.add_argument("--page", metavar="FILE", type=Path, help="also draw a page of example slices into this PNG")


def implant_command(arguments: argparse.Namespace) -> None:
    """Implant, then draw the page."""
    from input.implant.implant_clots import implant_all

    out = arguments.out.expanduser()
    implant_all(
        [scan.expanduser() for scan in arguments.ct], out, split=arguments.split, variants=arguments.variants,
        with_source=arguments.with_source, difficulty=arguments.difficulty, rv_lv=arguments.rv_lv,
        seed=arguments.seed, train=arguments.train.expanduser() if arguments.train else None,
    )  # fmt: skip
    if arguments.page:
        from input.phantom.example_page import draw_page

        draw_page(out, arguments.page)


def main() -> int | None:
    """Parse, then call the verb's function."""
    arguments = parser().parse_args()
    if arguments.verb == "check":
        return check_command(arguments.tree.expanduser())
    if arguments.verb == "jpeg256":
        from input.jpeg256_writer import convert_tree

        convert_tree(arguments.data.expanduser(), arguments.out.expanduser())
        return None
    if arguments.verb == "implant":
        implant_command(arguments)
        return None
    settings = settings_from(arguments)
    if arguments.verb == "phantom" and not settings.is_phantom:
        raise UserError(
            f"input.data is {settings.input.data}: the phantom is drawn only where no contest tree is given"
        )
    if settings.is_phantom:
        from input.phantom.synthetic_contest import draw_contest

        draw_contest(settings.phantom, settings.data_root, force=arguments.force and arguments.verb == "phantom")
    if arguments.verb == "prepare":
        from input.tables import prepare

        prepare(settings, force=arguments.force)
    elif arguments.page:
        from input.phantom.example_page import draw_page

        draw_page(settings.data_root, arguments.page)
    return None


def check_command(root: Path) -> int:
    """Print every fault of a contest tree; 0 when there is none."""
    from input.contest_tree import check_tree

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
