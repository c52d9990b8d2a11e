"""Speed of training and inference compared with plain PyTorch: same networks, batch, size, threads and loss, on CPU.

    ./run.sh bench beside_pytorch                                   both networks, all cores
    ./run.sh bench beside_pytorch --networks mobilenetv2 --threads 1 --rounds 5

Needs PyTorch in the environment (.venv/bin/pip install torch), which the pipeline itself does not need. Each side runs
in its own process, one after the other, `--rounds` times. The ratio compares the best variant of each side (float32
and bfloat16; PyTorch always in channels_last, for inference eager and frozen with folded batch normalisation) by the
median over rounds; above 1 this project is faster. Weights are random and batches constant; the loader is timed by
./run.sh bench training_loop.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from models.slice_targets import TARGETS
from pipeline.cli import run
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

NETWORKS = ("mobilenetv2", "resnet50v2")
SIDES = ("this", "pytorch")
PRECISIONS = ("float32", "bfloat16")


def _settings(arguments: argparse.Namespace) -> ModelsSettings:
    return ModelsSettings(
        height=arguments.size, width=arguments.size, batch=arguments.batch, weights="none", frozen_share=0.0
    )


def _batch(settings: ModelsSettings) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.random((settings.batch, settings.height, settings.width, 3), dtype=np.float32)
    return images, random.integers(0, 2, (settings.batch, 2 * len(TARGETS))).astype(np.float32)


def _speed(step: Callable[[], object], settings: ModelsSettings, seconds: float) -> float:
    """Images per second of a step, after two warm-up steps."""
    for _ in range(2):
        step()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        step()
        count += 1
    return count * settings.batch / (time.perf_counter() - start)


def measure_this(network: str, settings: ModelsSettings, threads: int, seconds: float) -> dict[str, float]:
    """Measure this project's variants.

    Args:
        network: name of the backbone.
        settings: size, batch and recipe.
        threads: CPU threads.
        seconds: duration of each measurement.

    Returns:
        "train <variant>" and "infer <variant>" -> images per second, and "weights" -> number of trained weights.
    """
    from models.device import prepare_backend

    prepare_backend(settings, threads)

    from models.optimizer import build_optimizer
    from models.prediction_engine import GRAPH, export_graph, openvino_engine
    from models.slice_network import slice_network, weighted_logistic_loss

    images, truth = _batch(settings)
    speeds: dict[str, float] = {}
    for precision in PRECISIONS:
        own = dataclasses.replace(settings, precision="mixed_bfloat16" if precision == "bfloat16" else precision)
        model = slice_network(own, network, "none")
        model.compile(build_optimizer(model, own), {"logits": weighted_logistic_loss}, jit_compile=False)
        speeds[f"train {precision}"] = _speed(
            lambda model=model: model.train_on_batch(images, {"logits": truth}), settings, seconds
        )
    model = slice_network(dataclasses.replace(settings, precision="float32"), network, "none")
    speeds["weights"] = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        export_graph(model, Path(folder))
        engine = openvino_engine(Path(folder), threads)
        speeds["infer OpenVINO float32"] = _speed(lambda: engine(images), settings, seconds)
        speeds["infer OpenVINO bfloat16"] = _speed(
            _openvino_bfloat16(Path(folder) / GRAPH, threads, images), settings, seconds
        )
    return speeds


def _openvino_bfloat16(graph: Path, threads: int, images: np.ndarray) -> Callable[[], object]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    request = openvino.Core().compile_model(str(graph), "CPU", options).create_infer_request()
    return lambda: request.infer([images])


def measure_pytorch(network: str, settings: ModelsSettings, threads: int, seconds: float) -> dict[str, float]:
    """Measure PyTorch's variants; arguments and result as in `measure_this`."""
    import torch

    from benchmarks.torch_networks import SliceNetwork, weighted_logistic_loss

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    images, target = _batch(settings)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels_last in memory
    truth, weight = torch.from_numpy(target).chunk(2, dim=1)

    def build() -> SliceNetwork:
        model = SliceNetwork(network, settings.embedding, settings.dropout)
        return model.to(memory_format=torch.channels_last)

    def training_step(precision: str) -> Callable[[], float]:
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=settings.weight_decay, fused=True)
        half = precision == "bfloat16"

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                logits, *_ = model(pictures)
            loss = weighted_logistic_loss(logits.float(), truth, weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            return loss.item()

        return step

    speeds: dict[str, float] = {"weights": sum(parameter.numel() for parameter in build().parameters())}
    for precision in PRECISIONS:
        speeds[f"train {precision}"] = _speed(training_step(precision), settings, seconds)
    with torch.inference_mode():
        for precision in PRECISIONS:
            kind = getattr(torch, precision)
            model, inputs = build().eval().to(kind), pictures.to(kind)
            speeds[f"infer eager {precision}"] = _speed(lambda m=model, x=inputs: m(x), settings, seconds)
            frozen = torch.jit.freeze(torch.jit.trace(model, inputs))
            if precision == "float32":
                frozen = torch.jit.optimize_for_inference(frozen)
            speeds[f"infer frozen {precision}"] = _speed(lambda m=frozen, x=inputs: m(x), settings, seconds)
    return speeds


def _measure_in_process(side: str, network: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, "-m", "benchmarks.beside_pytorch", "--side", side, "--networks", network,
        "--threads", str(arguments.threads), "--batch", str(arguments.batch), "--size", str(arguments.size),
        "--seconds", str(arguments.seconds),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"Measurement failed: {network}, side {side!r}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(network: str, arguments: argparse.Namespace) -> None:
    """Measure both sides of one network in turns; print every variant and the ratio of the best ones."""
    rounds = [{side: _measure_in_process(side, network, arguments) for side in SIDES} for _ in range(arguments.rounds)]
    speeds = {
        side: {name: statistics.median(round_[side][name] for round_ in rounds) for name in rounds[0][side]}
        for side in SIDES
    }
    weights = {side: int(speeds[side].pop("weights")) for side in SIDES}
    if len(set(weights.values())) > 1:
        raise UserError(f"The networks differ: {network}. Expected equal numbers of weights, got {weights}.")
    say(f"{network}: {weights['this']:,} trained weights on each side")
    for work in ("train", "infer"):
        best = {}
        for side in SIDES:
            variants = {name: speed for name, speed in speeds[side].items() if name.startswith(work)}
            best[side] = max(variants, key=lambda name: variants[name])
            line = ", ".join(f"{name.removeprefix(work + ' ')} {speed:.0f}" for name, speed in variants.items())
            say(f"  {work} {side:<8} images/s: {line}")
        ratio = speeds["this"][best["this"]] / speeds["pytorch"][best["pytorch"]]
        say(f"  {work}: {ratio:.2f} of PyTorch's speed ({best['this']} against {best['pytorch']})")


def main() -> None:
    """Parse the command line and compare every network."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench beside_pytorch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to compare (all)"
    )
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of each side (%(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32, help="images per step (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="pixels per side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each measurement (%(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        work = {"this": measure_this, "pytorch": measure_pytorch}[arguments.side]
        speeds = work(arguments.networks[0], _settings(arguments), arguments.threads, arguments.seconds)
        print(json.dumps(speeds))
        return
    for network in arguments.networks:
        compare(network, arguments)


if __name__ == "__main__":
    run(main)
