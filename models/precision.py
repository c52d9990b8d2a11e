"""Which number format a network trains in: what the device computes fast and the network profits from.

float32 on a CPU, whatever the network, save dense convolutions where the CPU has AVX512_BF16 (measured there
with ResNet50: 16 -> 26 images a second; MobileNetV2 gets slower, float16 very much so). On a GPU bfloat16 where
it has it, which needs no loss scaling; on older ones float16, whose loss Keras scales.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from models.backbones import find_backbone
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
AMPERE = (8, 0)  # the first compute capability with bfloat16


class Device(NamedTuple):
    """What the network will run on: "cpu" or "gpu", and whether it computes in bfloat16."""

    kind: str
    bfloat16: bool


def chosen_precision(wanted: str, device: Device, *, dense: bool) -> str:
    """The Keras dtype policy to train in.

    Args:
        wanted: one of PRECISIONS; anything but "auto" is obeyed.
        device: what the network will run on.
        dense: whether the backbone is made of dense convolutions (`Backbone.dense`).

    Raises:
        UserError: an unknown name, or float16 on a CPU.
    """
    if wanted not in PRECISIONS:
        raise UserError(f"models.precision = {wanted!r}: expected one of {', '.join(PRECISIONS)}")
    if wanted == "mixed_float16" and device.kind == "cpu":
        raise UserError("models.precision = 'mixed_float16': many times slower than float32 on a CPU; use auto")
    if wanted != "auto":
        return wanted
    if device.kind == "gpu":
        return "mixed_bfloat16" if device.bfloat16 else "mixed_float16"
    return "mixed_bfloat16" if device.bfloat16 and dense else "float32"


def policy_of(settings: ModelsSettings, backbone: str) -> str:
    """The dtype policy of a backbone's network on this machine; a CPU of float32 is not asked."""
    if settings.precision == "float32":
        return "float32"
    return chosen_precision(settings.precision, this_device(), dense=find_backbone(backbone).dense)


@contextmanager
def built_in(policy: str) -> Iterator[None]:
    """Layers built inside compute in this dtype policy."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def this_device() -> Device:
    """The device that the Keras backend computes on."""
    capability = gpu_capability()
    if capability is not None:
        return Device("gpu", capability >= AMPERE)
    return Device("cpu", "avx512_bf16" in _cpu_flags())


def gpu_capability() -> tuple[int, ...] | None:
    """Compute capability of the GPU that the Keras backend computes on, zeros where unknown; None: a CPU."""
    import keras

    return _GPU_CAPABILITY.get(keras.backend.backend(), lambda: None)()


def _tensorflow_capability() -> tuple[int, ...] | None:
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    return (
        tensorflow.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0)) if gpus else None
    )


def _torch_capability() -> tuple[int, ...] | None:
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def _jax_capability() -> tuple[int, ...] | None:
    import jax

    device = jax.devices()[0]
    if device.platform not in ("gpu", "cuda"):
        return None
    return tuple(int(part) for part in str(getattr(device, "compute_capability", "0.0")).split("."))


_GPU_CAPABILITY = {"tensorflow": _tensorflow_capability, "torch": _torch_capability, "jax": _jax_capability}


def _cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets as Linux tells them; none on other systems."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
