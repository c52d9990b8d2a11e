"""Lines about running training jobs where no terminal shows a bar."""

import time

import pytest

from models import job_progress
from models.job_progress import JobProgress
from models.progress_messages import EpochMessage, ExamEpochMessage, StepMessage
from pipeline import console


def test_every_epoch_and_every_end_of_a_job_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with JobProgress(2, epochs=4) as progress:
        progress.started("models/a/fold0")
        progress.message("models/a/fold0", StepMessage(1, 3, 9, 0.5, 60.0))
        progress.message("models/a/fold0", EpochMessage(1, 2, 0.5, None, 1e-3, 40.0, 60.0))
        progress.message("models/a/fold0", ExamEpochMessage("gru", 5, 10, 0.25))
        progress.finished("models/a/fold0", "loss 0.1, 9 s")
    assert [line.split(":")[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["models/a/fold0", " epoch 1/2"],
        ["models/a/fold0", " gru epoch 5/10"],
        ["models/a/fold0", " loss 0.1, 9 s"],
    ]


def test_a_silent_run_states_what_its_jobs_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_progress, "SECONDS_PER_LINE", 0.02)
    with JobProgress(2, epochs=4) as progress:
        progress.started("models/a/fold0")
        progress.message("models/a/fold0", StepMessage(1, 3, 9, 0.5, 60.0))
        progress.started("models/b/fold0")
        time.sleep(0.2)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("models: 0 of 2 jobs finished")
    assert "models/a/fold0: step 3/9 of epoch 1" in line and line.endswith("models/b/fold0: starting")


def test_long_loops_print_their_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    assert list(console.progress("abc", desc="ingest", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr().out == "ingest: 1 of 3 in 40 s\n"
