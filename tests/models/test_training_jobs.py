"""Training jobs: how they share a machine, their progress messages, recipe checks and errors."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from input.contest import SLICE_LABEL, STUDY
from models import __main__ as command_line
from models import device, job_process, training_jobs
from models.check_recipe import check_recipe, check_recipes
from models.history import History
from models.job_process import JobEnd
from models.learning_curves import draw_curves, draw_overview
from models.network_artifacts import job_artifacts, network_artifact
from models.progress import TrainingLog
from models.progress_messages import (
    DoneMessage,
    EpochMessage,
    ExamEpochMessage,
    StepMessage,
    format_duration,
    parse_message,
    print_json,
)
from models.sampling import sampling_weights
from models.training_jobs import Job, Slots, WaitingJobs, share_machine, train_all
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.load_settings import load_settings
from pipeline.settings import ExamNetworkSettings, ModelsSettings, Settings


@pytest.fixture
def machine(monkeypatch):
    """A function that simulates a number of cores and GPUs (None: no NVIDIA driver)."""

    def make(*, cores: int, gpus: int | None = None):
        def nvidia_smi(option):
            assert option == "-L"
            return None if gpus is None else "\n".join(f"GPU {gpu}: a card (UUID: GPU-{gpu})" for gpu in range(gpus))

        monkeypatch.setattr(training_jobs, "cores", lambda: cores)
        monkeypatch.setattr(device, "nvidia_smi", nvidia_smi)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("PE_DEVICE", raising=False)

    return make


@pytest.mark.parametrize("gpus", [None, 0])
def test_without_a_gpu_one_job_runs_per_core(machine, gpus):
    machine(cores=4, gpus=gpus)
    assert share_machine(0, jobs=6) == Slots(devices=(None,) * 4, threads=1)


def test_fewer_jobs_than_cores_get_more_threads(machine):
    machine(cores=16)
    assert share_machine(0, jobs=6) == Slots(devices=(None,) * 6, threads=2)


def test_one_job_runs_per_gpu(machine):
    machine(cores=16, gpus=2)
    assert share_machine(0, jobs=10) == Slots(devices=("0", "1"), threads=8)
    assert share_machine(4, jobs=10) == Slots(devices=("0", "1", "0", "1"), threads=4)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("2", ("2",)), ("3, 1", ("3", "1")), ("GPU-1,MIG-7/1", ("GPU-1", "MIG-7/1")), ("1,-1,2", ("1",)), ("9,1", (None,)),
     ("", (None,)), ("-1", (None,)), ("NoDevFiles", (None,))],
)  # fmt: skip
def test_only_visible_gpus_are_used(machine, monkeypatch, visible, devices):
    machine(cores=1, gpus=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert share_machine(0, jobs=10).devices == devices


def test_pe_device_cpu_keeps_jobs_off_the_gpus(machine, monkeypatch):
    machine(cores=2, gpus=4)
    monkeypatch.setenv("PE_DEVICE", "cpu")
    slots = share_machine(0, jobs=10)
    assert slots == Slots(devices=("", ""), threads=1)
    assert slots.variables("")["CUDA_VISIBLE_DEVICES"] == ""


def test_jobs_that_share_a_gpu_limit_its_memory_unless_the_user_decides(monkeypatch):
    for name in ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    alone, shared = Slots(("0", "1"), 2).variables("0"), Slots(("0", "1", "0"), 2).variables("0")
    assert alone["CUDA_VISIBLE_DEVICES"] == shared["CUDA_VISIBLE_DEVICES"] == "0"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in alone and "XLA_PYTHON_CLIENT_PREALLOCATE" not in alone
    assert shared["TF_FORCE_GPU_ALLOW_GROWTH"] == "true" and shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    assert Slots(("0", "0"), 2).variables("0")["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"
    assert Slots((None,), 3).variables(None)["OMP_NUM_THREADS"] == "3"


def test_artifacts_identify_initial_weights_by_content_and_do_not_record_their_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    for folder in (paths.prepared(), paths.store(), paths.masks()):
        write_json(folder / "manifest.json", {"identity": "finished"})
    file = tmp_path / "secret" / "own.npz"
    file.parent.mkdir()
    file.write_bytes(b"arrays")
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",), weights=str(file)))
    first = network_artifact(settings, "mobilenetv2", 0)
    assert "secret" not in json.dumps(first.parts)
    packed = replace(settings, models=replace(settings.models, weights=settings.without_paths()["models"]["weights"]))
    file.write_bytes(b"other arrays")
    assert network_artifact(settings, "mobilenetv2", 0).identity != first.identity
    file.unlink()
    assert network_artifact(packed, "mobilenetv2", 0).identity == first.identity


def test_one_more_backbone_leaves_the_other_networks_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    for folder in (paths.prepared(), paths.store(), paths.masks()):
        write_json(folder / "manifest.json", {"identity": "finished"})
    exam = ExamNetworkSettings(kinds=("gru",))

    def folders(*backbones):
        settings = Settings(models=ModelsSettings(backbones=backbones, exam=exam))
        jobs = [(backbone, fold) for backbone in backbones for fold in range(settings.input.folds)]
        return {artifact.directory for job in jobs for artifact in job_artifacts(settings, *job)}

    one, two = folders("mobilenetv2"), folders("efficientnet_lite0", "mobilenetv2")
    assert len(one) == 6 and one < two
    assert {folder.name.split("-")[0] for folder in two - one} == {"efficientnet_lite0", "efficientnet_lite0_gru"}


class _NeverCurrent:
    def is_current(self, *, force):
        return False

    def build_reason(self):
        return "not built yet"


ONE_BACKBONE = replace(Settings(), models=ModelsSettings(backbones=("mobilenetv2",)))


def run_jobs_as(monkeypatch, root, code):
    """Let every training job run this Python code instead, with logs under `root`."""
    popen = subprocess.Popen
    monkeypatch.setenv("PE_ROOT", str(root))
    monkeypatch.setattr(training_jobs, "job_artifacts", lambda *_: [_NeverCurrent()])
    monkeypatch.setattr(training_jobs, "check_recipes", lambda models: None)
    monkeypatch.setattr(
        job_process.subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", code], **options)
    )


def test_an_unknown_backbone_is_an_error_before_any_training():
    settings = replace(Settings(), models=ModelsSettings(backbones=("mobilenet_v2",)))
    with pytest.raises(UserError, match="unknown backbone 'mobilenet_v2'. Nearest: mobilenetv2"):
        train_all(settings, [], force=False)


def test_an_unknown_kind_of_exam_network_is_an_error_before_any_training():
    settings = replace(Settings(), models=ModelsSettings(exam=ExamNetworkSettings(kinds=("lstm",))))
    with pytest.raises(UserError, match="Expected some of gru, transformer, got lstm"):
        train_all(settings, [], force=False)


def test_missing_weights_are_an_error_before_any_training(monkeypatch):
    monkeypatch.setattr(training_jobs, "job_artifacts", lambda *_: [_NeverCurrent()])
    models = ModelsSettings(
        backbones=("mobilenetv2", "se_resnext50"), per_backbone={"mobilenetv2": {"weights": "imagnet"}}
    )
    with pytest.raises(UserError) as caught:
        train_all(replace(Settings(), models=models), [], force=False)
    message = str(caught.value)
    assert message.count("mobilenetv2: models.weights: file not found.") == message.count("got 'imagnet'") == 1
    assert "se_resnext50: no ImageNet weights available" in message


def test_the_error_lists_every_failed_job_with_its_log(monkeypatch, tmp_path):
    run_jobs_as(monkeypatch, tmp_path, "import sys; print('no room left'); sys.exit(3)")
    with pytest.raises(UserError) as caught:
        train_all(ONE_BACKBONE, [], force=False)
    for fold in range(3):
        assert f"mobilenetv2 fold {fold} (exit 3): no room left; log:" in str(caught.value)
        assert "no room left" in (tmp_path / "logs" / f"models-mobilenetv2-fold{fold}.log").read_text()


def test_a_process_runs_the_folds_of_its_backbone_and_another_replaces_it_after_a_failure(monkeypatch, tmp_path):
    code = """
import os, sys
for job in sys.stdin:
    if job.startswith("b 1"): sys.exit("no room left")
    print('{"event": "done", "summary": "%s"}' % os.getpid(), flush=True)
"""
    run_jobs_as(monkeypatch, tmp_path, code)
    results = {}
    with job_process.JobProcess([], dict(os.environ)) as process:
        for job in ("a 0", "a 1", "b 0", "b 1", "b 2"):
            results[job] = process.run(job, tmp_path / "log", lambda message: None)
    assert results["a 0"] == results["a 1"] == results["b 0"] != results["b 2"]
    assert results["b 1"] == JobEnd(None, "(exit 1): no room left")


def test_a_fault_that_is_not_a_job_s_own_ends_the_training(monkeypatch, tmp_path, machine):
    run_jobs_as(monkeypatch, tmp_path, "")
    machine(cores=1)
    started = []

    def run(job, process, progress):
        started.append(job)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_jobs, "_run", run)
    with pytest.raises(OSError, match="No space left"):
        train_all(ONE_BACKBONE, [], force=False)
    assert len(started) == 1


def test_every_process_keeps_its_backbone_while_jobs_are_left():
    jobs = [Job(backbone, fold) for backbone in ("a", "b", "c") for fold in range(2)]
    waiting, last = WaitingJobs(jobs), {}
    taken = []
    for process in (0, 1, 0, 1, 0, 1, 0):
        last[process] = waiting.take(last.get(process))
        taken.append(last[process])
    assert taken[:4] == [Job("a", 0), Job("b", 0), Job("a", 1), Job("b", 1)]
    assert taken[4:] == [Job("c", 0), Job("c", 1), None]


def test_all_invalid_settings_of_a_recipe_are_reported():
    recipe = ModelsSettings(ema=1.0, accumulate=0, unfreeze_epoch=9, inner_share=0.9, cutout=2.0, sampling="even")
    with pytest.raises(UserError) as caught:
        check_recipe(recipe, "mobilenetv2")
    lines = str(caught.value).splitlines()[1:]
    values = {"ema": "1.0", "accumulate": "0", "unfreeze_epoch": "9", "inner_share": "0.9", "cutout": "2.0",
              "sampling": "'even'"}  # fmt: skip
    assert len(lines) == len(values)
    for name, value in values.items():
        assert any(f"invalid models.{name}. Expected" in line and f"got {value}." in line for line in lines), name


@pytest.mark.parametrize(
    ("name", "value"),
    [("height", 31), ("width", 0), ("pixel_mm", -1.0), ("artery_hu", -1.0), ("neighbour_mm", -5.0),
     ("frozen_share", 1.1), ("embedding", 0),
     ("dropout", 1.0), ("seed", -1), ("epoch_slices", 0), ("learning_rate", 0.0), ("learning_rate", math.nan),
     ("learning_rate", math.inf), ("weight_decay", -1e-3), ("auxiliary_weight", -0.1), ("positive_share", 1.2),
     ("negative_exam_share", 0.6), ("negative_exam_share", -0.1), ("augmentation", -1.0), ("engine", "torch"),
     ("used_share", 0.0), ("used_share", 1.2)],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error(name, value):
    with pytest.raises(UserError, match=rf"models.{name}. Expected .* got {re.escape(repr(value))}"):
        check_recipe(ModelsSettings(**{name: value}), "mobilenetv2")


def test_shares_with_a_sum_of_one_are_valid():
    for positive, negative in ((0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)):
        check_recipe(ModelsSettings(positive_share=positive, negative_exam_share=negative), "mobilenetv2")
        slices = pd.DataFrame({STUDY: ["a", "a", "b"], SLICE_LABEL: [1.0, 0.0, 0.0]})
        assert sampling_weights(slices, positive, negative) == pytest.approx([positive, 0, negative])


def test_faults_of_all_backbones_and_exam_networks_are_reported_at_once():
    exam = ExamNetworkSettings(kinds=("transformer", "lstm"), backbones=("densenet121",), units=5)
    models = ModelsSettings(
        backbones=("mobilenetv2", "resnet51"), exam=exam, ema=2.0,
        per_backbone={"mobilenetv2": {"batch": 0}, "xception": {"engine": "none"}},
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        train_all(replace(Settings(), models=models), [], force=False)
    for fault in (
        "mobilenetv2: invalid models.batch.", "mobilenetv2: invalid models.ema.", "xception: invalid models.engine.",
        "unknown backbone 'resnet51'", "got lstm", "got densenet121",
        "invalid models.exam.units. Expected a multiple of 2, got 5",
    ):  # fmt: skip
        assert fault in str(caught.value)


def test_a_transformer_accepts_any_even_number_of_units():
    for units in (2, 4, 48):
        assert check_recipes(ModelsSettings(exam=ExamNetworkSettings(kinds=("transformer",), units=units))) is None
    assert check_recipes(ModelsSettings(exam=ExamNetworkSettings(kinds=("gru",), units=5))) is None


def test_the_recipes_of_all_settings_files_are_valid():
    files = sorted((paths.CHECKOUT / "settings").glob("*.toml"))
    assert {file.stem for file in files} >= {"phantom", "rsna", "tests", "contest_phantom"}
    for file in files:
        check_recipes(load_settings(file).models)


def test_exhausted_memory_names_the_settings_that_save_it(monkeypatch):
    class ResourceExhaustedError(Exception):
        pass

    def exhaust(*_, **__):
        raise ResourceExhaustedError("OOM when allocating tensor")

    monkeypatch.setattr("models.slice_runs.train_fold", exhaust)
    words = ["fold", "--backbone", "mobilenetv2", "--fold", "0", "--set", "models.batch=24"]
    with pytest.raises(UserError, match=r"--set models\.batch=12 --set models\.accumulate=2$"):
        command_line._jobs(command_line.parser().parse_args(words))


def test_a_listed_gpu_that_the_backend_does_not_use_has_a_reason(monkeypatch):
    monkeypatch.setattr(device, "visible_gpus", lambda: ("0",))
    monkeypatch.setattr(device, "gpu_capability", lambda: None)
    reason = device.unused_gpu_reason()
    assert "does not use the listed GPU (1 visible)" in reason and "\n" not in reason
    monkeypatch.setattr(device, "gpu_capability", lambda: (8, 0))
    assert device.unused_gpu_reason() == ""


def test_an_epoch_message_has_losses_speed_and_the_time_left(monkeypatch):
    clock = iter([0.0, 40.0, 40.0])
    monkeypatch.setattr("models.progress.time.monotonic", lambda: next(clock))
    messages = []
    with TrainingLog(4, report=messages.append) as log:
        log.begin(0, 2)
        log._slices = 80
        log.epoch(History(losses=[0.5], rates=[1e-3], inner_losses=[0.625]))
    assert messages == [
        EpochMessage(1, 4, 0.5, inner_loss=0.625, learning_rate=1e-3, slices_per_second=2.0, seconds_left=120.0)
    ]
    assert str(messages[0]) == (
        "epoch 1/4: loss 0.5000, inner loss 0.6250, learning rate 0.001, 2 slices/s, 2 min left"
    )


MESSAGES = (
    StepMessage(1, 40, 175, loss=0.61, seconds_left=310.0),
    EpochMessage(1, 5, 0.52, inner_loss=None, learning_rate=1e-3, slices_per_second=82.0, seconds_left=240.0),
    ExamEpochMessage("gru", 5, 30, loss=0.31),
    DoneMessage("loss 0.3120"),
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_progress_message_survives_its_json_line(message, capsys):
    print_json(message)
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert json.loads(line).keys() == {"event", *vars(message)}
    assert parse_message(line) == message


@pytest.mark.parametrize(
    "line",
    ["epoch 1/4", "", "{", "{}", "{0}", '{"event": "pause"}', '{"event": ["step"]}', '{"event": "done"}',
     '{"event": "done", "summary": "", "loss": 1}', '["event"]', "null"],
)  # fmt: skip
def test_other_output_of_a_job_is_not_a_progress_message(line):
    assert parse_message(line) is None


def test_a_job_s_log_has_its_messages_as_text_and_its_other_output_unchanged(monkeypatch, tmp_path, capsys):
    output = ["a warning\n", '{"event": "exam_epoch", "kind": "gru", "epoch": 5, "epochs": 30, "loss": 0.31}\n',
              "{not JSON\n", '{"event": "done", "summary": "loss 0.3120"}\n']  # fmt: skip
    run_jobs_as(
        monkeypatch, tmp_path, f"import sys\nfor job in sys.stdin: print({''.join(output)!r}, end='', flush=True)"
    )
    train_all(ONE_BACKBONE, [], force=False)
    log = (tmp_path / "logs" / "models-mobilenetv2-fold0.log").read_text()
    assert log == "a warning\ngru epoch 5/30: loss 0.3100\n{not JSON\ndone: loss 0.3120\n"
    assert "models/mobilenetv2/fold0: loss 0.3120, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "60 s"), (240, "4 min"), (3600, "1.0 h"), (90_000, "25.0 h"), (250_000, "2.9 days")]
)
def test_durations_have_a_suitable_unit(seconds, text):
    assert format_duration(seconds) == text


def test_a_resumed_training_appends_to_its_event_files_and_a_new_one_removes_them(tmp_path, monkeypatch):
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
    """Return (tag, step, value) of all events of a folder, by step; checksums of the records are not verified."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = []
    for file in folder.iterdir():
        data, offset = file.read_bytes(), 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            event = Event.FromString(data[offset + 12 : offset + 12 + length])
            scalars += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            offset += 12 + length + 4
    return sorted(scalars, key=lambda scalar: scalar[1])


def test_plots_of_learning_curves_are_deterministic(tmp_path):
    table = History(losses=[0.9, 0.7], rates=[1e-3, 1e-4], inner_losses=[0.8, 0.85]).table()
    draw_curves(tmp_path / "one.png", table, "tiny/fold0")
    draw_curves(tmp_path / "two.png", table, "tiny/fold0")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    draw_curves(tmp_path / "other.png", table.assign(loss=[0.9, 0.6]), "tiny/fold0")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_the_overview_has_one_panel_per_network(tmp_path):
    table = History(losses=[0.9, 0.7], rates=[1e-3, 1e-4]).table()
    draw_overview(tmp_path / "two.png", {"a/fold0": table, "a/fold1": table, "b/fold0": table})
    draw_overview(tmp_path / "five.png", {f"{name}/fold0": table for name in "abcde"})
    for name, size in (("two.png", (880, 330)), ("five.png", (1760, 660))):
        with Image.open(tmp_path / name) as image:
            assert image.size == size
