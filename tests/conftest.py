"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pipeline import paths

#: Files with tests of `small_run`. One process runs them all, so that only one has to finish that run.
OF_SMALL_RUN = ("test_training_on_a_cluster.py", "test_kaggle_notebook.py", "test_prediction_of_a_run.py")
#: Files with tests that import TensorFlow although they are not slow.
WITH_TENSORFLOW = ("tests/models/", "tests/benchmarks/test_gpu.py")
#: Files that keep a process busy for long. They are started first, so that none is left for the end.
LONGEST = (
    "test_slice_training.py", *OF_SMALL_RUN, "test_damaged_artifacts.py", "test_every_backbone.py",
    "test_slice_runs.py", "test_frozen_stem.py", "test_cluster.py",
)  # fmt: skip
# Examples take no fixed time on a machine that runs other things as well.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fast."""
    parser.addoption("--fast", action="store_true", help="leave out the tests that are marked as slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move the tests of LONGEST to the front; with --fast, deselect the slow tests."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute whole files, those of OF_SMALL_RUN as if they were one.

    The same with --fast for the files that import TensorFlow, because most of their tests take less time than that.
    """
    from xdist.scheduler import LoadFileScheduling

    class FileScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if self.config.getoption("fast") and file.startswith(WITH_TENSORFLOW):
                return "tests with TensorFlow"
            return OF_SMALL_RUN[0] if file.endswith(OF_SMALL_RUN) else file

    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact root of the finished experiment of `tests.support.small_run`; tests do not write there."""
    from tests.support.small_run import finish_small_run

    root = tmp_path_factory.mktemp("small_run")
    finish_small_run(root)
    return root


@pytest.fixture(autouse=True)
def no_experiment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test select the experiment of the next one."""
    monkeypatch.setenv(paths.EXPERIMENT, "")
    yield
