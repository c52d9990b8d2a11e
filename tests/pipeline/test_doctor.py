"""The doctor reports every missing requirement at once, each with a fix."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import doctor, environment
from pipeline.errors import UserError
from pipeline.settings import InputSettings, Settings
from pipeline.stage_plan import StagePlan
from tests.support.dicom_files import write_tree


def test_too_little_disk_space_and_memory_are_reported(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(doctor, "free_disk_bytes", lambda path: 5e8)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 1e9)
    plans = [
        StagePlan("input", [], facts=["15,840 slices"], disk_bytes=0),
        StagePlan("models", [{"path": "/x", "state": "not built", "wall_seconds": None}], disk_bytes=int(6e8),
                  cpu_memory_bytes=int(2e9)),
    ]  # fmt: skip
    lines, faults = doctor._check_needs(plans, "cpu")
    assert lines == [f"{'input':<13} 15,840 slices", f"{'needs':<13} disk: models 600 MB; memory: 2.0 GB"]
    assert [fault.split(":")[0] for fault in faults] == ["disk space", "memory"]
    assert "PE_ROOT" in faults[0] and "models.workers=1" in faults[1]
    assert [fault.split(":")[0] for fault in doctor._check_needs(plans, "gpu")[1]] == ["disk space"]


def test_finished_artifacts_need_no_more_disk_space(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "free_disk_bytes", lambda path: 5e8)
    finished = StagePlan("features", [{"path": "/x", "state": "finished", "wall_seconds": 1.0}], disk_bytes=int(1e12))
    assert doctor._check_needs([finished], "cpu")[1] == []


@pytest.mark.slow
def test_all_missing_requirements_are_listed_at_once(monkeypatch, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", exams=2)
    for file in list((tree / "train").rglob("*.dcm"))[:2]:
        file.unlink()
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PE_DEVICE", "gpu")
    monkeypatch.setenv("PE_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setattr("pipeline.cluster.CONNECT_S", 0.5)
    monkeypatch.setattr(doctor, "_describe_gpus", lambda: doctor.NO_TOOL)
    monkeypatch.setattr(doctor, "free_disk_bytes", lambda path: 1e6)
    monkeypatch.setattr(environment, "_has_library", lambda name: False)
    settings = Settings(input=InputSettings(data=str(tree)))
    lines, faults = doctor.examine(settings, ["--data", str(tree)], tmp_path / ".venv")
    text = "\n".join(faults)
    for part in ("libgomp.so.1", "a working GPU (no nvidia-smi)", "disk space: ", "no Dask scheduler answers"):
        assert part in text
    assert "2 files of train.csv are missing" in text
    assert len(faults) == len(set(faults))
    assert any(line.startswith("data") and "train.csv: 2 exams" in line for line in lines)


def test_a_hanging_nvidia_smi_is_one_fault_among_the_others(monkeypatch, tmp_path: Path) -> None:
    def hang(*_: str) -> str:
        raise UserError("No answer from nvidia-smi within 5 s.")

    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.delenv("PE_DEVICE", raising=False)
    monkeypatch.setattr(environment, "nvidia_smi", hang)
    monkeypatch.setattr(doctor, "nvidia_smi", hang)
    lines, faults = doctor.examine(Settings(input=InputSettings(data="/nowhere")), ["--data", "/nowhere"], tmp_path)
    assert "No answer from nvidia-smi within 5 s." in faults and any("/nowhere" in fault for fault in faults)
    assert any(doctor.TOOL_HANGS in line for line in lines)


def test_a_listed_gpu_that_is_not_used_is_a_fault(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_PYTHON", "python3")
    monkeypatch.setattr(environment, "missing_packages", lambda: [])
    monkeypatch.setattr(doctor, "_describe_gpus", lambda: "NVIDIA T4")
    answer = SimpleNamespace(stdout="tensorflow does not use the listed GPU (1 visible)\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    assert "tensorflow does not use the listed GPU (1 visible)" in doctor._machine_faults("gpu", False)


def test_a_tree_that_does_not_exist_is_reported_once(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setenv("PE_DEVICE", "cpu")
    data = str(tmp_path / "nowhere")
    _, faults = doctor.examine(Settings(input=InputSettings(data=data)), ["--data", data], tmp_path / ".venv")
    assert len([fault for fault in faults if "no such folder" in fault]) == 1


def test_missing_packages_of_the_users_own_python_are_named(monkeypatch) -> None:
    monkeypatch.setenv("PE_PYTHON", "python3")
    monkeypatch.setattr(environment, "_installed", lambda name: name not in ("lightgbm", "pebble"))
    assert "lightgbm, pebble. Install them there" in doctor._machine_faults("cpu", False)[0]


@pytest.mark.slow
def test_the_users_own_python_needs_no_set_up(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setenv("PE_DEVICE", "cpu")
    monkeypatch.delenv("PE_PYTHON", raising=False)
    monkeypatch.setattr(environment, "missing_requirements", lambda venv, kind: ["Python's venv module"])
    assert "Python's venv module" in doctor.examine(Settings(), [], tmp_path / ".venv")[1]
    monkeypatch.setenv("PE_PYTHON", "python3")
    assert "Python's venv module" not in doctor.examine(Settings(), [], tmp_path / ".venv")[1]
