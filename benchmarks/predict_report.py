"""Time and memory from DICOM folder to labels, CSV and evidence report, on one or many synthetic studies.

    ./run.sh bench predict_report                                   one exam of clinical size, cold
    ./run.sh bench predict_report --slices 250 --rows 512 --set phantom.seed=101
    ./run.sh bench predict_report --studies 120 --slices 53 --rows 256 --target 120
    ./run.sh bench predict_report --scans ~/synthetic               writes the studies there, or reads them

Generates the studies (not counted), then runs the command of ./run.sh predict on them in a separate process, with the
finished run under $PE_ROOT. Prints the command's output, its wall time including the start of Python, its CPU time and
its peak memory, worker processes included. Scanner files of the same size take as long. A run with other settings than
settings/phantom.toml needs the same --settings and --set here.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.process_memory import watch_memory
from input.phantom.dicom_quirks import sample_quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam, streams
from input.phantom.labels import sample_states
from input.phantom.synthetic_contest import check_settings
from pipeline import paths
from pipeline.cli import add_settings_arguments, run
from pipeline.console import say
from pipeline.jobs import run_jobs
from pipeline.settings import PhantomSettings

#: Seconds for the start and for one exam of 250 slices of 512 x 512 pixels on two cores.
TARGET_SECONDS = 8.0


def generate(settings: PhantomSettings, folder: Path, index: int = 0) -> int:
    """Write one exam with PE as DICOM files into a folder.

    Args:
        settings: size and seed.
        folder: replaced by the complete exam.
        index: number of the exam among those of the same seed.

    Returns:
        The number of files.
    """
    state = sample_states(index + 1, 1.0, np.random.default_rng(settings.seed))[index]
    exam = generate_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=index, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    quirks = sample_quirks(streams(settings.seed, index)["files"], prone=exam.patient.prone)
    sops = [uid(settings.seed, "image", index, number) for number in range(len(exam.hu))]
    folder.mkdir(parents=True)
    study, series = uid(settings.seed, "study", index), uid(settings.seed, "series", index)
    write_exam(exam, quirks, folder, study=study, series=series, sops=sops)
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
    parser.add_argument("--studies", type=int, default=1, help="number of studies (%(default)s)")
    parser.add_argument("--scans", metavar="DIR", type=Path, help="studies to read; generated there if missing")
    parser.add_argument(
        "--target", metavar="SECONDS", type=float, default=TARGET_SECONDS, help="the target (%(default)s)"
    )
    arguments = parser.parse_args()
    phantom = PhantomSettings(seed=arguments.seed, rows=arguments.rows, slices=arguments.slices)
    with tempfile.TemporaryDirectory(prefix="predict-report-") as folder:
        scans = arguments.scans or Path(folder) / "scans"
        if not scans.exists():
            check_settings(phantom)
            started = time.monotonic()
            jobs = [(phantom, scans / f"study{index:04d}", index) for index in range(arguments.studies)]
            counts = list(run_jobs(generate, jobs, desc="generated"))
            seconds = time.monotonic() - started
            say(f"generated: {len(counts)} studies, {sum(counts)} slices in {seconds:.1f} s (not counted)")
        return predict(arguments, scans, Path(folder))


def predict(arguments: argparse.Namespace, scans: Path, folder: Path) -> int:
    """Run the command and print its time.

    Args:
        arguments: settings arguments.
        scans: the DICOM folder.
        folder: for the outputs.

    Returns:
        0 when the target was met, 1 when it was missed, or the status of the failed command.
    """
    report = folder / "evidence.html"
    command = [sys.executable, "-m", "inference", "predict", str(scans), "--settings", arguments.settings]
    command += ["--out", str(folder / "slices.csv"), "--evidence", str(report)]
    command += [word for override in arguments.overrides for word in ("--set", override)]
    command += ["--data", arguments.data] if arguments.data else []
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, cwd=paths.CHECKOUT) as process, watch_memory(process.pid) as peak:
        status = process.wait()
    if status:
        return status
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = report.stat().st_size / 1e6
    say(
        f"whole command: {seconds:.1f} s ({processor:.1f} s of CPU time), peak memory {peak[0] / 1e9:.2f} GB; "
        f"report {size:.1f} MB"
    )
    say(f"target {arguments.target:g} s: {'met' if seconds < arguments.target else 'missed'}")
    return int(seconds >= arguments.target)


if __name__ == "__main__":
    run(main)
