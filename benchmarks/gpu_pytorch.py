"""Speed of the slice networks in plain PyTorch on the device; the part of benchmarks.gpu that runs beside Keras.

As a PyTorch user would write it: channels_last, bfloat16 by autocast, fused AdamW, torch.compile. The loss is read
after every step, and predictions are copied to the host, as the networks of this project do.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_networks import Work, seconds_per_step
from models.clot_targets import MAP_CHANNELS, map_shape
from models.device import is_out_of_memory
from models.slice_targets import TARGETS

if TYPE_CHECKING:
    import torch


def measure_pytorch(work: Work, compiled: bool) -> dict[str, Any]:
    """Measure training and prediction on a constant batch on the device; run it in a process of its own.

    Args:
        work: What is measured; the backbone is a key of `benchmarks.torch_networks.NETWORKS`.
        compiled: Use torch.compile, if it works here: it needs a C compiler and, on a GPU, Triton.

    Returns:
        `weights` (number of trained weights), `train` and `infer` (images per second), and `variant` ("compiled", or
        "eager" with the reason).
    """
    os.environ["KERAS_BACKEND"] = "torch"  # the constants of the networks come from modules that import Keras
    if not compiled:
        return _speeds(work, lambda network: network) | {"variant": "eager"}
    import torch

    try:
        return _speeds(work, torch.compile) | {"variant": "compiled"}
    except Exception as fault:  # of whatever a compiler of another project raises
        if is_out_of_memory(fault):
            raise
        reason = str(fault).strip().split("\n")[0][:120]
    torch.compiler.reset()
    return _speeds(work, lambda network: network) | {"variant": f"eager, torch.compile failed: {reason}"}


def _speeds(work: Work, prepare: "Callable[[Any], Any]") -> dict[str, Any]:
    """Measure a network; `prepare` makes what is called from the module."""
    import torch

    from benchmarks.torch_networks import SliceNetwork

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    settings = work.settings(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = SliceNetwork(work.backbone, settings.embedding, settings.dropout, local_map=True)
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.rand((work.batch, work.size, work.size, 3), device=device).permute(0, 3, 1, 2)  # channels_last
    model = prepare(network)

    def precision() -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16) if work.precision == "mixed_bfloat16" else nullcontext()

    network.eval()
    with torch.inference_mode():

        def infer() -> None:
            with precision():
                logits, embedding, cells, _ = model(images)
            for output in (logits, embedding, cells):
                output.float().cpu()

        inference_s = seconds_per_step(infer, work.steps, work.seconds)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6, weight_decay=settings.weight_decay, fused=True)
    targets = _targets(work, device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            outputs = model(images)
        loss = _loss(outputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()

    return {
        "weights": sum(parameter.numel() for parameter in network.parameters()),
        "infer": work.batch / inference_s,
        "train": work.batch / seconds_per_step(train, work.steps, work.seconds, wait=wait),
    }


def _targets(work: Work, device: "torch.device") -> "list[torch.Tensor]":
    """Random labels and weights of logits, evidence and map, flat: (batch, 2 * outputs) each."""
    import torch

    from models.clot_map import PARTS

    cells = MAP_CHANNELS * map_shape(work.size, work.size)[0] * map_shape(work.size, work.size)[1]
    return [
        torch.randint(0, 2, (work.batch, 2 * outputs), device=device).float()
        for outputs in (len(TARGETS), len(PARTS), cells)
    ]


def _loss(outputs: "tuple[torch.Tensor, ...]", targets: "list[torch.Tensor]") -> "torch.Tensor":
    """The sum of the losses that `models.slice_training` compiles its networks with."""
    from benchmarks.torch_networks import weighted_logistic_loss
    from models.clot_map import CELLS_PER_SLICE

    logits, _, cells, evidence = outputs
    losses = [
        weighted_logistic_loss(values.flatten(1).float(), *truth_and_weight.chunk(2, dim=1)) / divisor
        for values, truth_and_weight, divisor in zip(
            (logits, evidence, cells), targets, (1.0, 1.0, CELLS_PER_SLICE), strict=True
        )
    ]
    return sum(losses[1:], start=losses[0])
