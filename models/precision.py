"""The number format of training: what the device computes fast and the network benefits from.

On a CPU float32, except for dense convolutions on CPUs with AVX512_BF16 (measured there with ResNet50: 16 -> 26
images/s; MobileNetV2 gets slower, and float16 is much slower). On a GPU bfloat16 where supported, which needs no loss
scaling; on older GPUs float16, for which Keras scales the loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from models.backbones import find_backbone
from models.device import Device, this_device
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

#: Values of models.precision.
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


def select_precision(precision: str, device: Device, *, dense: bool) -> str:
    """Select the Keras dtype policy for training.

    Args:
        precision: One of PRECISIONS; anything but "auto" is used as it is.
        device: The device that trains.
        dense: Whether the backbone consists of dense convolutions (`Backbone.dense`).

    Returns:
        One of PRECISIONS without "auto".

    Raises:
        UserError: An unknown name, or float16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown models.precision. Expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if precision == "mixed_float16" and device.kind == "cpu":
        raise UserError("models.precision = 'mixed_float16' is many times slower than float32 on a CPU. Use auto.")
    if precision != "auto":
        return precision
    if device.kind == "gpu":
        return "mixed_bfloat16" if device.bfloat16 else "mixed_float16"
    return "mixed_bfloat16" if device.bfloat16 and dense else "float32"


def dtype_policy(settings: ModelsSettings, backbone: str) -> str:
    """Return the dtype policy of a backbone's network on this machine; float32 never queries the device."""
    if settings.precision == "float32":
        return "float32"
    return select_precision(settings.precision, this_device(), dense=find_backbone(backbone).dense)


@contextmanager
def dtype_policy_scope(policy: str) -> Iterator[None]:
    """Apply a dtype policy to the layers that are built inside the context."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
