"""Training and inference beside plain PyTorch: the same networks, batch, size, threads and loss, on this CPU.

    python -m benchmarks.beside_pytorch                                   # both networks, all cores
    python -m benchmarks.beside_pytorch --networks mobilenetv2 --threads 1 --rounds 5

Needs PyTorch (`pip install torch`), which the pipeline itself does not. Each side runs in a process of its own, one
after the other, `--rounds` times; a row shows the best of a side's variants (float32 and bfloat16; PyTorch always in
channels_last, for inference eager and frozen with folded batch normalisation), by the median over rounds. A ratio
above 1 means that this project is faster. Weights are random, batches constant: the loader is timed by
benchmarks.training_loop.
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
    """Images a second of a step, after two steps that do not count."""
    for _ in range(2):
        step()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        step()
        count += 1
    return count * settings.batch / (time.perf_counter() - start)


def measure_this(network: str, settings: ModelsSettings, threads: int, seconds: float) -> dict[str, float]:
    """Images a second of this project's variants, and the number of weights; "train ..." and "infer ..."."""
    from models.slice_runs import prepare_backend

    prepare_backend(settings, threads)

    from models.inference import GRAPH, export_graph, openvino_engine
    from models.optimizer import build_optimizer
    from models.slice_network import slice_network, weighted_logistic_loss

    images, truth = _batch(settings)
    found = {}
    for precision in PRECISIONS:
        own = dataclasses.replace(settings, precision="mixed_bfloat16" if precision == "bfloat16" else precision)
        model = slice_network(own, network, "none")
        model.compile(build_optimizer(model, own), {"logits": weighted_logistic_loss}, jit_compile=False)
        found[f"train {precision}"] = _speed(
            lambda model=model: model.train_on_batch(images, {"logits": truth}), settings, seconds
        )
    model = slice_network(dataclasses.replace(settings, precision="float32"), network, "none")
    found["weights"] = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        export_graph(model, Path(folder))
        engine = openvino_engine(Path(folder), threads)
        found["infer OpenVINO float32"] = _speed(lambda: engine(images), settings, seconds)
        found["infer OpenVINO bfloat16"] = _speed(
            _openvino_bfloat16(Path(folder) / GRAPH, threads, images), settings, seconds
        )
    return found


def _openvino_bfloat16(graph: Path, threads: int, images: np.ndarray) -> Callable[[], object]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    request = openvino.Core().compile_model(str(graph), "CPU", options).create_infer_request()
    return lambda: request.infer([images])


def measure_pytorch(network: str, settings: ModelsSettings, threads: int, seconds: float) -> dict[str, float]:
    """The same of PyTorch's variants."""
    import torch

    from benchmarks.torch_networks import SliceNetwork, weighted_logistic_loss

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    images, target = _batch(settings)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)  # this is channels_last already
    truth, weight = torch.from_numpy(target).chunk(2, dim=1)

    def build() -> SliceNetwork:
        model = SliceNetwork(network, settings.embedding, len(TARGETS), settings.dropout)
        return model.to(memory_format=torch.channels_last)

    def training_step(precision: str) -> Callable[[], float]:
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=settings.weight_decay, fused=True)
        half = precision == "bfloat16"

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                logits, _ = model(pictures)
            loss = weighted_logistic_loss(logits.float(), truth, weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            return loss.item()

        return step

    found = {"weights": sum(each.numel() for each in build().parameters())}
    for precision in PRECISIONS:
        found[f"train {precision}"] = _speed(training_step(precision), settings, seconds)
    with torch.inference_mode():
        for precision in PRECISIONS:
            kind = getattr(torch, precision)
            model, inputs = build().eval().to(kind), pictures.to(kind)
            found[f"infer eager {precision}"] = _speed(lambda m=model, x=inputs: m(x), settings, seconds)
            frozen = torch.jit.freeze(torch.jit.trace(model, inputs))
            if precision == "float32":
                frozen = torch.jit.optimize_for_inference(frozen)
            found[f"infer frozen {precision}"] = _speed(lambda m=frozen, x=inputs: m(x), settings, seconds)
    return found


def _in_a_process(side: str, network: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, "-m", "benchmarks.beside_pytorch", "--side", side, "--networks", network,
        "--threads", str(arguments.threads), "--batch", str(arguments.batch), "--size", str(arguments.size),
        "--seconds", str(arguments.seconds),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"{network} on the side {side!r} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(network: str, arguments: argparse.Namespace) -> None:
    """Measure both sides of one network in turns; say every variant and the ratios of the best ones."""
    rounds = [{side: _in_a_process(side, network, arguments) for side in SIDES} for _ in range(arguments.rounds)]
    speeds = {
        side: {name: statistics.median(each[side][name] for each in rounds) for name in rounds[0][side]}
        for side in SIDES
    }
    weights = {side: int(speeds[side].pop("weights")) for side in SIDES}
    if len(set(weights.values())) > 1:
        raise UserError(f"{network}: not the same network, weights {weights}")
    say(f"{network}: {weights['this']:,} trained weights on either side")
    for work in ("train", "infer"):
        best = {}
        for side in SIDES:
            variants = {name: speed for name, speed in speeds[side].items() if name.startswith(work)}
            best[side] = max(variants, key=variants.get)
            told = ", ".join(f"{name.removeprefix(work + ' ')} {speed:.0f}" for name, speed in variants.items())
            say(f"  {work} {side:<8} images/s: {told}")
        same = speeds["this"][best["this"]] / speeds["pytorch"][best["pytorch"]]
        say(f"  {work}: {same:.2f} of PyTorch's speed ({best['this']} beside {best['pytorch']})")


def main() -> None:
    """Parse, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which (all)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="a variant is timed for (%(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        work = {"this": measure_this, "pytorch": measure_pytorch}[arguments.side]
        found = work(arguments.networks[0], _settings(arguments), arguments.threads, arguments.seconds)
        print(json.dumps(found))
        return
    for network in arguments.networks:
        compare(network, arguments)


if __name__ == "__main__":
    run(main)
