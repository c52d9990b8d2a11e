"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from pipeline import paths

#: Files that keep a process busy for minutes. They are started first, so that none is left for the end.
LONGEST = ("test_training_on_a_cluster.py", "test_damaged_artifacts.py")
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


@pytest.fixture(autouse=True)
def no_experiment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test select the experiment of the next one."""
    monkeypatch.setenv(paths.EXPERIMENT, "")
    yield
