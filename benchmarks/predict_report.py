"""Time from a DICOM folder to labels, CSV and evidence report, on one synthetic exam of clinical size.

    ./run.sh bench predict_report                                   the finished run under $PE_ROOT
    ./run.sh bench predict_report --slices 250 --rows 512 --set phantom.seed=101
    ./run.sh bench predict_report --scan ~/synthetic                writes the exam there, or reads it if it exists

Generates one exam (not counted), then runs the command of ./run.sh predict on it in a separate process, and prints its
own output, its total wall time including the start of Python, and the size of the report. The target is 60 s for 250
slices of 512 x 512 on two cores. The exam is synthetic; files of a scanner of the same size take as long. A run with
other settings than settings/phantom.toml needs the same --settings and --set here.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from input.phantom.dicom_quirks import sample_quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam, streams
from input.phantom.labels import sample_states
from input.phantom.synthetic_contest import check_settings
from pipeline import paths
from pipeline.cli import add_settings_arguments, run
from pipeline.console import say
from pipeline.settings import PhantomSettings

TARGET_SECONDS = 60.0


def generate(settings: PhantomSettings, folder: Path) -> int:
    """Write one exam with PE as DICOM files into a folder; return the number of files."""
    check_settings(settings)
    state = sample_states(1, 1.0, np.random.default_rng(settings.seed))[0]
    exam = generate_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=0, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    quirks = sample_quirks(streams(settings.seed, 0)["files"], prone=exam.patient.prone)
    sops = [uid(settings.seed, "image", 0, number) for number in range(len(exam.hu))]
    folder.mkdir(parents=True)
    write_exam(
        exam, quirks, folder, study=uid(settings.seed, "study", 0), series=uid(settings.seed, "series", 0), sops=sops
    )
    return len(sops)


def main() -> int:
    """Generate the exam if necessary, predict it and print the times; return 1 above the target."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench predict_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings_arguments(parser)
    parser.add_argument("--rows", type=int, default=512, help="pixels per side (%(default)s)")
    parser.add_argument("--slices", type=int, default=250, help="mean number of slices (%(default)s)")
    parser.add_argument("--seed", type=int, default=4711, help="seed of the synthetic exam (%(default)s)")
    parser.add_argument("--scan", metavar="DIR", type=Path, help="a series to read; generated there if missing")
    arguments = parser.parse_args()
    phantom = PhantomSettings(seed=arguments.seed, rows=arguments.rows, slices=arguments.slices)
    with tempfile.TemporaryDirectory(prefix="predict-report-") as folder:
        scan = arguments.scan or Path(folder) / "scan"
        if not scan.exists():
            started = time.monotonic()
            count = generate(phantom, scan)
            say(f"generated: {count} slices of {phantom.rows} px in {time.monotonic() - started:.1f} s (not counted)")
        return predict(arguments, scan, Path(folder))


def predict(arguments: argparse.Namespace, scan: Path, folder: Path) -> int:
    """Run the command and print its time.

    Args:
        arguments: settings arguments.
        scan: the DICOM folder.
        folder: for the outputs.

    Returns:
        0 when the target was met, 1 when it was missed, or the status of the failed command.
    """
    report = folder / "evidence.html"
    command = [sys.executable, "-m", "inference", "predict", str(scan), "--settings", arguments.settings]
    command += ["--out", str(folder / "slices.csv"), "--evidence", str(report)]
    command += [word for override in arguments.overrides for word in ("--set", override)]
    command += ["--data", arguments.data] if arguments.data else []
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run(command, cwd=paths.CHECKOUT).returncode
    if status:
        return status
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = report.stat().st_size / 1e6
    say(f"whole command: {seconds:.1f} s ({processor:.1f} s of CPU time); report {size:.1f} MB")
    say(f"target {TARGET_SECONDS:.0f} s: {'met' if seconds < TARGET_SECONDS else 'missed'}")
    return int(seconds >= TARGET_SECONDS)


if __name__ == "__main__":
    run(main)
