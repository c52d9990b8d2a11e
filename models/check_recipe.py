"""Are the recipes ones that can be trained? Told before hours of work, all faults at once."""

import math

from features.windows import WINDOWS
from models.backbones import find_backbone
from models.inference import ENGINES
from models.precision import PRECISIONS
from models.sampling import MODES
from pipeline.errors import UserError
from pipeline.settings import POOLINGS, ModelsSettings

#: Kinds of networks over an exam's slices, built in models.exam_network.
EXAM_KINDS = ("gru", "transformer")
#: Of the transformer's attention; they share out 2 * models.exam.units numbers.
HEADS = 4
#: Backbones halve the input five times.
SMALLEST_SIDE = 32


def check_recipes(models: ModelsSettings) -> None:
    """Refuse settings of [models] that no training can follow: of every backbone, and of the exam networks.

    Raises:
        UserError: lists every fault with what is expected.
    """
    faults = []
    for backbone in dict.fromkeys((*models.backbones, *models.per_backbone)):
        try:
            find_backbone(backbone)
        except UserError as fault:
            faults.append(str(fault))
        else:
            faults += [f"{backbone}: {fault}" for fault in recipe_faults(models.of(backbone))]
    faults += _exam_faults(models)
    if faults:
        raise UserError.listing("Networks cannot be trained like this:", faults)


def check_recipe(settings: ModelsSettings, backbone: str) -> None:
    """Refuse a recipe that no training can follow.

    Args:
        settings: of this backbone, `per_backbone` resolved.
        backbone: for the message.

    Raises:
        UserError: lists every fault with what is expected.
    """
    faults = recipe_faults(settings)
    if faults:
        raise UserError.listing(f"{backbone} cannot be trained like this:", faults)


def recipe_faults(settings: ModelsSettings) -> list[str]:
    """What of one backbone's settings cannot be, each with what is expected."""
    shares = settings.positive_share + settings.negative_exam_share
    rules = {
        "height": (settings.height >= SMALLEST_SIDE, f"{SMALLEST_SIDE} pixels or more"),
        "width": (settings.width >= SMALLEST_SIDE, f"{SMALLEST_SIDE} pixels or more"),
        "pixel_mm": (settings.pixel_mm >= 0, "0 (the whole box) or more"),
        "windows": (
            bool(settings.windows) and set(settings.windows) <= set(WINDOWS), f"some of {', '.join(WINDOWS)}"
        ),
        "neighbour_mm": (settings.neighbour_mm >= 0, "0 (the slice itself) or more"),
        "frozen_share": (0 <= settings.frozen_share <= 1, "a share from 0 to 1"),
        "unfreeze_epoch": (
            0 <= settings.unfreeze_epoch <= settings.epochs, f"0 (never) or an epoch up to {settings.epochs}"
        ),
        "pooling": (settings.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}"),
        "embedding": (settings.embedding >= 1, "1 or more"),
        "dropout": (0 <= settings.dropout < 1, "a share from 0 to below 1"),
        "seed": (settings.seed >= 0, "0 or more"),
        "epochs": (settings.epochs >= 1, "1 or more"),
        "epoch_slices": (settings.epoch_slices >= 1, "1 or more"),
        "batch": (settings.batch >= 1, "1 or more"),
        "learning_rate": (0 < settings.learning_rate < math.inf, "above 0"),
        "weight_decay": (settings.weight_decay >= 0, "0 or more"),
        "accumulate": (settings.accumulate >= 1, "1 or more batches a step"),
        "ema": (0 <= settings.ema < 1, "0 (off) or a decay below 1, e.g. 0.99"),
        "inner_share": (0 <= settings.inner_share <= 0.5, "a share from 0 (none) to 0.5"),
        "patience": (settings.patience >= 1, "1 or more epochs"),
        "auxiliary_weight": (settings.auxiliary_weight >= 0, "0 or more"),
        "sampling": (settings.sampling in MODES, f"one of {', '.join(MODES)}"),
        "positive_share": (0 <= settings.positive_share <= 1, "a share from 0 to 1"),
        "negative_exam_share": (
            settings.negative_exam_share >= 0 and shares <= 1, "a share from 0, with positive_share 1 at most"
        ),
        "augmentation": (settings.augmentation >= 0, "0 or more"),
        "cutout": (0 <= settings.cutout <= 1, "a share from 0 to 1"),
        "precision": (settings.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        "engine": (settings.engine in ENGINES, f"one of {', '.join(ENGINES)}"),
    }  # fmt: skip
    return [
        f"models.{name} = {getattr(settings, name)!r}: expected {expected}"
        for name, (fits, expected) in rules.items()
        if not fits
    ]


def _exam_faults(models: ModelsSettings) -> list[str]:
    exam, faults = models.exam, []
    unknown = sorted(set(exam.kinds) - set(EXAM_KINDS))
    if unknown:
        faults.append(f"models.exam.kinds: expected some of {', '.join(EXAM_KINDS)}, found {', '.join(unknown)}")
    strangers = sorted(set(exam.backbones) - set(models.backbones))
    if strangers:
        faults.append(
            f"models.exam.backbones: expected some of {', '.join(models.backbones)}, found {', '.join(strangers)}; "
            "--set models.exam.backbones=[] lets exam networks read every backbone"
        )
    if "transformer" in exam.kinds and (exam.units < 1 or 2 * exam.units % HEADS):
        faults.append(
            f"models.exam.units = {exam.units}: expected a multiple of {HEADS // 2} for the transformer, whose "
            f"{HEADS} heads share out twice as many numbers"
        )
    return faults
