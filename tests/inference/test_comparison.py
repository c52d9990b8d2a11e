"""The comparison of two experiments on the same exams."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference import comparison
from inference.comparison import changed_exams, compare, figures_table, read_finished
from pipeline import paths
from pipeline.errors import UserError
from pipeline.experiments import start
from pipeline.settings import InputSettings, ModelsSettings, Settings, SubmissionsSettings
from submissions.write_submission import write_all
from tests.support.submission_cases import random_labels, write_ensemble, write_tree


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Experiments `weak` and `strong` on the same 60 training and 24 test exams."""
    tmp_path = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(tmp_path / "root"))
        patch.setenv(paths.EXPERIMENT, "")
        patch.setattr(comparison, "require_finished", lambda settings: None)  # there are no networks
        write_pair(tmp_path)
        yield


def write_pair(tmp_path: Path) -> None:
    """Write the experiments of `pair`."""
    train, test = random_labels(60, seed=1), random_labels(24, seed=2, first=100)
    write_tree(tmp_path / "contest", train, test)
    for name, strength, epochs in (("weak", 0.5, 3), ("strong", 3.0, 4)):
        candidates = {"prior": 0.0, "stack": strength}
        write_ensemble(tmp_path / "root", train, test, candidates, identity=name, experiment=name)
        paths.select_experiment(name)
        settings = Settings(
            input=InputSettings(data=str(tmp_path / "contest")), models=ModelsSettings(epochs=epochs),
            submissions=SubmissionsSettings(bootstrap=100),
        )  # fmt: skip
        start(settings)
        write_all(settings)


def test_settings_figures_and_exams_are_compared(pair: None, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    compare("weak", "strong", exams=3)
    text = capsys.readouterr().out
    assert "models.epochs  3       4" in text
    for title in ("out of fold, stack and stack:", "test, stack and stack:", "log loss: Central PE", "change of loss"):
        assert title in text
    assert len(text.split("change of loss")[1].strip().splitlines()) == 4  # a rule and three exams


def test_differences_are_paired_and_have_the_right_sign(pair: None) -> None:
    table = figures_table((read_finished("weak"), read_finished("strong")), "test")
    metric = next(line for line in table.splitlines() if line.startswith("metric"))
    assert " -" in metric and metric.endswith("*")
    same = figures_table((read_finished("weak", "prior"), read_finished("strong", "prior")), "test")
    assert "+0.0000 (+0.0000 to +0.0000)" in same


def test_the_exams_with_the_largest_change_come_first(pair: None) -> None:
    changed = changed_exams((read_finished("weak"), read_finished("strong")), 84)
    assert len(changed) == 84 and set(changed["role"]) == {"out of fold", "test"}
    assert changed["change"].abs().is_monotonic_decreasing


def test_other_exams_and_unknown_names_are_refused(pair: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"No experiment: .* Experiments here: weak, strong"):
        compare("weak", "nobody")
    with pytest.raises(UserError, match="weak has no candidate mean. Expected one of prior, stack"):
        compare("weak", "strong", candidate="mean")
    shutil.copytree(paths.root(), tmp_path / "root", symlinks=True)
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    manifest = tmp_path / "root" / "experiments" / "weak" / "artifacts" / "prepared" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"prepared"', '"others"'))
    with pytest.raises(UserError, match="different exams, labels or folds"):
        compare("weak", "strong")
