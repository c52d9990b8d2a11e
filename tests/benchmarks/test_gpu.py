"""The benchmark of GPUs, on the CPU: what it counts, what it prints, and a short run on every installed backend."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_networks
from benchmarks.gpu_networks import Work, matrix_product_flops, multiply_accumulates, seconds_per_step
from benchmarks.gpu_tables import report_text
from models.estimate import GMACS
from pipeline import paths
from pipeline.errors import UserError
from tests.support.eager_steps import run_eagerly

QUICK = ("--sizes", "64", "--batch", "2", "--steps", "2", "--eager", "--no-contest")
SHORT = ("--backbones", "mobilenetv2", *QUICK)


def run_benchmark(root: Path, *options: str, backend: str = "tensorflow") -> subprocess.CompletedProcess:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **hidden, "KERAS_BACKEND": backend, "PYTHONPATH": str(paths.CHECKOUT)}
    command = [sys.executable, "-m", "benchmarks.gpu", "--root", str(root), *options]
    return subprocess.run(
        command, env=environment, cwd=paths.CHECKOUT, capture_output=True, text=True, check=False
    )  # fmt: skip


def network_of(root: Path, backend: str, backbone: str, printed: str) -> dict:
    """The results of the only network of a short run, after checks of what the run wrote and printed."""
    results = json.loads((root / f"gpu-{backend}.json").read_text())
    assert results["not_measured"] == {} and results["contest"] == {}
    assert results["device"]["backend"] == backend and results["device"]["kind"] == "cpu"
    assert results["device"]["peak_flops"] > 1e9
    (network,) = results["networks"]
    assert (network["backbone"], network["size"], network["batch"]) == (backbone, 64, 2)
    assert min(network[name] for name in ("train", "infer", "loop", "flops")) > 0
    assert network["memory"] is None
    assert (root / f"gpu-{backend}.txt").read_text().strip() in printed
    return network


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_short_run_measures_a_network_on_other_backends(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = run_benchmark(tmp_path, *SHORT, backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    network = network_of(tmp_path, backend, "mobilenetv2", done.stdout)
    if importlib.util.find_spec("torch"):
        assert network["pytorch"]["weights"] == network["weights"] and network["pytorch"]["variant"] == "eager"


@pytest.mark.slow
def test_a_short_run_measures_a_small_network_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    from models.backbones import BACKBONES, Backbone

    def call(function: object, *arguments: object, timeout_s: float) -> object:
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        return function(*arguments)

    run_eagerly(monkeypatch)
    graph = lambda images: keras.layers.Conv2D(8, 5, 4)(images)  # noqa: E731
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    monkeypatch.setattr(gpu, "run_isolated", call)
    # The real function may run only once per process, before the first operation.
    monkeypatch.setattr(gpu_networks, "prepare_backend", lambda settings, threads: None)
    monkeypatch.setattr(sys, "argv", ["gpu", "--root", str(tmp_path), "--backbones", "tiny", *QUICK])
    assert gpu.main() == 0
    network_of(tmp_path, keras.backend.backend(), "tiny", capsys.readouterr().out)


@pytest.mark.slow
def test_without_time_left_all_parts_are_listed_and_the_results_are_written(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, *SHORT, "--minutes", "0")
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "gpu-tensorflow.json").read_text())
    assert results["networks"] == [] and list(results["not_measured"].values()) == ["not started: no time left"]
    assert "Not measured:\n  peak of matrix products: not started" in (tmp_path / "gpu-tensorflow.txt").read_text()


def test_the_command_line_names_all_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "unknown")
    faulty = ("--batch", "0", "--sizes", "16", "--experiment", "missing")
    monkeypatch.setattr(sys, "argv", ["gpu", "--root", str(tmp_path), *faulty])
    with pytest.raises(UserError) as fault:
        gpu.parse()
    for text in ("--batch: expected 1 or more", "--sizes: expected 32", "KERAS_BACKEND: unknown", "--experiment: no"):
        assert text in str(fault.value)


def test_the_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["gpu", "--help"])
    with pytest.raises(SystemExit):
        gpu.parse()
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 110
    assert "KERAS_BACKEND" in shown and "--contest-minutes" in shown


def test_multiplications_of_every_kind_of_layer_are_counted() -> None:
    from keras import Input, Model, layers

    from models.se_resnext import GroupedConvolution

    images = Input((8, 8, 4))
    inner = Model(images, layers.Conv2D(6, 3, 2, "same")(images))
    tensor = layers.DepthwiseConv2D(3, padding="same")(inner(images))
    tensor = layers.SeparableConv2D(8, 3, padding="same")(tensor)
    tensor = GroupedConvolution(8, 3, 1, 4)(layers.BatchNormalization()(tensor))
    outputs = layers.Dense(5)(layers.Dense(3)(tensor))
    convolution, depthwise, separable = 16 * 3 * 3 * 4 * 6, 16 * 3 * 3 * 6, 16 * (3 * 3 * 6 + 6 * 8)
    grouped, dense = 4 * 3 * 3 * 2 * 8, 4 * (8 * 3 + 3 * 5)
    assert multiply_accumulates(Model(images, outputs)) == convolution + depthwise + separable + grouped + dense


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenetv2", "efficientnet_lite0", "resnet50v2"])
def test_the_counts_of_backbones_are_the_published_ones(backbone: str) -> None:
    from models.backbones import backbone_model

    count = multiply_accumulates(backbone_model(backbone, (224, 224), 3, "none"))
    assert count / 1e9 == pytest.approx(GMACS[backbone], rel=0.05)


def test_the_speed_of_products_is_plausible() -> None:
    assert 1e8 < matrix_product_flops(64, "float32") < 1e14


def test_a_measurement_ends_after_its_steps_or_its_time() -> None:
    calls: list[int] = []
    seconds_per_step(lambda: calls.append(1), 5, 60.0)
    assert len(calls) == 2 + 5
    calls.clear()
    seconds_per_step(lambda: calls.append(1), 1000, 0.0)
    assert len(calls) == 2 + 2


def test_epochs_have_the_wanted_number_of_batches() -> None:
    from models.optimizer import batches_per_epoch

    work = Work("mobilenetv2", 64, 12, "float32", 7, 1.0)
    assert batches_per_epoch(work.settings(7)) == 7


def test_the_report_states_shares_of_the_peak_and_ratios() -> None:
    pytorch = {"weights": 1, "train": 500.0, "infer": 4000.0, "variant": "compiled", "seconds": 9.0}
    network = {
        "backbone": "mobilenetv2", "size": 256, "batch": 64, "precision": "mixed_bfloat16", "weights": 1,
        "flops": 1e9, "train": 1000.0, "infer": 2000.0, "loop": 1.25, "loop_steps": 60, "memory": 5_300_000_000,
        "pytorch": pytorch,
    }  # fmt: skip
    text = report_text(
        {
            "when": "2026-01-01", "commit": "", "backend": "jax", "driver": "570.1",
            "hardware": {"processor": "CPU", "cores": 16, "memory_gb": 128.0, "graphics": ["NVIDIA H200"]},
            "versions": {"python": "3.12", "jax": "0.10"},
            "device": {"device": "NVIDIA H200", "kind": "gpu", "precision": "mixed_bfloat16", "peak_flops": 1e13,
                       "warning": ""},
            "networks": [network], "not_measured": {"contest": "not started: no time left"},
            "contest": {
                "seconds": 90.0, "candidates": {"network": "mobilenetv2", "promoted": "mean", "priors": "prior"},
                "scores": {
                    "network": {"cv": 0.5, "test": 0.4}, "promoted": {"cv": 0.3, "test": 0.2},
                    "priors": {"cv": 0.6, "test": 0.7},
                },
            },
        }
    )  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("mobilenetv2"))
    expected = ["mobilenetv2", "256", "1.00", "1,000", "30.0", "%", "2,000", "20.0", "%", "1.250", "20.0", "%", "5.3"]
    assert row.split() == expected
    (contest,) = (line for line in text.splitlines() if line.startswith("mean "))
    assert contest.split()[-2:] == ["0.300", "0.200"]
    ratios = [line.split()[-1] for line in text.splitlines() if " compiled " in line]
    assert ratios == ["2.00", "0.50"]
    for part in ("NVIDIA H200 (gpu), 10.00 TFLOP/s", "contest: not started", "jax 0.10"):
        assert part in text
