"""Slices are counted without third-party packages, from the settings or the tables of a contest tree."""

from pathlib import Path

from input.estimate import CONTEST_SLICES, count_slices, expected_slices, plan_stage
from pipeline.load_settings import load_settings
from pipeline.settings import InputSettings, Settings
from tests.support.dicom_files import write_tree


def test_slices_of_the_phantom_follow_from_its_settings() -> None:
    settings = Settings()
    assert count_slices(settings) == (240 * settings.phantom.slices, 120 * settings.phantom.slices)


def test_slices_of_a_tree_are_the_rows_of_its_tables(tmp_path: Path) -> None:
    settings = Settings(input=InputSettings(data=str(tmp_path)))
    assert count_slices(settings) is None
    (tmp_path / "train.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "test.csv").write_text("a\n1\n")
    assert count_slices(settings) == (2, 1)


def test_a_contest_that_is_not_downloaded_is_planned_with_its_published_counts(tmp_path: Path) -> None:
    settings = load_settings("settings/rsna.toml", data=str(tmp_path / "rsna"))
    assert expected_slices(settings) == CONTEST_SLICES
    plan = plan_stage(settings)
    text = "1,937,447 slices (1,790,594 training, 146,853 test; published counts, 7,929 exams), 1.0 TB to read"
    assert text in plan.facts
    assert "no such folder" in plan.faults[0]


def test_the_plan_counts_the_rows_of_an_existing_tree(tmp_path: Path) -> None:
    plan = plan_stage(Settings(input=InputSettings(data=str(write_tree(tmp_path, exams=2)))))
    assert any(fact.startswith("12 slices (6 training, 6 test), ") for fact in plan.facts)
    assert plan.faults == []


def test_a_folder_without_tables_is_a_fault(tmp_path: Path) -> None:
    plan = plan_stage(Settings(input=InputSettings(data=str(tmp_path))))
    assert "Expected train.csv and test.csv" in plan.faults[0]
