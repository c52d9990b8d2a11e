"""What a run needs: slices counted without packages, disk and memory that scale, and faults where they lack."""

import dataclasses

import pytest

from pipeline import doctor, needs
from pipeline.settings import FeaturesSettings, InputSettings, ModelsSettings, Settings


def test_the_phantoms_slices_are_those_it_will_draw() -> None:
    settings = Settings()
    assert needs.count_slices(settings) == 360 * settings.phantom.slices


def test_a_trees_slices_are_the_rows_of_its_tables(tmp_path) -> None:
    settings = Settings(input=InputSettings(data=str(tmp_path)))
    assert needs.count_slices(settings) is None
    (tmp_path / "train.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "test.csv").write_text("a\n1\n")
    assert needs.count_slices(settings) == 3


def test_half_the_spacing_takes_four_times_the_store() -> None:
    coarse, fine = (Settings(features=FeaturesSettings(spacing_mm=step)) for step in (1.4, 0.7))
    assert needs.disk_bytes(fine, 1000)["features"] == 4 * needs.disk_bytes(coarse, 1000)["features"]


def test_memory_follows_the_jobs_at_a_time() -> None:
    assert needs.memory_bytes(Settings(), cores=4) == 4 * needs.TRAINING_BYTES
    one = Settings(models=ModelsSettings(workers=1))
    assert needs.memory_bytes(one, cores=4) == needs.TRAINING_BYTES


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (1_500, "1.5 kB"), (37e6, "37 MB"), (2.88e11, "288 GB")])
def test_bytes_are_told_with_two_digits(number: float, text: str) -> None:
    assert needs.told(number) == text


def test_the_doctor_names_a_disk_and_a_memory_that_are_too_small(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(doctor, "_free_gb", lambda: 0.5)
    monkeypatch.setattr(doctor, "_memory_gb", lambda: 1.0)
    settings = dataclasses.replace(Settings(), models=ModelsSettings(workers=2))
    lines, faults = doctor._needs(settings, "cpu")
    assert "15,840 slices: input 1.5 GB" in lines[0]
    assert [fault.split(":")[0] for fault in faults] == ["disk", "memory"]
    assert "PE_ROOT moves the products" in faults[0] and "models.workers=1" in faults[1]


def test_the_doctor_names_a_tree_without_tables(tmp_path) -> None:
    lines, faults = doctor._needs(Settings(input=InputSettings(data=str(tmp_path))), "cpu")
    assert lines == [] and "no train.csv and test.csv" in faults[0]
