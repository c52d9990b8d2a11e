"""How training jobs share a machine, and what a user hears when one fails."""

import json
import math
import re
import struct
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from input.contest import SLICE_LABEL, STUDY
from models import training_jobs as schedule
from models.check_recipe import check_recipe, check_recipes
from models.history import History
from models.learning_curves import draw_curves, draw_overview
from models.progress import TrainingLog, told_duration
from models.sampling import sampling_weights
from models.slice_runs import network_artifact
from models.training_jobs import Slots, share_machine, train_all
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings import ExamNetworkSettings, ModelsSettings, Settings, load_settings


@pytest.fixture
def machine(monkeypatch):
    """A function that gives this machine cores and NVIDIA cards (None: no driver)."""

    def make(*, cores: int, cards: int | None = None):
        def listed(command, **options):
            assert command == ["nvidia-smi", "-L"]
            lines = "".join(f"GPU {card}: a card (UUID: GPU-{card})\n" for card in range(cards))
            return subprocess.CompletedProcess(command, 0 if cards else 9, lines if cards else "no devices\n")

        monkeypatch.setattr(schedule, "cores", lambda: cores)
        monkeypatch.setattr(schedule.shutil, "which", lambda name: None if cards is None else f"/usr/bin/{name}")
        monkeypatch.setattr(schedule.subprocess, "run", listed)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("PE_DEVICE", raising=False)

    return make


@pytest.mark.parametrize("cards", [None, 0])
def test_without_a_gpu_every_core_trains_a_network_of_its_own(machine, cards):
    machine(cores=4, cards=cards)
    assert share_machine(0, jobs=6) == Slots(devices=(None,) * 4, threads=1)


def test_fewer_jobs_than_cores_get_more_threads(machine):
    machine(cores=16)
    assert share_machine(0, jobs=6) == Slots(devices=(None,) * 6, threads=2)


def test_jobs_are_spread_one_a_gpu(machine):
    machine(cores=16, cards=2)
    assert share_machine(0, jobs=10) == Slots(devices=("0", "1"), threads=8)
    assert share_machine(4, jobs=10) == Slots(devices=("0", "1", "0", "1"), threads=4)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("2", ("2",)), ("3, 1", ("3", "1")), ("GPU-1,MIG-7/1", ("GPU-1", "MIG-7/1")), ("1,-1,2", ("1",)), ("9,1", (None,)),
     ("", (None,)), ("-1", (None,)), ("NoDevFiles", (None,))],
)  # fmt: skip
def test_only_the_gpus_that_the_user_left_visible_are_used(machine, monkeypatch, visible, devices):
    machine(cores=1, cards=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert share_machine(0, jobs=10).devices == devices


def test_pe_device_cpu_keeps_jobs_off_the_gpus(machine, monkeypatch):
    machine(cores=2, cards=4)
    monkeypatch.setenv("PE_DEVICE", "cpu")
    slots = share_machine(0, jobs=10)
    assert slots == Slots(devices=("", ""), threads=1)
    assert slots.variables("")["CUDA_VISIBLE_DEVICES"] == ""


def test_jobs_that_share_a_gpu_leave_memory_to_each_other_and_the_users_word_counts(monkeypatch):
    for name in ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    alone, shared = Slots(("0", "1"), 2).variables("0"), Slots(("0", "1", "0"), 2).variables("0")
    assert alone["CUDA_VISIBLE_DEVICES"] == shared["CUDA_VISIBLE_DEVICES"] == "0"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in alone and "XLA_PYTHON_CLIENT_PREALLOCATE" not in alone
    assert shared["TF_FORCE_GPU_ALLOW_GROWTH"] == "true" and shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    assert Slots(("0", "0"), 2).variables("0")["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"
    assert Slots((None,), 3).variables(None)["OMP_NUM_THREADS"] == "3"


def test_a_network_knows_its_own_weights_by_their_content_and_hides_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    for folder in (paths.prepared(), paths.store()):
        write_json(folder / "manifest.json", {"identity": "finished"})
    own = tmp_path / "secret" / "own.npz"
    own.parent.mkdir()
    own.write_bytes(b"arrays")
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",), weights=str(own)))
    first = network_artifact(settings, "mobilenetv2", 0)
    assert "secret" not in json.dumps(first.parts)
    packed = replace(settings, models=replace(settings.models, weights=settings.without_place()["models"]["weights"]))
    own.write_bytes(b"other arrays")
    assert network_artifact(settings, "mobilenetv2", 0).identity != first.identity
    own.unlink()
    assert network_artifact(packed, "mobilenetv2", 0).identity == first.identity


class _NeverCurrent:
    def is_current(self, *, force):
        return False

    def stale_reason(self):
        return "not built yet"


def test_an_unknown_backbone_is_told_before_any_training(monkeypatch):
    settings = replace(Settings(), models=ModelsSettings(backbones=("mobilenet_v2",)))
    with pytest.raises(UserError, match="unknown backbone 'mobilenet_v2'; nearest: mobilenetv2"):
        train_all(settings, [], force=False)


def test_an_unknown_kind_of_exam_network_is_told_before_any_training():
    settings = replace(Settings(), models=ModelsSettings(exam=ExamNetworkSettings(kinds=("lstm",))))
    with pytest.raises(UserError, match="expected some of gru, transformer, found lstm"):
        train_all(settings, [], force=False)


def test_weights_that_are_not_there_are_told_before_any_training(monkeypatch):
    monkeypatch.setattr(schedule, "job_artifacts", lambda *_: [_NeverCurrent()])
    models = ModelsSettings(
        backbones=("mobilenetv2", "se_resnext50"), per_backbone={"mobilenetv2": {"weights": "imagnet"}}
    )
    with pytest.raises(UserError) as caught:
        train_all(replace(Settings(), models=models), [], force=False)
    assert str(caught.value).count("mobilenetv2: models.weights = 'imagnet': no such file; expected imagenet") == 1
    assert "se_resnext50: comes without ImageNet weights" in str(caught.value)


def test_every_failed_job_is_named_with_its_log(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(schedule, "job_artifacts", lambda *_: [_NeverCurrent()])
    monkeypatch.setattr(schedule, "check_recipes", lambda models: None)
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


@pytest.mark.parametrize(
    ("name", "value"),
    [("height", 31), ("width", 0), ("pixel_mm", -1.0), ("neighbour_mm", -5.0), ("frozen_share", 1.1), ("embedding", 0),
     ("dropout", 1.0), ("seed", -1), ("epoch_slices", 0), ("learning_rate", 0.0), ("learning_rate", math.nan),
     ("learning_rate", math.inf), ("weight_decay", -1e-3), ("auxiliary_weight", -0.1), ("positive_share", 1.2),
     ("negative_exam_share", 0.6), ("negative_exam_share", -0.1), ("augmentation", -1.0), ("engine", "torch")],
)  # fmt: skip
def test_a_value_that_no_training_can_follow_is_refused(name, value):
    with pytest.raises(UserError, match=re.escape(f"models.{name} = {value!r}: expected")):
        check_recipe(ModelsSettings(**{name: value}), "mobilenetv2")


def test_shares_that_fill_one_exactly_can_be_drawn():
    for positive, negative in ((0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)):
        check_recipe(ModelsSettings(positive_share=positive, negative_exam_share=negative), "mobilenetv2")
        slices = pd.DataFrame({STUDY: ["a", "a", "b"], SLICE_LABEL: [1.0, 0.0, 0.0]})
        assert sampling_weights(slices, positive, negative) == pytest.approx([positive, 0, negative])


def test_faults_of_all_backbones_and_of_the_exam_networks_are_told_at_once():
    exam = ExamNetworkSettings(kinds=("transformer", "lstm"), backbones=("densenet121",), units=5)
    models = ModelsSettings(
        backbones=("mobilenetv2", "resnet51"), exam=exam, ema=2.0,
        per_backbone={"mobilenetv2": {"batch": 0}, "xception": {"engine": "none"}},
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        train_all(replace(Settings(), models=models), [], force=False)
    for fault in (
        "mobilenetv2: models.batch = 0", "mobilenetv2: models.ema = 2.0", "xception: models.engine = 'none'",
        "unknown backbone 'resnet51'", "found lstm", "found densenet121",
        "models.exam.units = 5: expected a multiple of 2",
    ):  # fmt: skip
        assert fault in str(caught.value)


def test_a_transformer_may_have_any_even_number_of_units():
    for units in (2, 4, 48):
        assert check_recipes(ModelsSettings(exam=ExamNetworkSettings(kinds=("transformer",), units=units))) is None
    assert check_recipes(ModelsSettings(exam=ExamNetworkSettings(kinds=("gru",), units=5))) is None


def test_the_default_recipes_can_be_trained():
    files = sorted((paths.CHECKOUT / "settings").glob("*.toml"))
    assert {file.stem for file in files} >= {"phantom", "rsna", "tests", "contest_phantom"}
    for file in files:
        check_recipes(load_settings(file).models)


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
