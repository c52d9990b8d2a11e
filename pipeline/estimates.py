"""Building blocks of estimates: measured rates, hardware, bytes and hours as text; standard library only.

The estimates themselves are in the `estimate` module of each stage.
"""

import math
from dataclasses import dataclass

from pipeline.machine import cores


@dataclass(frozen=True)
class Rate:
    """A measured or assumed figure, with its unit and its source."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Hardware:
    """A machine, or several that share the work; the GFLOP/s of GPUs in training are assumed, not measured."""

    name: str
    cores: int
    gpus: int = 0
    depthwise_gflops: float = 3_000.0
    dense_gflops: float = 15_000.0


ONE_GPU = Hardware("1 GPU of the A100 class, 16 cores", 16, 1)
EIGHT_GPUS = Hardware("8 GPUs of the A100 class, 128 cores", 128, 8)


def compared_hardware() -> tuple[Hardware, ...]:
    """The hardware that estimates of hours are given for: this machine without a GPU, and two examples with GPUs."""
    return Hardware(f"this machine's {cores()} cores, no GPU", cores()), ONE_GPU, EIGHT_GPUS


def format_bytes(number: float) -> str:
    """Bytes as text with two significant digits, e.g. "1.5 kB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    digits = 0 if number < 1 else max(0, 1 - int(math.log10(number)))
    return f"{number:.{digits}f} {unit}"


def format_hours(hours: float) -> str:
    """Hours as text: minutes below two hours, days from three days on."""
    if hours < 2:
        return f"{max(1, math.ceil(hours * 60))} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
