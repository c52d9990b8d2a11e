"""Commands of the input stage: generate the phantom, check a contest tree, prepare the tables, convert, implant."""

import argparse
import json
from pathlib import Path

from input.estimate import plan_stage
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import start
from pipeline.stage_plan import add_dry_run_arguments, print_plan


def parser() -> argparse.ArgumentParser:
    """Build the command line of `./run.sh input`."""
    top = argparse.ArgumentParser(
        prog="./run.sh input",
        description="Check contest data and prepare its tables: slice order, geometry, flags and folds.",
        epilog="example: ./run.sh input check-data ~/rsna; flags of one verb: ./run.sh input prepare --help",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_phantom_arguments(
        verbs.add_parser(
            "phantom",
            help="generate the synthetic contest: CTPA exams in the contest's own layout",
            description="Generate synthetic CT pulmonary angiograms with true labels, linked as artifacts/raw.",
            epilog="example: ./run.sh input phantom --set phantom.train_exams=12 --page phantom.png",
        )
    )
    prepare = verbs.add_parser(
        "prepare",
        help="build the exam and slice tables, folds (reads headers only)",
        description="Read every header, order the slices, flag and quarantine, assign the exams to folds. "
        "Without --data the synthetic contest is generated first.",
        epilog="example: ./run.sh input prepare --data ~/rsna --settings settings/rsna.toml",
    )
    add_settings_arguments(prepare)
    add_dry_run_arguments(prepare)
    check_data = verbs.add_parser(
        "check-data",
        help="check a contest tree before a run and list every fault",
        description="Compare a contest tree's CSVs, labels and files with the contest's format. Changes nothing. "
        "Exit status 0: ready; 1: faults, listed.",
        epilog="example: ./run.sh input check-data ~/rsna",
    )
    check_data.add_argument("tree", metavar="DIR", type=Path, help="folder with train.csv, test.csv, train/, test/")
    check_data.add_argument("--json", action="store_true", help="print the result as JSON")
    jpeg256 = verbs.add_parser(
        "jpeg256",
        help="convert a contest tree of DICOM files into its JPEG-256 derivative",
        description="Write train-jpegs/, test-jpegs/ and the CSVs of a contest tree: 256 x 256 RGB, with the lung, PE "
        "and mediastinal windows as channels. Pixel spacing, slice distance and values above 450 HU are lost.",
        epilog="example: ./run.sh input jpeg256 --data ~/rsna --out ~/rsna-jpeg256",
    )
    jpeg256.add_argument("--data", metavar="DIR", type=Path, required=True, help="contest tree of DICOM files")
    jpeg256.add_argument("--out", metavar="DIR", type=Path, required=True, help="an empty or new folder")
    add_implant_arguments(
        verbs.add_parser(
            "implant",
            help="implant synthetic clots into real CT without PE: real anatomy and noise, exact ground truth",
            description="Segment the pulmonary arteries of PE-negative scans, insert synthetic clots with the texture "
            "of the blood that they replace, and write a tree in the contest's layout: DICOM files, CSVs, clot masks, "
            "and labels derived from the visible clots. Use it for test exams (--with-source adds every scan "
            "unchanged, as a negative counterpart) or to augment the contest's PE-negative exams (--split train, then "
            "add its folders and its rows of train.csv and fold_groups.csv to yours: fold_groups.csv keeps the exams "
            "of one scan in one fold). Central clots are never generated. Exams of one scan share their anatomy: keep "
            "them in one split.",
            epilog="examples: ./run.sh input implant --ct ~/scans/series7 --out ~/implanted --with-source; "
            "./run.sh input implant --ct thorax.nii.gz --out ~/implanted --variants 4 --page implanted.png; then "
            "./run.sh predict ~/implanted/test; the labels are in ~/implanted/truth/test_truth.csv",
        )
    )
    return top


def add_phantom_arguments(phantom: argparse.ArgumentParser) -> None:
    """Add the arguments of `./run.sh input phantom`."""
    phantom.add_argument("--page", metavar="FILE", type=Path, help="also write a page of example slices to this PNG")
    add_settings_arguments(phantom)


def add_implant_arguments(implant: argparse.ArgumentParser) -> None:
    """Add the arguments of `./run.sh input implant`."""
    implant.add_argument(
        "--ct", metavar="SCAN", type=Path, nargs="+", required=True,
        help="PE-negative scans: folders or zip archives of DICOM files, .nii or .nii.gz volumes",
    )  # fmt: skip
    implant.add_argument("--out", metavar="DIR", type=Path, required=True, help="an empty or new folder")
    implant.add_argument(
        "--split", choices=("train", "test"), default="test", help="the split to write (default: %(default)s)"
    )
    implant.add_argument(
        "--variants", metavar="N", type=int, default=1, help="exams to write per scan (default: %(default)s)"
    )
    implant.add_argument(
        "--with-source", action="store_true", help="also write every scan unchanged, labelled negative"
    )
    implant.add_argument(
        "--difficulty", choices=("easy", "medium", "contest"), default="contest",
        help="difficulty of the clots (default: %(default)s)",
    )  # fmt: skip
    implant.add_argument(
        "--rv-lv", choices=("rv_lv_ratio_lt_1", "rv_lv_ratio_gte_1"), default="rv_lv_ratio_lt_1",
        help="the RV/LV label of the scans; it is not measured, so look at their hearts (default: %(default)s)",
    )  # fmt: skip
    implant.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the clots (default: %(default)s)")
    implant.add_argument(
        "--train", metavar="DIR", type=Path,
        help="link this contest tree's training part next to the test exams, so that --out is a complete contest tree",
    )  # fmt: skip
    implant.add_argument("--page", metavar="FILE", type=Path, help="also write a page of example slices to this PNG")


def implant_command(arguments: argparse.Namespace) -> None:
    """Write the tree with implanted clots, then the page of example slices."""
    from input.implant.implanted_contest import write_implanted_contest

    out = arguments.out.expanduser()
    write_implanted_contest(
        [scan.expanduser() for scan in arguments.ct], out, split=arguments.split, variants=arguments.variants,
        with_source=arguments.with_source, difficulty=arguments.difficulty, rv_lv=arguments.rv_lv,
        seed=arguments.seed, train=arguments.train.expanduser() if arguments.train else None,
    )  # fmt: skip
    if arguments.page:
        from input.phantom.example_page import write_example_page

        write_example_page(out, arguments.page)


def main() -> int | None:
    """Parse the command line and run one verb."""
    arguments = parser().parse_args()
    if arguments.verb == "check-data":
        return check_data_command(arguments.tree.expanduser(), as_json=arguments.json)
    if arguments.verb == "jpeg256":
        from input.jpeg256_writer import convert_tree

        convert_tree(arguments.data.expanduser(), arguments.out.expanduser())
        return None
    if arguments.verb == "implant":
        implant_command(arguments)
        return None
    settings = settings_from(arguments)
    if arguments.verb == "prepare" and arguments.dry_run:
        print_plan(plan_stage(settings), as_json=arguments.json)
        return None
    if arguments.verb == "phantom" and not settings.is_phantom:
        raise UserError(
            f"input.data is {settings.input.data}: the phantom is generated only without a contest tree. "
            "Remove --data and the setting input.data."
        )
    start(settings)
    if settings.is_phantom:
        from input.phantom.synthetic_contest import generate_contest

        force = arguments.force and arguments.verb == "phantom"
        generate_contest(settings.phantom, settings.data_root, force=force, shared=True)
    if arguments.verb == "prepare":
        from input.tables import prepare

        prepare(settings, force=arguments.force)
    elif arguments.page:
        from input.phantom.example_page import write_example_page

        write_example_page(settings.data_root, arguments.page)
    return None


def check_data_command(root: Path, *, as_json: bool) -> int:
    """Print every fault of a contest tree; return the exit status, 0 when there is none."""
    from input.check_data import check_tree

    tree, faults = check_tree(root)
    counts = [
        f"{split}.csv: {table['StudyInstanceUID'].nunique()} exams, {len(table)} slices"
        for split, table in tree.tables.items()
    ]
    if as_json:
        print(json.dumps({"counts": counts, "notes": tree.notes, "faults": faults}))
        return 1 if faults else 0
    for line in [*counts, *tree.notes]:
        say(line)
    for fault in faults:
        say(f"  - {fault}")
    say(f"{root}: {len(faults)} faults" if faults else f"{root}: ready")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
