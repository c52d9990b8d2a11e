"""Duration of the training, size of the networks, and the plan of the models stage; standard library only.

Rates are of one core of an x86 server with AVX-512 (2020s); the rates of GPUs are assumed, not measured.
"""

from input.estimate import expected_slices
from models.network_names import architecture, exam_network_kinds, network_names
from pipeline import paths
from pipeline.estimates import Hardware, Rate, compared_hardware
from pipeline.machine import cores
from pipeline.settings import Settings
from pipeline.stage_plan import StagePlan, artifact_states

RATES = {
    "view": Rate(11.0, "ms of one core per 384 x 480 view of 9 channels", "SliceViews.view with settings/rsna.toml"),
    "core": Rate(22.0, "GFLOP/s of one core, training with TensorFlow", "slices/s in logs/models-mobilenetv2*"),
}
#: Published multiply-accumulates of one 224 x 224 image, in thousand millions; training takes three forward passes.
GMACS = {
    "mobilenetv2": 0.30, "efficientnet_lite0": 0.39, "efficientnetv2_b0": 0.72, "efficientnetv2_s": 2.9,
    "densenet121": 2.9, "convnext_tiny": 4.5, "xception": 4.6, "resnet50v2": 3.5,
    "se_resnext50": 4.3,
}  # fmt: skip
#: Assumed for a backbone that is not in GMACS.
DEFAULT_GMACS = 3.0
#: Backbones whose convolutions are limited by memory bandwidth, so that a GPU reaches a fraction of its speed.
DEPTHWISE = (
    "mobilenetv2", "efficientnet_lite0", "efficientnetv2_b0", "efficientnetv2_s", "xception", "se_resnext50",
)  # fmt: skip

#: One network's row in slices.parquet.
TABLE_BYTES_PER_SLICE = 120
#: Weights, exported graph and checkpoint of a small network.
NETWORK_BYTES = 40_000_000
#: Memory of one training process on a CPU, with the features that its folds share.
TRAINING_BYTES = 2_600_000_000


def training_hours(settings: Settings, train_slices: int, test_slices: int, hardware: Hardware) -> float:
    """Hours of all (backbone, fold) jobs; the slowest job of each round of parallel jobs counts.

    Half of a job's cores, eight at most, prepare the views; the job is never faster than they are. If exam networks
    read a backbone, its slice networks also embed the slices that they were trained on. The exam networks' own
    epochs, minutes in comparison, are not counted.

    Args:
        settings: the experiment.
        train_slices: number of training slices.
        test_slices: number of test slices.
        hardware: cores, GPUs and their speed.
    """
    jobs = len(settings.models.backbones) * settings.input.folds
    parallel_jobs = max(1, min(settings.models.workers or hardware.gpus or hardware.cores, jobs))
    loaders = max(1, min(hardware.cores // parallel_jobs // 2, 8))
    seconds: list[float] = []
    for backbone in settings.models.backbones:
        job = _job_seconds(settings, backbone, (train_slices, test_slices), hardware, loaders)
        seconds += [job] * settings.input.folds
    seconds.sort(reverse=True)
    return sum(seconds[::parallel_jobs]) / 3600


def disk_bytes(settings: Settings, slices: int) -> int:
    """Approximate size of all networks with their predictions and embeddings."""
    networks = len(network_names(settings.models)) * settings.input.folds
    rows = slices * (TABLE_BYTES_PER_SLICE + 2 * settings.models.embedding)
    return int(networks * (NETWORK_BYTES + rows / 2))


def memory_bytes(settings: Settings, available_cores: int) -> int:
    """Approximate memory of the training on a CPU, the largest of a run."""
    jobs = len(settings.models.backbones) * settings.input.folds
    return TRAINING_BYTES * max(1, min(settings.models.workers or available_cores, jobs))


def plan_stage(settings: Settings) -> StagePlan:
    """State and estimated needs of `./run.sh models train`."""
    train, test = expected_slices(settings)
    names, folds = network_names(settings.models), range(settings.input.folds)
    runs = [paths.model_run(name, fold) for name in names for fold in folds] or [paths.model_run("none", 0)]
    return StagePlan(
        "models",
        artifact_states(runs),
        disk_bytes=disk_bytes(settings, train + test),
        cpu_memory_bytes=memory_bytes(settings, cores()),
        hours={hardware.name: training_hours(settings, train, test, hardware) for hardware in compared_hardware()},
        assumptions=[
            "training: measured rate of one core, assumed rates of GPUs; the exam networks' own epochs are not counted "
            "(models/estimate.py)"
        ],
    )


def _job_seconds(settings: Settings, backbone: str, slices: tuple[int, int], hardware: Hardware, loaders: int) -> float:
    """Seconds of one (backbone, fold) job: training, then prediction of the held-out and the test slices.

    Args:
        settings: the experiment.
        backbone: name of the backbone.
        slices: numbers of training and test slices.
        hardware: GPUs and their speed.
        loaders: cores that prepare this job's views.
    """
    train_slices, test_slices = slices
    recipe = settings.models.of(backbone)
    area = recipe.height * recipe.width
    view = RATES["view"].value / 1e3 * area * recipe.channels / (384 * 480 * 9) / loaders
    forward = 2 * GMACS.get(architecture(backbone), DEFAULT_GMACS) * area / 224**2  # GFLOP
    forward *= recipe.used_share  # layers take about equal time
    gpu = hardware.depthwise_gflops if architecture(backbone) in DEPTHWISE else hardware.dense_gflops
    speed = gpu if hardware.gpus else RATES["core"].value
    trained = recipe.epochs * recipe.epoch_slices
    embeds_training_slices = bool(exam_network_kinds(settings.models, backbone))
    predicted = test_slices + train_slices / (1 if embeds_training_slices else settings.input.folds)
    passes = 2 if recipe.flip_tta else 1
    return trained * max(3 * forward / speed, view) + predicted * max(passes * forward / speed, view)
