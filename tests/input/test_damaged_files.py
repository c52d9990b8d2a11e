"""Bit flips and cuts anywhere in a file of each syntax: pixels come out or a named quarantine, never a crash."""

import warnings
from pathlib import Path

import numpy as np

from input.decoding import ExamJob, decode_exams
from input.slice_faults import DicomFault
from input.slice_file import read_plane
from tests.support.dicom_files import SYNTAXES, write_slice

PER_SYNTAX = 24
SEED = 5


def read_all(job: ExamJob, bad_files: dict[Path, str]) -> dict[Path, str]:
    """File -> the reason of its quarantine, or "pixels" where it gave a plane of HU."""
    found = dict(bad_files)
    for path in job.files:
        if path in bad_files:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom about damaged values
                hu = read_plane(path).hu
        except DicomFault as fault:
            found[path] = fault.reason
        else:
            is_plane = hu.dtype == np.int16 and hu.ndim == 2 and -1024 <= hu.min() and hu.max() <= 3071
            found[path] = "pixels" if is_plane else f"{hu.dtype} {hu.shape} {hu.min()} {hu.max()}"
    return found


def damaged(folder: Path, syntax: str) -> tuple[Path, ...]:
    """Copies of one file: bits flipped anywhere, in the header alone and in the pixels alone, or cut short."""
    random = np.random.default_rng([SEED, list(SYNTAXES).index(syntax)])
    whole = write_slice(folder / f"{syntax}.dcm", syntax=syntax).read_bytes()
    files = []
    for number in range(PER_SYNTAX):
        data = bytearray(whole)
        low, high = ((0, len(data)), (128, 900), (900, len(data)))[number % 3]
        for place in random.integers(low, min(high, len(data)), 1 + number % 4):
            data[place] ^= 1 << random.integers(8)
        if number % 6 == 5:
            data = data[: random.integers(len(data))]
        files.append(folder / f"{syntax}-{number}.dcm")
        files[-1].write_bytes(data)
    return tuple(files)


def test_damaged_files_of_every_syntax_give_pixels_or_a_reason(tmp_path):
    jobs = [ExamJob(syntax, damaged(tmp_path, syntax)) for syntax in SYNTAXES]
    for outcome in decode_exams(jobs, read_all, workers=1, timeout_s=120, file_timeout_s=30):
        assert outcome.fault == "", outcome.name
        assert set(outcome.value) == set(outcome.job.files)
        reasons = list(outcome.value.values())
        assert all(reason and "\n" not in reason for reason in reasons)
        assert reasons.count("pixels") < PER_SYNTAX - 3  # the cut ones at least are told
        if outcome.name == "deflated":
            assert all(reason != "pixels" for reason in reasons)
