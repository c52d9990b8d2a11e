"""Decoding in worker processes that die, hang or panic: only the file at fault is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input.safe_decoding import ExamJob, decode_exams, read_series_safely
from pipeline import paths
from pipeline.errors import UserError
from tests.support.dicom_files import write_slice

#: These tests start processes and wait for time limits.
pytestmark = pytest.mark.slow


class Panic(BaseException):
    """Raised like a panic of a Rust decoder: not an Exception."""


def misbehave(path: Path) -> None:
    if path.name == "dies":
        os._exit(7)
    if path.name == "hangs":
        time.sleep(60)
    if path.name == "panics":
        raise Panic("index out of bounds")


def ingest(job: ExamJob, bad_files: dict[Path, str]) -> list[str]:
    if job.payload == "broken":
        raise UserError("settings are wrong")
    if job.payload == "always dies":
        os._exit(9)
    kept = [path for path in job.files if path not in bad_files]
    for path in kept:
        misbehave(path)
    return [path.name for path in kept]


def job(name: str, *files: str, payload: str = "") -> ExamJob:
    return ExamJob(name, tuple(Path(file) for file in files), payload)


def run(*jobs: ExamJob, **limits: float) -> dict:
    limits = {"timeout_s": 30, "file_timeout_s": 30, **limits}
    outcomes = decode_exams(jobs, ingest, workers=2, try_file=misbehave, **limits)
    return {outcome.name: outcome for outcome in outcomes}


def test_only_the_file_that_kills_its_process_is_lost():
    outcomes = run(job("A", "1", "dies", "3"), job("B", "4", "5"), job("C", "6"))
    assert outcomes["A"].value == ["1", "3"]
    assert outcomes["A"].bad_files == {Path("dies"): "decoder process died with exit code 7"}
    assert outcomes["B"].value == ["4", "5"] and outcomes["B"].bad_files == {}
    assert outcomes["C"].value == ["6"]


def test_a_file_that_hangs_is_reported():
    outcome = run(job("A", "1", "hangs"), timeout_s=2, file_timeout_s=2)["A"]
    assert outcome.value == ["1"] and outcome.bad_files == {Path("hangs"): "timed out after 2 s"}


def test_a_panic_that_is_not_an_exception_is_reported():
    outcome = run(job("A", "panics", "2"))["A"]
    assert outcome.value == ["2"] and outcome.bad_files == {Path("panics"): "Panic: index out of bounds"}


def test_an_exam_that_fails_without_a_bad_file_is_a_fault_and_the_others_are_decoded():
    outcomes = run(job("A", "1", payload="always dies"), job("B", "2"))
    assert outcomes["A"].value is None and outcomes["A"].fault == "decoder process died with exit code 9"
    assert outcomes["B"].value == ["2"]


def test_a_user_error_ends_the_run():
    with pytest.raises(UserError, match="settings are wrong"):
        run(job("A", "1", payload="broken"))


def test_outcomes_are_in_the_order_of_the_jobs():
    jobs = [job(str(number), "x") for number in range(5)]
    assert [outcome.name for outcome in decode_exams(jobs, ingest, workers=2)] == ["0", "1", "2", "3", "4"]


def test_a_series_is_read_in_a_worker_process(tmp_path):
    for index in range(3):
        write_slice(tmp_path / f"{index}.dcm", z=index, InstanceNumber=index, SOPInstanceUID=f"1.2.{index}")
    series = read_series_safely(tmp_path)
    assert series.hu.shape == (3, 64, 64)
    np.testing.assert_array_equal(series.z_mm, [0, 1, 2])


def test_jobs_are_consumed_lazily():
    consumed = []

    def jobs():
        for number in range(40):
            consumed.append(number)
            yield job(str(number), "x")

    outcomes = decode_exams(jobs(), ingest, workers=1)
    assert next(outcomes).name == "0"
    assert len(consumed) < 10
    outcomes.close()


def test_a_folder_named_dl_in_the_working_directory_does_not_break_the_decoders(tmp_path):
    (tmp_path / "dl").mkdir()  # gdcm imports a module `dl` if there is one
    (tmp_path / "dl" / "__init__.py").write_text("")
    assert "PYTHONSAFEPATH=1" in (paths.CHECKOUT / "run.sh").read_text()
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(paths.CHECKOUT)}
    command = [sys.executable, "-c", "import gdcm, pydicom.pixels, input.dicom"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
