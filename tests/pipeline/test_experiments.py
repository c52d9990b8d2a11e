"""Experiments: their names, their recorded settings, and the artifacts of the earlier layout."""

import argparse
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.artifact import MANIFEST, Artifact
from pipeline.cli import add_experiment_arguments, settings_from
from pipeline.errors import UserError
from pipeline.experiments import default_name, is_experiment, names, recorded_settings, require_experiment, start
from pipeline.files import write_json, write_text
from pipeline.settings import Settings
from pipeline.stage_plan import BUILDING


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    return tmp_path.resolve() / "root"


def select(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_experiment_arguments(parser)
    return settings_from(parser.parse_args(words))


def run(*words: str) -> str:
    """Start an experiment as a stage does; return its name."""
    start(select(*words))
    (paths.experiment() / paths.LINKS).mkdir(exist_ok=True)
    return paths.experiment().name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "tests"),
        (["models.epochs=2"], "tests,models.epochs=2"),
        (['models.backbones=["a","b"]'], "tests,models.backbones=a-b"),
        (["a.b=1", "a.c=/some/path"], "tests,a.b=1,a.c=some-path"),
    ],
)
def test_a_name_is_made_of_the_settings_file_and_the_overrides(overrides: list[str], name: str) -> None:
    assert default_name("some/where/tests.toml", overrides) == name


def test_the_same_settings_lead_to_the_same_experiment() -> None:
    first = run("--settings", "settings/tests.toml")
    second = run("--settings", "settings/tests.toml", "--set", "models.epochs=2")
    assert (first, second) == ("tests", "tests,models.epochs=2")
    assert run("--settings", "settings/tests.toml") == "tests"
    assert names() == ["tests", "tests,models.epochs=2"]


def test_an_edited_settings_file_is_another_experiment(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[models]\nepochs = 3\n")
    assert run("--settings", str(file)) == "mine"
    file.write_text("[models]\nepochs = 4\n")
    assert run("--settings", str(file)) == "mine.2"
    file.write_text("[models]\nepochs = 3\n")
    assert run("--settings", str(file)) == "mine"


def test_a_name_recalls_the_settings_of_its_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "contest").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("--name", "mine", "--set", "models.epochs=9", "--data", "contest") == "mine"
    monkeypatch.chdir("/")
    settings = select("--name", "mine")
    assert settings.models.epochs == 9 and settings.data_root == tmp_path.resolve() / "contest"
    assert recorded_settings("mine") == settings


def test_a_chosen_name_with_other_settings_is_an_error() -> None:
    run("--name", "mine", "--set", "models.epochs=9")
    with pytest.raises(UserError, match="Experiment mine has other settings: models.epochs is 9, not 8"):
        select("--name", "mine", "--set", "models.epochs=8")


def test_a_name_is_no_path() -> None:
    with pytest.raises(UserError, match="Invalid name"):
        select("--name", "../mine")


def test_selecting_an_experiment_writes_nothing(root: Path) -> None:
    select("--name", "mine")
    assert not root.exists()


def test_a_missing_experiment_is_reported_with_those_that_exist(root: Path) -> None:
    run("--name", "mine")
    require_experiment("mine")
    with pytest.raises(UserError, match=r"No experiment: .*other.* Experiments here: mine\. .*--name"):
        require_experiment("other")
    write_json(root / "ensemble" / "runs" / MANIFEST, {"identity": "0123456789abcdef"})
    with pytest.raises(UserError, match="artifacts of an earlier version, which ./run.sh takes over"):
        require_experiment("other")


def test_artifacts_of_the_earlier_layout_are_moved_and_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def store(link: Path, shared: bool) -> Artifact:
        return Artifact(link, "features/store", version=1, settings={"a": 1}, inputs={}, shared=shared)

    earlier = store(root / "features" / "store", False)
    with earlier.building() as folder:
        write_text(folder / "exam.b2nd", "pixels")
        earlier.finish(rows={})
    for network, name in (("mobilenetv2", MANIFEST), ("mobilenetv2_gru", BUILDING)):
        write_json(root / "models" / "runs" / network / "fold0" / name, {"identity": "0123456789abcdef"})
    write_text(root / "submissions" / "results" / "leaderboard.csv", "rows")
    write_text(root / "submissions" / "results" / "submission.csv", "mine")
    assert not is_experiment("mine")
    run("--name", "mine")
    assert store(paths.store(), True).is_current(force=False)
    assert (paths.store() / "exam.b2nd").read_text() == "pixels"
    folders = sorted(path.name for path in (root / "artifacts" / "models").iterdir())
    assert folders == ["mobilenetv2-fold0-0123456789", "mobilenetv2_gru-fold0-0123456789"]
    assert (root / "experiments" / "leaderboard.csv").read_text() == "rows"
    assert (root / "submissions" / "results" / "submission.csv").read_text() == "mine"
    assert "taken over" in capsys.readouterr().out
    run("--name", "mine")
    assert "taken over" not in capsys.readouterr().out


def test_a_linked_folder_of_the_earlier_layout_stays_in_place(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "store"
    write_json(target / MANIFEST, {"identity": "0123456789abcdef"})
    (root / "features").mkdir(parents=True)
    (root / "features" / "store").symlink_to(target)
    run("--name", "mine")
    assert (root / "artifacts" / "features" / "store-0123456789").resolve() == target.resolve()
    assert (root / "features" / "store" / MANIFEST).is_file()


def test_an_unreadable_manifest_of_the_earlier_layout_is_one_clear_error(root: Path) -> None:
    write_text(root / "features" / "store" / MANIFEST, "{")
    with pytest.raises(UserError, match="Not a manifest: .*cannot be taken over. Move the folder away"):
        run("--name", "mine")
    assert (root / "features" / "store" / MANIFEST).is_file()
