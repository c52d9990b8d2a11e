"""How long from a DICOM folder to labels, CSV and evidence report? On one drawn exam of a clinical size.

    python -m benchmarks.predict_report                                   the finished run under $PE_ROOT
    python -m benchmarks.predict_report --slices 250 --rows 512 --set phantom.seed=101
    python -m benchmarks.predict_report --scan ~/drawn                    draws it there once, or reads what is there

Draws one exam (not counted), then runs `python -m submissions predict` on it as a user would, in a process of its
own, and shows the parts that it tells, its whole wall time with the start of Python, and the report's size.
The target is 60 s for 250 slices of 512 x 512 on two cores. The exam is synthetic; a scanner's files of the same size
take as long. A run with other settings than settings/phantom.toml needs the same --settings and --set here.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from input.phantom.dicom_quirks import draw_quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import draw_exam, streams
from input.phantom.labels import draw_states
from input.phantom.synthetic_contest import check_settings
from pipeline import paths
from pipeline.cli import add_settings_arguments, run
from pipeline.console import say
from pipeline.settings import PhantomSettings

TARGET_SECONDS = 60.0


def draw(settings: PhantomSettings, folder: Path) -> int:
    """Write one exam with PE as DICOM files into a folder; returns how many."""
    check_settings(settings)
    state = draw_states(1, 1.0, np.random.default_rng(settings.seed))[0]
    exam = draw_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=0, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    quirks = draw_quirks(streams(settings.seed, 0)["files"], prone=exam.patient.prone)
    sops = [uid(settings.seed, "image", 0, number) for number in range(len(exam.hu))]
    folder.mkdir(parents=True)
    write_exam(
        exam, quirks, folder, study=uid(settings.seed, "study", 0), series=uid(settings.seed, "series", 0), sops=sops
    )
    return len(sops)


def main() -> int:
    """Draw where nothing is given, predict, tell; exit code 1 above the target."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict_report",
        description=__doc__.split("\n")[0],
        epilog="see the file's docstring",
    )
    add_settings_arguments(parser)
    parser.add_argument("--rows", type=int, default=512, help="pixels a side (%(default)s)")
    parser.add_argument("--slices", type=int, default=250, help="mean number of slices (%(default)s)")
    parser.add_argument("--seed", type=int, default=4711, help="of the drawn exam (%(default)s)")
    parser.add_argument("--scan", metavar="DIR", type=Path, help="a series to read; drawn there where it is missing")
    arguments = parser.parse_args()
    phantom = PhantomSettings(seed=arguments.seed, rows=arguments.rows, slices=arguments.slices)
    with tempfile.TemporaryDirectory(prefix="predict-report-") as place:
        scan = arguments.scan or Path(place) / "scan"
        if not scan.exists():
            started = time.monotonic()
            count = draw(phantom, scan)
            say(f"drawn: {count} slices of {phantom.rows} px in {time.monotonic() - started:.1f} s (not counted)")
        return predict(arguments, scan, Path(place))


def predict(arguments: argparse.Namespace, scan: Path, place: Path) -> int:
    """Run the command and tell its time; the exit code says whether the target was met."""
    report = place / "evidence.html"
    command = [sys.executable, "-m", "inference", "predict", str(scan), "--settings", arguments.settings]
    command += ["--out", str(place / "slices.csv"), "--evidence", str(report)]
    command += [word for each in arguments.overrides for word in ("--set", each)]
    command += ["--data", arguments.data] if arguments.data else []
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run(command, cwd=paths.CHECKOUT).returncode
    if status:
        return status
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = report.stat().st_size / 1e6
    say(f"whole command: {seconds:.1f} s ({processor:.1f} s of processors); report {size:.1f} MB")
    say(f"target {TARGET_SECONDS:.0f} s: {'met' if seconds < TARGET_SECONDS else 'missed'}")
    return int(seconds >= TARGET_SECONDS)


if __name__ == "__main__":
    run(main)
