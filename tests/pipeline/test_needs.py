"""What a run needs: slices counted without packages, disk and memory that scale, and faults where they lack."""

import dataclasses

import pytest

from pipeline import doctor, environment, hours, needs, plan
from pipeline.settings import (
    ExamNetworkSettings,
    FeaturesSettings,
    InputSettings,
    ModelsSettings,
    Settings,
    load_settings,
)
from tests.support.dicom_files import write_tree


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


def test_a_contest_that_is_not_there_is_planned_from_its_published_counts(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    lines = plan.describe(load_settings("settings/rsna.toml", data=str(tmp_path / "rsna")), "settings/rsna.toml")
    told = "\n".join(lines)
    assert "1,937,447 slices (1,790,594 training, 146,853 test; published counts, 7,929 exams), 1.0 TB to read" in told
    assert "features 243 GB" in told and "estimates, not promises" in told
    assert [line.split("  ")[1] for line in lines[-2:]] == [hours.ONE_GPU.name, hours.EIGHT_GPUS.name]


def test_a_plan_counts_the_rows_of_a_tree_that_is_there(tmp_path) -> None:
    settings = Settings(input=InputSettings(data=str(write_tree(tmp_path, exams=2))))
    assert "12 slices (6 training, 6 test), " in "\n".join(plan.estimates(settings))


def test_hours_fall_with_cores_until_the_disk_is_the_limit() -> None:
    settings = load_settings("settings/rsna.toml", data="/rsna")
    one, two, many = (hours.ingest_hours(settings, 1_000_000, hours.Hardware("", n)) for n in (1, 2, 10_000))
    assert one == pytest.approx(2 * two)
    assert many == pytest.approx(1e6 * 2 * 512**2 / 1e6 / hours.RATES["disk"].value / 3600)


def test_training_hours_follow_the_slices_and_are_shared_by_the_gpus() -> None:
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",), epochs=4, epoch_slices=10_000))
    once = hours.training_hours(settings, 0, 0, hours.ONE_GPU)
    twice = dataclasses.replace(settings, models=dataclasses.replace(settings.models, epochs=8))
    assert hours.training_hours(twice, 0, 0, hours.ONE_GPU) == pytest.approx(2 * once)
    assert hours.training_hours(settings, 0, 0, hours.EIGHT_GPUS) == pytest.approx(once / 3)  # three folds
    assert hours.training_hours(settings, 0, 0, hours.Hardware("", 1)) > 5 * once


def test_exam_networks_have_the_training_slices_embedded() -> None:
    """A slice network alone predicts its fold and the test slices; under an exam network all training slices."""
    models = ModelsSettings(backbones=("mobilenetv2",), epochs=1, epoch_slices=1)
    alone = Settings(models=models)
    read = Settings(models=dataclasses.replace(models, exam=ExamNetworkSettings(kinds=("gru",))))
    assert hours.training_hours(read, 30_000, 0, hours.ONE_GPU) == pytest.approx(
        3 * hours.training_hours(alone, 30_000, 0, hours.ONE_GPU), rel=1e-3
    )


@pytest.mark.parametrize(("number", "text"), [(0.001, "1 min"), (1.5, "90 min"), (64.2, "64 h"), (100, "4 days")])
def test_hours_are_told_in_fitting_units(number: float, text: str) -> None:
    assert hours.told(number) == text


def test_the_doctor_lists_everything_that_is_lacking_at_once(monkeypatch, tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", exams=2)
    for file in list((tree / "train").rglob("*.dcm"))[:2]:
        file.unlink()
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PE_DEVICE", "gpu")
    monkeypatch.setenv("PE_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setattr("pipeline.cluster.CONNECT_S", 0.5)
    monkeypatch.setattr(doctor, "_cards", lambda: doctor.NO_TOOL)
    monkeypatch.setattr(doctor, "_free_gb", lambda: 0.001)
    monkeypatch.setattr(environment, "_has_library", lambda name: False)
    _, faults = doctor.examine(Settings(input=InputSettings(data=str(tree))), tmp_path / ".venv")
    told = "\n".join(faults)
    for word in ("libgomp.so.1", "a GPU that answers (no nvidia-smi)", "disk: about", "no Dask scheduler answers"):
        assert word in told
    assert "train/: 2 files of train.csv are missing" in told
    assert len(faults) == len(set(faults))


def test_the_doctor_names_packages_that_a_python_of_ones_own_lacks(monkeypatch) -> None:
    monkeypatch.setenv("PE_PYTHON", "python3")
    monkeypatch.setattr(environment, "_installed", lambda name: name not in ("lightgbm", "pebble"))
    assert "lightgbm, pebble; install them there" in doctor._machine_faults("cpu", False)[0]


def test_a_python_of_ones_own_needs_no_set_up(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setenv("PE_DEVICE", "cpu")
    monkeypatch.setattr(environment, "lacks", lambda venv, kind: ["Python's venv module"])
    assert "Python's venv module" in doctor.examine(Settings(), tmp_path / ".venv")[1]
    monkeypatch.setenv("PE_PYTHON", "python3")
    assert "Python's venv module" not in doctor.examine(Settings(), tmp_path / ".venv")[1]
