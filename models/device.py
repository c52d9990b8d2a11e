"""The device that networks compute on: GPU or CPU, bfloat16 support, visible GPUs, threads and determinism.

Keras and its backend are imported inside the functions, so that importing this module is cheap.
"""

import os
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from pipeline.machine import nvidia_smi
from pipeline.settings import ModelsSettings

AMPERE = (8, 0)  # the first CUDA compute capability with bfloat16
#: Environment variables of jobs that share a GPU. By default the first job takes all of its memory.
SHARED_GPU_VARIABLES = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Device(NamedTuple):
    """The device of the Keras backend.

    Attributes:
        kind: "cpu" or "gpu".
        bfloat16: Whether it computes in bfloat16.
    """

    kind: str
    bfloat16: bool


def this_device() -> Device:
    """Return the device that the Keras backend computes on."""
    capability = gpu_capability()
    if capability is not None:
        return Device("gpu", capability >= AMPERE)
    return Device("cpu", "avx512_bf16" in cpu_flags() and not onednn_is_limited())


def onednn_is_limited() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA keeps TensorFlow's oneDNN from the instructions that bfloat16 and float16 need.

    TensorFlow looks at the processor alone, and stops with an error when oneDNN then refuses.
    """
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE")


def gpu_capability() -> tuple[int, ...] | None:
    """Return the compute capability of the Keras backend's GPU, zeros where unknown; None on a CPU."""
    import keras

    return _GPU_CAPABILITY.get(keras.backend.backend(), lambda: None)()


def _tensorflow_capability() -> tuple[int, ...] | None:
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        return None
    return tensorflow.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))


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


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the CPU's instruction set flags on Linux; empty on other systems."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that jobs may use, as named in CUDA_VISIBLE_DEVICES; none with PE_DEVICE=cpu.

    These are all GPUs listed by nvidia-smi or, if CUDA_VISIBLE_DEVICES is set, the ones it names: numbers, "GPU-..."
    or "MIG-...". As in CUDA itself, an invalid name ends the list.
    """
    if os.environ.get("PE_DEVICE") == "cpu":
        return ()
    gpus = [line for line in (nvidia_smi("-L") or "").splitlines() if line.startswith("GPU ")]
    numbers = [str(number) for number in range(len(gpus))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not gpus:
        return tuple(numbers)
    names = (name.strip() for name in visible.split(","))
    return tuple(takewhile(lambda name: name in numbers or name.startswith(("GPU-", "MIG-")), names))


def unused_gpu_reason() -> str:
    """Return why the Keras backend does not use the GPUs that nvidia-smi lists; "" if it does, or if there are none."""
    import keras

    gpus, backend = visible_gpus(), keras.backend.backend()
    if not gpus or gpu_capability() is not None:
        return ""
    reason = "its CUDA libraries cannot be loaded or do not fit the driver; TF_CPP_MIN_LOG_LEVEL=0 shows which"
    if backend == "tensorflow":
        import tensorflow

        if not tensorflow.test.is_built_with_cuda():
            reason = "it is the build for CPUs. Set PE_DEVICE=gpu and rerun ./run.sh to install the one for GPUs"
    return f"{backend} does not use the listed GPU ({len(gpus)} visible) and computes on the CPU: {reason}"


def is_out_of_memory(fault: Exception) -> bool:
    """Whether an exception of a Keras backend means that the memory of the device is exhausted."""
    text = f"{type(fault).__name__} {fault}"
    return any(sign in text for sign in ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory"))


def prepare_backend(settings: ModelsSettings, threads: int) -> None:
    """Fix seeds, thread counts and the order of sums, as far as the backend allows, before its first operation.

    Identical bytes after a killed and resumed training are guaranteed for TensorFlow on one machine. PyTorch warns
    about operations without a deterministic implementation. JAX uses all cores, and its sums on a GPU may differ.

    Args:
        settings: Training recipe with the seed.
        threads: CPU threads of one operation; results depend on it.
    """
    import keras

    keras.utils.set_random_seed(settings.seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.config.experimental.enable_op_determinism()


if __name__ == "__main__":  # for ./run.sh doctor
    print(unused_gpu_reason())
