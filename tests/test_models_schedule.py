"""How training jobs share a machine, and what a user hears when one fails."""

import json
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from models import schedule
from models.curves import draw_curves, draw_overview
from models.history import History
from models.progress import TrainingLog, told_duration
from models.recipe import check_recipe
from models.runs import run_product
from models.schedule import Slots, share_machine, train_all
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings import ExamNetworkSettings, ModelsSettings, Settings, load_settings


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


def test_a_network_knows_its_own_weights_by_their_content_and_hides_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    for folder in (paths.prepared(), paths.store()):
        write_json(folder / "manifest.json", {"identity": "finished"})
    own = tmp_path / "secret" / "own.npz"
    own.parent.mkdir()
    own.write_bytes(b"arrays")
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",), weights=str(own)))
    first = run_product(settings, "mobilenetv2", 0)
    assert "secret" not in json.dumps(first.parts)
    packed = replace(settings, models=replace(settings.models, weights=settings.without_place()["models"]["weights"]))
    own.write_bytes(b"other arrays")
    assert run_product(settings, "mobilenetv2", 0).identity != first.identity
    own.unlink()
    assert run_product(packed, "mobilenetv2", 0).identity == first.identity


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


def test_a_recipe_that_cannot_be_trained_is_told_with_all_its_faults():
    recipe = ModelsSettings(ema=1.0, accumulate=0, unfreeze_epoch=9, inner_share=0.9, cutout=2.0, sampling="even")
    with pytest.raises(UserError) as caught:
        check_recipe(recipe, "mobilenetv2")
    told = str(caught.value)
    for name in ("ema = 1.0", "accumulate = 0", "unfreeze_epoch = 9", "inner_share = 0.9", "cutout = 2.0"):
        assert f"models.{name}: expected" in told
    assert "models.sampling = 'even': expected one of shares, uniform" in told


def test_the_default_recipes_can_be_trained():
    for file in ("phantom", "rsna", "tests"):
        settings = load_settings(f"settings/{file}.toml").models
        for backbone in settings.backbones:
            assert check_recipe(settings.of(backbone), backbone) is None, file


def test_a_line_an_epoch_tells_losses_speed_and_what_is_left(capsys, monkeypatch):
    clock = iter([0.0, 40.0, 40.0])
    monkeypatch.setattr("models.progress.time.monotonic", lambda: next(clock))
    with TrainingLog(4) as log:
        log.begin(0, 2)
        log._slices = 80
        log.epoch(History(losses=[0.5], rates=[1e-3], inner_losses=[0.625]))
    assert capsys.readouterr().out == "epoch 1/4 loss 0.5000 inner 0.6250 rate 0.001 2 slices/s, 2 min left\n"


@pytest.mark.parametrize(
    ("seconds", "told"), [(59.6, "60 s"), (240, "4 min"), (3600, "1.0 h"), (90_000, "25.0 h"), (250_000, "2.9 days")]
)
def test_durations_are_told_in_the_fitting_unit(seconds, told):
    assert told_duration(seconds) == told


def test_a_resumed_training_goes_on_in_its_event_files_and_a_new_one_clears_them(tmp_path, monkeypatch):
    folder = tmp_path / "events"

    def train(done, losses):
        with TrainingLog(3, folder) as log:
            log.begin(done, 1)
            for count in range(done + 1, len(losses) + 1):
                log.step(count - 1, 0, losses[count - 1], 4)
                log.epoch(History(losses=losses[:count], rates=[0.1] * count))

    train(0, [0.9, 0.8])
    train(2, [0.9, 0.8, 0.7])
    scalars = _scalars(folder)
    assert [step for tag, step, _ in scalars if tag == "epoch/loss"] == [1, 2, 3]
    assert [value for tag, _, value in scalars if tag == "batch/loss"] == pytest.approx([0.9, 0.8, 0.7])
    train(0, [0.6])
    assert [value for tag, _, value in _scalars(folder) if tag == "epoch/loss"] == pytest.approx([0.6])


def _scalars(folder):
    """(tag, step, value) of all events of a folder, by step; the records' checksums are not looked at."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in folder.iterdir():
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += 12 + length + 4
    return sorted(found, key=lambda each: each[1])


def test_learning_curves_are_the_same_picture_every_time(tmp_path):
    table = History(losses=[0.9, 0.7], rates=[1e-3, 1e-4], inner_losses=[0.8, 0.85]).table()
    draw_curves(tmp_path / "one.png", table, "tiny/fold0")
    draw_curves(tmp_path / "two.png", table, "tiny/fold0")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    draw_curves(tmp_path / "other.png", table.assign(loss=[0.9, 0.6]), "tiny/fold0")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_the_overview_has_a_panel_a_network(tmp_path):
    table = History(losses=[0.9, 0.7], rates=[1e-3, 1e-4]).table()
    draw_overview(tmp_path / "two.png", {"a/fold0": table, "a/fold1": table, "b/fold0": table})
    draw_overview(tmp_path / "five.png", {f"{name}/fold0": table for name in "abcde"})
    for name, size in (("two.png", (880, 330)), ("five.png", (1760, 660))):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size
