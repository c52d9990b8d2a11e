"""What all tests share."""

from collections.abc import Iterator

import pytest

from pipeline import paths


@pytest.fixture(autouse=True)
def no_experiment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test select the experiment of the next one."""
    monkeypatch.setenv(paths.EXPERIMENT, "")
    yield
