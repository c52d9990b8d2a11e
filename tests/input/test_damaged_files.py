"""Fuzzing: bit flips and truncation in files of each syntax give pixels or a quarantine reason, never a crash."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from input.safe_decoding import ExamJob, decode_exams
from input.slice_errors import DicomError
from input.slice_file import read_plane
from tests.support.dicom_files import SYNTAXES, write_slice

PER_SYNTAX = 24
SEED = 5


def read_all(job: ExamJob, bad_files: dict[Path, str]) -> dict[Path, str]:
    """Return file -> quarantine reason, or "pixels" if it was decoded to a valid slice of HU."""
    results = dict(bad_files)
    for path in job.files:
        if path in bad_files:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns about damaged values
                hu = read_plane(path).hu
        except DicomError as fault:
            results[path] = fault.reason
        else:
            is_valid = hu.dtype == np.int16 and hu.ndim == 2 and -1024 <= hu.min() and hu.max() <= 3071
            results[path] = "pixels" if is_valid else f"{hu.dtype} {hu.shape} {hu.min()} {hu.max()}"
    return results


def write_damaged_copies(folder: Path, syntax: str) -> tuple[Path, ...]:
    """Write copies of one file with bits flipped anywhere, in the header or in the pixels; some are truncated."""
    random = np.random.default_rng([SEED, list(SYNTAXES).index(syntax)])
    whole = write_slice(folder / f"{syntax}.dcm", syntax=syntax).read_bytes()
    files = []
    for number in range(PER_SYNTAX):
        data = bytearray(whole)
        low, high = ((0, len(data)), (128, 900), (900, len(data)))[number % 3]
        for offset in random.integers(low, min(high, len(data)), 1 + number % 4):
            data[offset] ^= 1 << random.integers(8)
        if number % 6 == 5:
            data = data[: random.integers(len(data))]
        files.append(folder / f"{syntax}-{number}.dcm")
        files[-1].write_bytes(data)
    return tuple(files)


@pytest.mark.slow
def test_damaged_files_of_every_syntax_give_pixels_or_a_reason(tmp_path):
    jobs = [ExamJob(syntax, write_damaged_copies(tmp_path, syntax)) for syntax in SYNTAXES]
    for outcome in decode_exams(jobs, read_all, workers=1, timeout_s=120, file_timeout_s=30):
        assert outcome.fault == "", outcome.name
        assert set(outcome.value) == set(outcome.job.files)
        reasons = list(outcome.value.values())
        assert all(reason and "\n" not in reason for reason in reasons)
        assert reasons.count("pixels") < PER_SYNTAX - 3  # truncated files at least give a reason
        if outcome.name == "deflated":
            assert all(reason != "pixels" for reason in reasons)
