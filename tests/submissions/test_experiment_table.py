"""The commands on all experiments: the table, and the artifacts that none uses."""

import re
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.experiments import start
from pipeline.files import write_text
from pipeline.settings import InputSettings, ModelsSettings, Settings
from submissions.experiment_table import clean, experiments_table, progress_of
from submissions.leaderboard import COLUMNS, append, leaderboard_path

SETTINGS = Settings(input=InputSettings(folds=2), models=ModelsSettings(backbones=("mobilenetv2",)))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    return tmp_path.resolve() / "root"


def build(link: Path, name: str, *, size: int = 1000, shared: bool = True, seed: int = 0) -> Artifact:
    artifact = Artifact(link, name, version=1, settings={"seed": seed}, inputs={}, shared=shared)
    if artifact.stale_reason():
        with artifact.building() as folder:
            write_text(folder / "data.txt", "x" * size)
            artifact.finish(rows={})
    artifact.connect_if_finished()
    return artifact


def build_experiment(name: str, seed: int = 0) -> None:
    """An experiment up to its networks; the store is the same for all."""
    paths.select_experiment(name)
    start(SETTINGS)
    for link, artifact in ((paths.prepared(), "input/prepared"), (paths.store(), "features/store")):
        build(link, artifact, size=50_000)
    build(paths.masks(), "features/masks")
    build(paths.acceptance(), "features/acceptance")
    for fold in range(2):
        build(paths.model_run("mobilenetv2", fold), f"models/mobilenetv2/fold{fold}", seed=seed, size=20_000)


def row_of(name: str) -> str:
    return next(line for line in experiments_table().splitlines() if line.startswith(f"{name} "))


def test_without_experiments_the_table_says_how_to_start_one() -> None:
    assert "no experiments yet" in experiments_table()


def test_the_state_is_the_first_unfinished_stage() -> None:
    paths.select_experiment("one")
    start(SETTINGS)
    assert progress_of("one") == "no tables"
    build_experiment("one")
    assert progress_of("one") == "no ensemble"
    paths.model_run("mobilenetv2", 1).unlink()
    assert progress_of("one") == "1 of 2 networks"
    build_experiment("one")
    build(paths.ensemble_run(), "ensemble/fit")
    assert progress_of("one") == "no submission"
    build(paths.submissions() / "evidence", "inference/evidence", shared=False)
    write_text(paths.submissions() / "manifest.json", "{}")
    assert progress_of("one") == "complete"


def test_the_table_has_scores_and_sizes(root: Path) -> None:
    build_experiment("one")
    build_experiment("two", seed=1)
    result = Artifact(paths.submissions(), "submissions/write", version=1, settings={}, inputs={}, files=("a.csv",))
    with result.building():
        result.finish(rows={})
    row = dict.fromkeys(COLUMNS, 0.5) | {
        "when": "2026-01-02 03:04",
        "run": result.identity,
        "settings": "",
        "commit": "",
    }
    append(leaderboard_path(), [row | {"data": "exams", "candidate": "stack", "promoted": True, "cv": 0.25}])
    assert "stack" in row_of("two") and "0.2500 (0.500-0.500)" in row_of("two")
    assert re.search(r" -  1\d\d kB  4\d kB  no ensemble", row_of("one"))  # two networks are its own


def test_clean_lists_and_deletes_only_what_no_experiment_uses(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_experiment("one")
    clean(really=False)
    assert "every artifact is used" in capsys.readouterr().out
    build_experiment("two", seed=1)
    for path in sorted((root / "experiments" / "two").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    before = set((root / "artifacts").glob("*/*"))
    clean(really=False)
    assert "2 artifacts that no experiment uses" in capsys.readouterr().out
    assert set((root / "artifacts").glob("*/*")) == before
    clean(really=True)
    removed = before - set((root / "artifacts").glob("*/*"))
    assert len(removed) == 2 and all(folder.parent.name == "models" for folder in removed)
    paths.select_experiment("one")
    assert (paths.store() / "data.txt").is_file() and progress_of("one") == "no ensemble"


def test_clean_refuses_while_a_run_is_active(root: Path) -> None:
    import fcntl

    (root / "logs").mkdir(parents=True)
    with (root / "logs" / ".running").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="A run is using"):
            clean(really=True)
