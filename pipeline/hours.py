"""How long a run takes, about: measured rates of one core, counted operations, assumed rates of GPUs.

Every figure that the estimates rest on stands in this file, with where it comes from; standard library only.
Measured on one core of an x86 server with AVX-512 (2020s); an old laptop takes twice as long.
"""

import math
from dataclasses import dataclass

from pipeline.settings import Settings


@dataclass(frozen=True)
class Rate:
    """A figure and where it comes from."""

    value: float
    unit: str
    source: str


RATES = {
    "header": Rate(0.9, "ms of a core a file", "python -m benchmarks.ingest, 'read' + 'header'"),
    "raw": Rate(1.9, "ms of a core a slice of 512 x 512", "python -m benchmarks.ingest, 'read' to 'lung box'"),
    "stored": Rate(2.8, "ms of a core a slice stored at 0.75 mm", "python -m benchmarks.ingest, the rest"),
    "lossless": Rate(6.0, "ms of a core a JPEG Lossless slice of 512 x 512", "pydicom with gdcm, one core"),
    "view": Rate(11.0, "ms of a core a view of 384 x 480 with 9 channels", "SliceViews.view under settings/rsna.toml"),
    "core": Rate(22.0, "GFLOP/s of a core, training with TensorFlow", "./run.sh: slices/s in logs/models-mobilenetv2*"),
    "disk": Rate(200.0, "MB/s of reading raw files", "assumed: a network disk"),
}  # fmt: skip

#: Published multiply-accumulates of one 224 x 224 image, in thousand millions; training takes three forward passes.
GMACS = {
    "mobilenetv2": 0.30, "efficientnet_lite0": 0.39, "efficientnetv2_b0": 0.72, "efficientnetv2_s": 2.9,
    "densenet121": 2.9, "convnext_tiny": 4.5, "xception": 4.6, "resnet50v2": 3.5,
    "se_resnext50": 4.3,
}  # fmt: skip
#: Their convolutions move more memory than they multiply, so a GPU reaches a fraction of its speed.
DEPTHWISE = (
    "mobilenetv2", "efficientnet_lite0", "efficientnetv2_b0", "efficientnetv2_s", "xception", "se_resnext50",
)  # fmt: skip
#: Share of the contest's exams in JPEG Lossless (a sample of 40).
LOSSLESS_SHARE = 0.08


@dataclass(frozen=True)
class Hardware:
    """A machine, or several that share the work; the GPU's GFLOP/s in training are assumed, not measured."""

    name: str
    cores: int
    gpus: int = 0
    depthwise_gflops: float = 3_000.0
    dense_gflops: float = 15_000.0


ONE_GPU = Hardware("1 GPU of the A100 class, 16 cores", 16, 1)
EIGHT_GPUS = Hardware("8 GPUs of the A100 class, 128 cores", 128, 8)


def ingest_hours(settings: Settings, slices: int, hardware: Hardware) -> float:
    """Hours from raw files to the store: the larger of the cores' work and the disk's."""
    pixels = (settings.phantom.rows / 512) ** 2 if settings.is_phantom else 1.0
    stored = (0.75 / settings.features.spacing_mm) ** 2
    work_ms = (
        RATES["header"].value
        + pixels * (RATES["raw"].value + LOSSLESS_SHARE * RATES["lossless"].value)
        + stored * RATES["stored"].value
    )
    megabytes = slices * pixels * 2 * 512**2 / 1e6
    return max(slices * work_ms / 1e3 / hardware.cores, megabytes / RATES["disk"].value) / 3600


def training_hours(settings: Settings, train_slices: int, test_slices: int, hardware: Hardware) -> float:
    """Hours of the (backbone, fold) jobs; the slowest job of each round counts.

    Half of a job's cores make views, eight at most; it is never faster than they are. Where exam networks read a
    backbone, its slice networks also embed the slices that they learned from; the exam networks' own epochs, minutes
    beside that, are not counted.
    """
    jobs = len(settings.models.backbones) * settings.input.folds
    at_a_time = max(1, min(settings.models.workers or hardware.gpus or hardware.cores, jobs))
    loaders = max(1, min(hardware.cores // at_a_time // 2, 8))
    seconds = []
    for backbone in settings.models.backbones:
        recipe = settings.models.of(backbone)
        area = recipe.height * recipe.width
        view = RATES["view"].value / 1e3 * area * recipe.channels / (384 * 480 * 9) / loaders
        forward = 2 * GMACS.get(backbone, 3.0) * area / 224**2  # GFLOP
        gpu = hardware.depthwise_gflops if backbone in DEPTHWISE else hardware.dense_gflops
        speed = gpu if hardware.gpus else RATES["core"].value
        trained = recipe.epochs * recipe.epoch_slices
        embedded = bool(settings.models.exam_kinds(backbone))
        predicted = test_slices + train_slices / (1 if embedded else settings.input.folds)
        passes = 2 if recipe.flip_tta else 1
        job = trained * max(3 * forward / speed, view) + predicted * max(passes * forward / speed, view)
        seconds += [job] * settings.input.folds
    seconds.sort(reverse=True)
    return sum(seconds[::at_a_time]) / 3600


def told(hours: float) -> str:
    """Hours as people say them: minutes below two hours, days above three."""
    if hours < 2:
        return f"{max(1, math.ceil(hours * 60))} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
