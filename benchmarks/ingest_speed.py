"""Speed and memory of the ingest, from raw DICOM to the pixel store, compared with a plain loop of equal output.

    ./run.sh bench ingest_speed                                 synthetic exams, 512 pixels, uncompressed
    ./run.sh bench ingest_speed --source ~/rsna/train --take 4  some exams of a contest tree
    ./run.sh bench ingest_speed --memory 10 100 500             peak memory of all processes against exams

The plain loop (benchmarks/plain_ingest.py) is what contest repositories do. Both arrays must agree to one grey level:
values within float32 rounding error of a half may round either way. Everything runs on the same cores; nothing is read
from a network or a cold disk. Last, the time of every step of the ingest alone.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.plain_ingest import ingest_plainly
from benchmarks.process_memory import watch_memory
from features.heart_and_vessels import measure_anatomy
from features.ingest import IngestTask, ingest_exam
from features.lung_box import Box, find_lung_box
from features.resample import resample_box
from features.slice_measurements import measure_slices
from features.store import open_exam, write_exam
from input.elements import ignore_text_warnings
from input.header import parse_header
from input.phantom.dicom_quirks import SYNTAXES, sample_quirks
from input.phantom.dicom_writer import uid
from input.phantom.dicom_writer import write_exam as write_dicom
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import generate_exam, streams
from input.phantom.labels import sample_states
from input.pixels import decode_hu
from input.safe_decoding import ExamJob, decode_exams
from input.slice_file import read_header
from pipeline.cli import run
from pipeline.console import say
from pipeline.machine import cores
from pipeline.settings import FeaturesSettings

SEED = 41


def generate_source(folder: Path, exams: int, slices: int, rows: int) -> list[Path]:
    """Write synthetic exams as uncompressed DICOM.

    Args:
        folder: an empty folder.
        exams: number of exams.
        slices: mean number of slices per exam.
        rows: pixels per side.

    Returns:
        The series folder of each exam.
    """
    folders = []
    for index, state in enumerate(sample_states(exams, 0.5, np.random.default_rng(SEED))):
        exam = generate_exam(state, difficulty_named("easy"), seed=SEED, index=index, rows=rows, slices=slices)
        quirks = sample_quirks(streams(SEED, index)["files"], prone=exam.patient.prone)
        quirks = type(quirks)(**{**vars(quirks), "syntax": SYNTAXES[index % 2][0]})  # implicit, explicit VR
        series = folder / uid(SEED, "study", index) / uid(SEED, "series", index)
        series.mkdir(parents=True)
        sops = [uid(SEED, "image", index, number) for number in range(len(exam.hu))]
        write_dicom(exam, quirks, series, study=series.parent.name, series=series.name, sops=sops)
        folders.append(series)
    return folders


def link_exams(folders: list[Path], count: int, root: Path) -> list[Path]:
    """Make `count` exams below `root`, each a folder of hard links to the files of one of `folders`."""
    linked_folders = []
    for number in range(count):
        source, folder = folders[number % len(folders)], root / f"{number:06d}"
        folder.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, folder / file.name)
        linked_folders.append(folder)
    return linked_folders


def jobs_of(folders: list[Path], out: Path, settings: FeaturesSettings) -> Iterator[ExamJob]:
    """Yield the jobs of ./run.sh features build: files feet to head, as input/prepared has ordered them."""
    for folder in folders:
        files = files_in_order(folder)
        task = IngestTask("series", tuple(file.stem for file in files), out, settings)
        yield ExamJob(folder.name, tuple(files), task)


def files_in_order(folder: Path) -> list[Path]:
    """An exam's files feet to head, by their headers."""
    return sorted(folder.iterdir(), key=lambda file: read_header(file).z_mm)


def store_exams(jobs: Iterator[ExamJob], workers: int) -> None:
    """Ingest exams as ./run.sh features build does, measurements included."""
    for outcome in decode_exams(jobs, ingest_exam, workers=workers):
        if outcome.fault or outcome.value.quarantine:
            raise RuntimeError(f"{outcome.name}: {outcome.fault or outcome.value.quarantine}")


def store_without_measuring(job: ExamJob) -> None:
    """Do the work of the plain loop: an ingest without measurements."""
    with mock.patch("features.ingest._measured", lambda exam, hu: None):
        ingest_exam(job, {})


def with_directory(job: ExamJob, directory: Path) -> ExamJob:
    """The same job for another store."""
    return dataclasses.replace(job, payload=dataclasses.replace(job.payload, directory=directory))


def compare(folders: list[Path], work: Path, settings: FeaturesSettings) -> None:
    """Print milliseconds per slice of both in this process, exam by exam in turn.

    Args:
        folders: one per exam.
        work: an empty folder.
        settings: of the store.

    Raises:
        RuntimeError: the arrays differ by more than one grey level.
    """
    mm = settings.spacing_mm
    ingests: dict[str, Callable[[ExamJob, Path, Path], object]] = {
        "this store: validation, checksums, sidecar": lambda job, folder, out: store_without_measuring(job),
        "plain loop, np.savez_compressed": lambda job, folder, out: ingest_plainly(folder, out, mm, True),
        "plain loop, np.save": lambda job, folder, out: ingest_plainly(folder, out, mm, False),
        "this store with measurements": lambda job, folder, out: ingest_exam(with_directory(job, out.parent), {}),
    }
    outputs = [work / f"out{number}" for number in range(len(ingests))]
    for output in outputs:
        output.mkdir()
    spent = dict.fromkeys(ingests, (0.0, 0.0))
    jobs = list(jobs_of(folders, outputs[0], settings))
    ingest_exam(next(jobs_of(folders[:1], work / "warm", settings)), {})  # warm-up: imports and page faults
    pixels = differing = 0
    for job, folder in zip(jobs, folders, strict=True):
        for (name, ingest), output in zip(ingests.items(), outputs, strict=True):
            start, busy = time.perf_counter(), time.process_time()
            if name.startswith("this store"):  # count the pass over the headers by input/prepared; the loop sorts too
                files_in_order(folder)
            ingest(job, folder, output / folder.name)
            wall, processor = time.perf_counter() - start, time.process_time() - busy
            spent[name] = spent[name][0] + wall, spent[name][1] + processor
        difference = np.load(outputs[2] / f"{folder.name}.npy") - open_exam(outputs[0], folder.name).hu[:]
        if np.abs(difference).max() > 1:
            raise RuntimeError(f"{folder.name}: the two arrays differ by more than one grey level")
        pixels, differing = pixels + difference.size, differing + int(np.count_nonzero(difference))
    slices = sum(len(job.files) for job in jobs)
    say(
        f"{len(folders)} exams, {slices} slices, {mm:g} mm, one process, one thread; "
        f"{differing / pixels:.4%} of pixels differ by one grey level"
    )
    reference = next(iter(spent.values()))
    for (name, (wall, processor)), output in zip(spent.items(), outputs, strict=True):
        say(
            f"  {name:<46} {slices / wall:5.0f} slices/s (x {wall / reference[0]:.2f})   processor "
            f"{1e3 * processor / slices:5.2f} ms/slice (x {processor / reference[1]:.2f})   "
            f"{folder_bytes(output) / slices / 1e3:4.0f} kB/slice"
        )


def throughput(folders: list[Path], work: Path, settings: FeaturesSettings, workers: int) -> None:
    """Print slices per second of ./run.sh features build on several cores, including the start of the processes.

    Args:
        folders: one per exam.
        work: the benchmark's folder.
        settings: of the store.
        workers: processes.
    """
    out = work / "throughput"
    out.mkdir()
    jobs = list(jobs_of(folders, out, settings))
    start = time.perf_counter()
    store_exams(iter(jobs), workers)
    slices = sum(len(job.files) for job in jobs)
    say(f"{workers} processes: {slices / (time.perf_counter() - start):.0f} slices/s, including their start")


def time_steps(folder: Path, work: Path, settings: FeaturesSettings) -> None:
    """Print milliseconds per slice of every step alone, one process, one thread.

    Args:
        folder: one exam.
        work: the benchmark's folder.
        settings: of the store.
    """
    out = work / "steps"
    out.mkdir()
    files = files_in_order(folder)
    steps: dict[str, float] = {}

    def step(name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = function()
        steps[name] = 1e3 * (time.perf_counter() - start) / len(files)
        return value

    data = step("read", lambda: [file.read_bytes() for file in files])
    step("sha256", lambda: [hashlib.sha256(content).digest() for content in data])
    headers = step("header", lambda: [parse_header(d, f, len(d)) for d, f in zip(data, files, strict=True)])
    planes = step("decode", lambda: [decode_hu(d, h) for d, h in zip(data, headers, strict=True)])
    hu, pixel_mm, z_mm = np.stack(planes), headers[0].spacing_mm, np.array([header.z_mm for header in headers])
    box: Box = step("lung box", lambda: find_lung_box(hu, pixel_mm))
    sides = box.y0, box.y1, box.x0, box.x1
    stored = step("resample", lambda: resample_box(hu, sides, pixel_mm, settings.spacing_mm))
    spacing = (settings.spacing_mm, settings.spacing_mm)
    sops = tuple(file.stem for file in files)
    facts = {"z_mm": z_mm, "spacing_mm": spacing, "raw_spacing_mm": pixel_mm, "sop_uids": sops, "box": box}
    step("compress, write", lambda: write_exam(out, "exam", "series", stored, **facts))
    exam = open_exam(out, "exam")
    measured = step("measure slices", lambda: measure_slices(exam, stored))
    step("measure heart and vessels", lambda: measure_anatomy(exam, measured, stored))
    needed = sum(steps[name] for name in ("read", "decode", "resample", "compress, write"))
    say("one process, ms per slice: " + ", ".join(f"{name} {value:.2f}" for name, value in steps.items()))
    say(f"  minimum (read, decode, resample, compress) {needed:.2f} ms; all steps {sum(steps.values()):.2f} ms")


def measure_memory(folders: list[Path], count: int, work: Path, settings: FeaturesSettings, workers: int) -> None:
    """Print the peak memory of this process and its workers while `count` exams are stored.

    Args:
        folders: one per different exam.
        count: exams to store, links to those.
        work: the benchmark's folder.
        settings: of the store.
        workers: processes.
    """
    links, out = link_exams(folders, count, work / f"links{count}"), work / f"memory{count}"
    out.mkdir()
    start = time.perf_counter()
    with watch_memory() as peak:
        store_exams(jobs_of(links, out, settings), workers)
    seconds = time.perf_counter() - start
    slices = sum(len(list(folder.iterdir())) for folder in links)
    say(f"  {count:>5} exams, {slices:>6} slices: peak of the process tree {peak[0] / 1e6:.0f} MB, {seconds:.1f} s")
    shutil.rmtree(out)
    shutil.rmtree(work / f"links{count}")


def folder_bytes(folder: Path) -> int:
    """Total size of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog="./run.sh bench ingest_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--source", type=Path, metavar="DIR", help="use exams from DIR/<Study>/<Series>/*.dcm")
    top.add_argument("--take", type=int, default=2, help="number of different exams (%(default)s)")
    top.add_argument("--exams", type=int, default=8, help="exams in the comparison, links to those (%(default)s)")
    top.add_argument("--slices", type=int, default=120, help="slices of a synthetic exam (%(default)s)")
    top.add_argument("--rows", type=int, default=512, help="pixels per side of a synthetic exam (%(default)s)")
    top.add_argument("--spacing-mm", type=float, default=0.75, help="of the store (%(default)s, as in rsna.toml)")
    top.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    top.add_argument("--memory", type=int, nargs="*", metavar="EXAMS", help="measure only peak memory for EXAMS exams")
    return top


def main() -> None:
    """Generate or find the raw exams and print the measurements."""
    arguments = parser().parse_args()
    workers, settings = arguments.workers or cores(), FeaturesSettings(spacing_mm=arguments.spacing_mm)
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        work = Path(name)
        if arguments.source:
            folders = sorted(path for path in arguments.source.glob("*/*") if path.is_dir())[: arguments.take]
        else:
            folders = generate_source(work / "raw", arguments.take, arguments.slices, arguments.rows)
        if arguments.memory:
            for count in arguments.memory:
                measure_memory(folders, count, work, settings, workers)
            return
        threadpool_limits(1)
        folders = link_exams(folders, arguments.exams, work / "links")
        with ignore_text_warnings():
            compare(folders, work, settings)
            time_steps(folders[0], work, settings)
        throughput(folders, work, settings, workers)


if __name__ == "__main__":
    run(main)
