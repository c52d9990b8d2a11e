"""The whole stage on a small contest: files, leaderboard, report, and repeated runs."""

import shutil
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.errors import UserError
from pipeline.experiments import SETTINGS
from pipeline.files import write_json
from pipeline.settings import InputSettings, Settings, SubmissionsSettings
from submissions.__main__ import main
from submissions.check_submission import check_file
from submissions.kaggle_csv import read_layout
from submissions.leaderboard import LEGEND, append, leaderboard_path, read_leaderboard, run_table, whole_table
from submissions.score import score_file
from submissions.text_table import text_table
from submissions.write_submission import write_all
from tests.support.submission_cases import random_labels, write_ensemble, write_tree

STRENGTHS = {"prior": 0.0, "mobilenetv2": 1.0, "stack": 2.0}


def write_contest(root: Path) -> Settings:
    """Write a contest of 30 training and 24 test exams below a folder, and a finished ensemble below PE_ROOT."""
    train, test = random_labels(30, seed=1), random_labels(24, seed=2, first=100)
    write_tree(root / "contest", train, test)
    write_ensemble(paths.root(), train, test, STRENGTHS)
    return Settings(input=InputSettings(data=str(root / "contest")), submissions=SubmissionsSettings(bootstrap=50))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A contest of 30 training and 24 test exams with a finished ensemble."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    return write_contest(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """The artifact root of the finished stage, which tests copy, and its settings."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(root / "products"))
        patch.setenv(paths.EXPERIMENT, "")
        settings = write_contest(root)
        write_all(settings)
    return root / "products", settings


@pytest.fixture
def written(finished: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a finished stage, whose products lie under PE_ROOT."""
    products, settings = finished
    shutil.copytree(products, tmp_path / "products", symlinks=True)
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    return settings


def file_contents() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in paths.submissions().iterdir() if file.is_file()}


def test_every_candidate_and_the_promoted_one_become_valid_files(written: Settings) -> None:
    directory, layout = paths.submissions(), read_layout(written.data_root)
    for name in ("prior", "mobilenetv2", "stack", "submission"):
        assert check_file(directory / f"{name}.csv", layout) == []
    assert (directory / "submission.csv").read_bytes() == (directory / "stack.csv").read_bytes()
    files = read_manifest(directory)["files"]
    candidates = ["mobilenetv2.csv", "prior.csv", "stack.csv"]
    assert sorted(files) == [*candidates[:2], "report.md", "report.png", candidates[2], "submission.csv"]


def test_the_stored_score_equals_the_recomputed_one(written: Settings) -> None:
    rows = read_leaderboard(leaderboard_path()).set_index("candidate")
    truth = written.data_root / "truth" / "test_truth.csv"
    for name in STRENGTHS:
        again = score_file(paths.submissions() / f"{name}.csv", truth, bootstrap=50)
        assert rows.loc[name, "test"] == pytest.approx(again.total.value, abs=1e-12)
        assert rows.loc[name, "test_low"] == pytest.approx(again.total.low, abs=1e-12)
    assert rows.loc["stack", "cv"] < rows.loc["mobilenetv2", "cv"] < rows.loc["prior", "cv"]
    assert rows["promoted"].astype(str).tolist() == ["False", "False", "True"]


def test_a_second_run_does_nothing_and_a_forced_one_adds_no_rows(
    written: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_contents()
    capsys.readouterr()
    write_all(written)
    assert "submissions/write: up to date" in capsys.readouterr().out
    assert file_contents() == before
    write_all(written, force=True)
    again = file_contents()
    for name in ("submission.csv", "report.md", "report.png"):
        assert again[name] == before[name]
    assert len(read_leaderboard(leaderboard_path())) == len(STRENGTHS)


@pytest.mark.slow
def test_the_leaderboard_grows_by_a_run_and_other_files_stay(written: Settings, tmp_path: Path) -> None:
    (paths.submissions() / "mine.csv").write_text("keep me")
    other = Settings(input=written.input, submissions=SubmissionsSettings(bootstrap=60))
    write_all(other)
    rows = read_leaderboard(leaderboard_path())
    assert len(rows) == 2 * len(STRENGTHS) and rows["run"].nunique() == 2
    assert (paths.submissions() / "mine.csv").read_text() == "keep me"


def test_a_second_run_works_without_the_leaderboard(written: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard_path().unlink()
    (paths.submissions() / "model_card.md").unlink()
    write_all(written)
    assert "no row of this run, so no model card" in capsys.readouterr().out
    write_all(written, force=True)
    assert (paths.submissions() / "model_card.md").is_file()


def test_without_a_truth_the_test_columns_stay_empty(settings: Settings) -> None:
    (settings.data_root / "truth" / "test_truth.csv").unlink()
    write_all(settings)
    rows = read_leaderboard(leaderboard_path())
    assert rows["test"].isna().all() and rows["cv"].notna().all()
    assert "test truth" not in run_table(rows)


def test_the_output_has_tables_with_their_legend_and_the_files(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(settings)
    lines = capsys.readouterr().out.splitlines()
    for header in ("out of fold", "test truth"):
        row = next(row for row, line in enumerate(lines) if line.startswith(header))
        assert [line.split()[0] for line in lines[row + 2 : row + 5]] == ["stack", "mobilenetv2", "prior"]
    assert all(any(meaning in line for line in lines) for meaning in LEGEND.values())
    assert any("submission.csv" in line for line in lines)


def test_the_report_has_labels_calibration_and_the_quarantined_slice(written: Settings) -> None:
    text = (paths.submissions() / "report.md").read_text()
    assert "| RV/LV ratio >= 1 |" in text and "| out of fold |" in text
    rows = read_leaderboard(leaderboard_path()).set_index("candidate")
    for exams, column in (("out of fold", "cv"), ("test", "test")):
        for name in ("prior", "mobilenetv2"):
            worse = rows.loc[name, column] - rows.loc["stack", column]
            assert f"| {exams} | {name} | {worse:+.4f} (" in text
    assert "- 1 x pixel data truncated" in text
    assert "Synthetic" not in text
    assert (paths.submissions() / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_columns_of_a_text_table_are_aligned() -> None:
    table = text_table(["name", "score"], [["a", "0.5"], ["longer", "10.25"]])
    assert table == "name      score\n------  -------\na           0.5\nlonger    10.25"


def test_the_whole_leaderboard_is_sorted_within_data_sets(tmp_path: Path) -> None:
    row = {"when": "2026-01-01 10:00", "run": "r", "settings": "s", "commit": "", "data": "b", "promoted": False}
    rows = [row | {"candidate": "worse", "cv": 0.5}, row | {"candidate": "better", "cv": 0.4}]
    append(tmp_path / "l.csv", rows)
    append(tmp_path / "l.csv", [row | {"data": "a", "run": "q", "candidate": "other", "cv": 0.6, "promoted": True}])
    lines = whole_table(read_leaderboard(tmp_path / "l.csv")).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["a", "other"], ["b", "better"], ["b", "worse"]]
    assert "other *" in lines[2]
    assert lines[5] == "" and LEGEND["decoding cost"] in "\n".join(lines[6:])


def test_the_leaderboard_names_experiments(written: Settings, tmp_path: Path) -> None:
    older = {"when": "2025-01-01 10:00", "run": "0123456789abcdef", "settings": "s", "commit": "", "data": "old"}
    append(leaderboard_path(), [older | {"candidate": "prior", "promoted": True, "cv": 0.5}])
    unnamed = read_leaderboard(leaderboard_path())
    assert unnamed["experiment"].tolist() == [paths.UNNAMED] * len(STRENGTHS) + [""]
    text = whole_table(unnamed)
    assert "run 01234567" in text and text.count(paths.UNNAMED) == len(STRENGTHS)  # one folder without settings
    for name in ("first", "second"):
        shutil.copytree(paths.submissions(), tmp_path / "products" / "experiments" / name, symlinks=True)
        (tmp_path / "products" / "experiments" / name / SETTINGS).touch()
    assert whole_table(unnamed).count("first, second") == len(STRENGTHS)


def test_the_files_of_former_candidates_are_removed(written: Settings, tmp_path: Path) -> None:
    shutil.rmtree(paths.ensemble_run())
    shutil.rmtree(paths.prepared())
    train, test = random_labels(30, seed=1), random_labels(24, seed=2, first=100)
    write_ensemble(tmp_path / "products", train, test, {"prior": 0.0, "mean": 1.0}, identity="other")
    write_all(written)
    remaining = sorted(file.name for file in paths.submissions().glob("*.csv"))
    assert remaining == ["mean.csv", "prior.csv", "submission.csv"]


@pytest.mark.parametrize("verb", ["write", "card"])
def test_commands_reject_settings_that_did_not_make_the_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    write_json(paths.store() / "manifest.json", {"identity": "store"})
    words = ["--name", paths.UNNAMED, "--data", settings.input.data, "--set", "models.epochs=77"]
    monkeypatch.setattr("sys.argv", ["submissions", verb, *words])
    with pytest.raises(UserError, match="Networks are not ready"):
        main()
    assert not (paths.submissions() / "submission.csv").exists()


def test_predictions_that_changed_on_disk_are_an_error(settings: Settings, tmp_path: Path) -> None:
    with (paths.ensemble_run() / "exams.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="sha256 differs"):
        write_all(settings)
