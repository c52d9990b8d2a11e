"""How training jobs share a machine, and what a user hears when one fails."""

import subprocess
import sys
from dataclasses import replace

import pytest

from models import schedule
from models.schedule import Slots, share_machine, train_all
from pipeline.errors import UserError
from pipeline.settings import ExamNetworkSettings, ModelsSettings, Settings


def test_without_a_gpu_every_core_trains_a_network_of_its_own(monkeypatch):
    monkeypatch.setattr(schedule, "_count_gpus", lambda: 0)
    monkeypatch.setattr(schedule, "cores", lambda: 4)
    assert share_machine(0, jobs=6) == Slots(gpus=(None,) * 4, threads=1)


def test_fewer_jobs_than_cores_get_more_threads(monkeypatch):
    monkeypatch.setattr(schedule, "_count_gpus", lambda: 0)
    monkeypatch.setattr(schedule, "cores", lambda: 16)
    assert share_machine(0, jobs=6) == Slots(gpus=(None,) * 6, threads=2)


def test_jobs_are_spread_one_a_gpu(monkeypatch):
    monkeypatch.setattr(schedule, "_count_gpus", lambda: 2)
    monkeypatch.setattr(schedule, "cores", lambda: 16)
    assert share_machine(0, jobs=10).gpus == (0, 1)
    assert share_machine(4, jobs=10).gpus == (0, 1, 0, 1)


class _NeverCurrent:
    def is_current(self, *, force):
        return False


def test_an_unknown_backbone_is_told_before_any_training(monkeypatch):
    settings = replace(Settings(), models=ModelsSettings(backbones=("mobilenet_v2",)))
    with pytest.raises(UserError, match="unknown backbone 'mobilenet_v2'; nearest: mobilenetv2"):
        train_all(settings, [], force=False)


def test_an_unknown_kind_of_exam_network_is_told_before_any_training():
    settings = replace(Settings(), models=ModelsSettings(exam=ExamNetworkSettings(kinds=("lstm",))))
    with pytest.raises(UserError, match="expected some of gru, transformer, found lstm"):
        train_all(settings, [], force=False)


def test_every_failed_job_is_named_with_its_log(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(schedule, "job_products", lambda *_: [_NeverCurrent()])
    monkeypatch.setattr(schedule, "_check_names", lambda settings: None)
    real = subprocess.Popen

    def failing(command, **options):
        return real([sys.executable, "-c", "import sys; print('no room left'); sys.exit(3)"], **options)

    monkeypatch.setattr(schedule.subprocess, "Popen", failing)
    settings = replace(Settings(), models=ModelsSettings(backbones=("mobilenetv2",)))
    with pytest.raises(UserError) as caught:
        train_all(settings, [], force=False)
    for fold in range(3):
        assert f"mobilenetv2 fold {fold} (exit 3): no room left; log:" in str(caught.value)
        assert "no room left" in (tmp_path / "logs" / f"models-mobilenetv2-fold{fold}.log").read_text()
