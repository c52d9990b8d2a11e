"""Raw DICOM to the pixel store: slices a second beside a plain loop with the same output, the floor, and memory.

    python -m benchmarks.ingest                                 # drawn exams, 512 pixels, uncompressed
    python -m benchmarks.ingest --source ~/rsna/train --take 4  # some exams of a contest tree
    python -m benchmarks.ingest --memory 10 100 500             # peak memory of all processes against exams

The plain loop is what contest repositories do: pydicom reads a file, its pixels become HU in floating point, the
plane is resampled, the stack of an exam is saved with numpy. It takes the lung box and the weights of resampling
from this code, so that both arrays must agree to a grey level; it computes no checksum, gates no file, survives no
broken one and measures nothing. Everything runs on the same cores; nothing is read from the network or a cold disk.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pydicom
from threadpoolctl import threadpool_limits

from features.heart_and_vessels import measure_anatomy
from features.ingest import IngestOrder, ingest_exam
from features.lung_box import Box, find_lung_box
from features.resample import axis_weights, resample_box
from features.slice_measurements import measure_slices
from features.store import open_exam, write_exam
from input.decoding import ExamJob, decode_exams
from input.header import parse_header, quiet_contest_uids
from input.phantom.dicom_quirks import SYNTAXES, draw_quirks
from input.phantom.dicom_writer import uid
from input.phantom.dicom_writer import write_exam as write_dicom
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import draw_exam, streams
from input.phantom.labels import draw_states
from input.pixels import HU_MAX, HU_MIN, decode_hu
from input.slice_file import read_header
from pipeline.cli import run
from pipeline.console import say
from pipeline.jobs import cores
from pipeline.settings import FeaturesSettings

SEED = 41


def draw_source(folder: Path, exams: int, slices: int, rows: int) -> list[Path]:
    """Draw exams as uncompressed DICOM; the folder of each."""
    folders = []
    for index, state in enumerate(draw_states(exams, 0.5, np.random.default_rng(SEED))):
        exam = draw_exam(state, difficulty_named("easy"), seed=SEED, index=index, rows=rows, slices=slices)
        quirks = draw_quirks(streams(SEED, index)["files"], prone=exam.patient.prone)
        quirks = type(quirks)(**{**vars(quirks), "syntax": SYNTAXES[index % 2][0]})  # implicit, explicit VR
        series = folder / uid(SEED, "study", index) / uid(SEED, "series", index)
        series.mkdir(parents=True)
        sops = [uid(SEED, "image", index, each) for each in range(len(exam.hu))]
        write_dicom(exam, quirks, series, study=series.parent.name, series=series.name, sops=sops)
        folders.append(series)
    return folders


def linked(folders: list[Path], count: int, root: Path) -> list[Path]:
    """`count` exams, each a folder of hard links to one of `folders`."""
    made = []
    for number in range(count):
        source, folder = folders[number % len(folders)], root / f"{number:06d}"
        folder.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, folder / file.name)
        made.append(folder)
    return made


# ---------------------------------------------------------------- the plain loop


def plain_exam(folder: Path, out: Path, spacing_mm: float, compressed: bool) -> None:
    """One exam as contest repositories do it; axes as in this store, feet to head."""
    datasets = [pydicom.dcmread(file) for file in folder.iterdir()]
    datasets.sort(key=lambda each: float(each.ImagePositionPatient[2]))
    planes = []
    for dataset in datasets:
        hu = dataset.pixel_array.astype(np.float64) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        hu = np.clip(hu, HU_MIN, HU_MAX)
        orientation = [float(each) for each in dataset.ImageOrientationPatient]
        hu = hu[:, ::-1] if orientation[0] < 0 else hu
        hu = hu[::-1] if orientation[4] < 0 else hu
        planes.append(hu.astype(np.int16))
    stack = np.stack(planes)
    pixel_mm = tuple(float(each) for each in datasets[0].PixelSpacing)
    box = find_lung_box(stack, pixel_mm)
    down = axis_weights(box.y0, box.y1, stack.shape[1], pixel_mm[0], spacing_mm)
    across = axis_weights(box.x0, box.x1, stack.shape[2], pixel_mm[1], spacing_mm).T
    rows, columns = np.flatnonzero(down.any(axis=0)), np.flatnonzero(across.any(axis=1))
    stack = stack[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down, across = down[:, rows].copy(), across[columns].copy()
    stored = np.stack([np.rint(down @ plane.astype(np.float32) @ across) for plane in stack]).astype(np.int16)
    (np.savez_compressed if compressed else np.save)(out, stored)


# ---------------------------------------------------------------- this code


def jobs_of(folders: list[Path], out: Path, settings: FeaturesSettings) -> Iterator[ExamJob]:
    """The jobs of `features build`: files feet to head, as input/prepared has ordered them."""
    for folder in folders:
        files = files_in_order(folder)
        yield ExamJob(
            folder.name, tuple(files), IngestOrder("series", tuple(file.stem for file in files), out, settings)
        )


def files_in_order(folder: Path) -> list[Path]:
    """An exam's files feet to head, by their headers."""
    return sorted(folder.iterdir(), key=lambda file: read_header(file).z_mm)


def our_store(jobs: list[ExamJob], workers: int) -> None:
    """What `features build` does with the exams, the measured numbers included."""
    for outcome in decode_exams(jobs, ingest_exam, workers=workers):
        if outcome.fault or outcome.value.quarantine:
            raise RuntimeError(f"{outcome.name}: {outcome.fault or outcome.value.quarantine}")


# ---------------------------------------------------------------- figures


def compare(folders: list[Path], work: Path, settings: FeaturesSettings) -> None:
    """Milliseconds a slice of both in this process, exam by exam in turn, and whether they stored the same."""
    kinds = {
        "this store: gates, checksums, sidecar": lambda job, folder, out: store_only(job),
        "plain loop, np.savez_compressed": lambda job, folder, out: plain_exam(folder, out, settings.spacing_mm, True),
        "plain loop, np.save": lambda job, folder, out: plain_exam(folder, out, settings.spacing_mm, False),
        "this store, and what is measured on it": lambda job, folder, out: ingest_exam(at(job, out.parent), {}),
    }
    places = [work / f"out{number}" for number in range(len(kinds))]
    for place in places:
        place.mkdir()
    spent = dict.fromkeys(kinds, (0.0, 0.0))
    jobs = list(jobs_of(folders, places[0], settings))
    ingest_exam(next(jobs_of(folders[:1], work / "warm", settings)), {})  # imports and page faults of the first time
    for job, folder in zip(jobs, folders, strict=True):
        for (name, ingest), place in zip(kinds.items(), places, strict=True):
            start, busy = time.perf_counter(), time.process_time()
            if name.startswith("this store"):  # the pass over the headers that input/prepared has made; both sides sort
                files_in_order(folder)
            ingest(job, folder, place / folder.name)
            wall, processor = time.perf_counter() - start, time.process_time() - busy
            spent[name] = spent[name][0] + wall, spent[name][1] + processor
        if not np.array_equal(np.load(places[2] / f"{folder.name}.npy"), open_exam(places[0], folder.name).hu[:]):
            raise RuntimeError(f"{folder.name}: the two arrays differ")
    slices = sum(len(job.files) for job in jobs)
    say(f"{len(folders)} exams, {slices} slices, {settings.spacing_mm:g} mm, one process, one thread; equal arrays")
    reference = next(iter(spent.values()))
    for (name, (wall, processor)), place in zip(spent.items(), places, strict=True):
        say(
            f"  {name:<46} {slices / wall:5.0f} slices/s (x {wall / reference[0]:.2f})   processor "
            f"{1e3 * processor / slices:5.2f} ms/slice (x {processor / reference[1]:.2f})   "
            f"{size_of(place) / slices / 1e3:4.0f} kB/slice"
        )


def store_only(job: ExamJob) -> None:
    """The job of the plain loop: an ingest without the numbers that it measures."""
    with mock.patch("features.ingest._measured", lambda exam, hu: None):
        ingest_exam(job, {})


def at(job: ExamJob, directory: Path) -> ExamJob:
    """The same job for a store elsewhere."""
    return dataclasses.replace(job, payload=dataclasses.replace(job.payload, directory=directory))


def throughput(folders: list[Path], work: Path, settings: FeaturesSettings, workers: int) -> None:
    """Slices a second of `features build` on several cores, the start of its processes included."""
    out = work / "throughput"
    out.mkdir()
    jobs = list(jobs_of(folders, out, settings))
    seconds = timed(lambda: our_store(jobs, workers))
    slices = sum(len(job.files) for job in jobs)
    say(f"{workers} processes: {slices / seconds:.0f} slices/s, their start included")


def floor(folder: Path, work: Path, settings: FeaturesSettings) -> None:
    """Milliseconds a slice of every step alone, one process, one thread."""
    out = work / "floor"
    out.mkdir()
    files = files_in_order(folder)
    steps: dict[str, float] = {}

    def step(name: str, measured: Callable):
        start = time.perf_counter()
        value = measured()
        steps[name] = 1e3 * (time.perf_counter() - start) / len(files)
        return value

    data = step("read", lambda: [file.read_bytes() for file in files])
    step("sha256", lambda: [hashlib.sha256(each).digest() for each in data])
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
    say("one process, ms a slice: " + ", ".join(f"{name} {value:.2f}" for name, value in steps.items()))
    say(f"  floor (read, decode, resample, compress) {needed:.2f} ms; all steps {sum(steps.values()):.2f} ms")


def memory(folders: list[Path], count: int, work: Path, settings: FeaturesSettings, workers: int) -> None:
    """Peak memory of this process and its workers while `count` exams are stored."""
    links, out = linked(folders, count, work / f"links{count}"), work / f"memory{count}"
    out.mkdir()
    with watched_memory() as peak:
        seconds = timed(lambda: our_store(jobs_of(links, out, settings), workers))
    slices = sum(len(list(folder.iterdir())) for folder in links)
    say(f"  {count:>5} exams, {slices:>6} slices: peak of the process tree {peak[0] / 1e6:.0f} MB, {seconds:.1f} s")
    shutil.rmtree(out)
    shutil.rmtree(work / f"links{count}")


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Sample the resident memory of this process and all below it; yields a list that holds the peak, in bytes."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], sum(map(_resident, _tree(os.getpid()))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    stop.set()
    watcher.join()


def _tree(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _tree(int(child))


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it has ended
        return 0


def timed(measured: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    measured()
    return time.perf_counter() - start


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def main() -> None:
    """Parse, make or find the raw exams, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="take exams from DIR/<Study>/<Series>/*.dcm")
    parser.add_argument("--take", type=int, default=2, help="different exams drawn or taken (%(default)s)")
    parser.add_argument("--exams", type=int, default=8, help="exams in the comparison, links to those (%(default)s)")
    parser.add_argument("--slices", type=int, default=120, help="of a drawn exam (%(default)s)")
    parser.add_argument("--rows", type=int, default=512, help="pixels a side of a drawn exam (%(default)s)")
    parser.add_argument("--spacing-mm", type=float, default=0.75, help="of the store (%(default)s, as in rsna.toml)")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one a core)")
    parser.add_argument("--memory", type=int, nargs="*", metavar="EXAMS", help="only peak memory for so many exams")
    arguments = parser.parse_args()
    workers, settings = arguments.workers or cores(), FeaturesSettings(spacing_mm=arguments.spacing_mm)
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        work = Path(name)
        if arguments.source:
            folders = sorted(each for each in arguments.source.glob("*/*") if each.is_dir())[: arguments.take]
        else:
            folders = draw_source(work / "raw", arguments.take, arguments.slices, arguments.rows)
        if arguments.memory:
            for count in arguments.memory:
                memory(folders, count, work, settings, workers)
            return
        threadpool_limits(1)
        folders = linked(folders, arguments.exams, work / "links")
        with quiet_contest_uids():
            compare(folders, work, settings)
            floor(folders[0], work, settings)
        throughput(folders, work, settings, workers)


if __name__ == "__main__":
    run(main)
