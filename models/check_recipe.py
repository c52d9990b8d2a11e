"""Checks of training recipes before hours of work; all faults in one message."""

import math

from features.windows import WINDOWS
from models.backbones import find_backbone
from models.precision import PRECISIONS
from models.prediction_engine import ENGINES
from models.sampling import SAMPLING_MODES
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

#: Values of models.pooling; built in `models.pooling`.
POOLINGS = ("avgmax", "gem")
#: Kinds of exam networks; built in `models.exam_network`.
EXAM_KINDS = ("gru", "transformer")
#: Attention heads of the transformer; they split its width, 2 * models.exam.units.
HEADS = 4
#: Backbones halve the input five times.
SMALLEST_SIDE = 32


def check_recipes(models: ModelsSettings) -> None:
    """Check the settings of [models], of every backbone and of the exam networks.

    Raises:
        UserError: Lists every invalid setting with the expected values.
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
        raise UserError.listing("Networks cannot be trained with these settings:", faults)


def check_recipe(settings: ModelsSettings, backbone: str) -> None:
    """Check the recipe of one backbone.

    Args:
        settings: Settings of this backbone, `per_backbone` resolved.
        backbone: Name for the message.

    Raises:
        UserError: Lists every invalid setting with the expected values.
    """
    faults = recipe_faults(settings)
    if faults:
        raise UserError.listing(f"{backbone} cannot be trained with these settings:", faults)


def recipe_faults(settings: ModelsSettings) -> list[str]:
    """Return the invalid settings of one backbone, each with the expected values."""
    shares = settings.positive_share + settings.negative_exam_share
    rules = {
        "height": (settings.height >= SMALLEST_SIDE, f"{SMALLEST_SIDE} pixels or more"),
        "width": (settings.width >= SMALLEST_SIDE, f"{SMALLEST_SIDE} pixels or more"),
        "pixel_mm": (settings.pixel_mm >= 0, "0 (the whole box) or more"),
        "windows": (
            bool(settings.windows) and set(settings.windows) <= set(WINDOWS), f"some of {', '.join(WINDOWS)}"
        ),
        "artery_hu": (settings.artery_hu >= 0, "0 (unchanged HU) or more"),
        "neighbour_mm": (settings.neighbour_mm >= 0, "0 (the slice itself) or more"),
        "used_share": (0 < settings.used_share <= 1, "a share above 0, up to 1"),
        "frozen_share": (0 <= settings.frozen_share <= 1, "a share from 0 to 1"),
        "unfreeze_epoch": (
            0 <= settings.unfreeze_epoch <= settings.epochs, f"0 (never) or an epoch up to {settings.epochs}"
        ),
        "fixed_statistics": (
            not settings.fixed_statistics or settings.unfreeze_epoch <= 1,
            "false where models.unfreeze_epoch is above 1: statistics are measured before the first epoch",
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
        "map_weight": (settings.map_weight >= 0, "0 or more"),
        "auxiliary_weight": (settings.auxiliary_weight >= 0, "0 or more"),
        "sampling": (settings.sampling in SAMPLING_MODES, f"one of {', '.join(SAMPLING_MODES)}"),
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
        f"invalid models.{name}. Expected {expected}, got {getattr(settings, name)!r}."
        for name, (valid, expected) in rules.items()
        if not valid
    ]


def _exam_faults(models: ModelsSettings) -> list[str]:
    exam = models.exam
    faults: list[str] = []
    unknown = sorted(set(exam.kinds) - set(EXAM_KINDS))
    if unknown:
        faults.append(f"invalid models.exam.kinds. Expected some of {', '.join(EXAM_KINDS)}, got {', '.join(unknown)}.")
    unused = sorted(set(exam.backbones) - set(models.backbones))
    if unused:
        faults.append(
            f"invalid models.exam.backbones. Expected some of {', '.join(models.backbones)}, got {', '.join(unused)}. "
            "Use exam networks on every backbone: --set models.exam.backbones=[]"
        )
    if "transformer" in exam.kinds and (exam.units < 1 or 2 * exam.units % HEADS):
        faults.append(
            f"invalid models.exam.units. Expected a multiple of {HEADS // 2}, got {exam.units}: the {HEADS} heads of "
            "the transformer split a width of twice the units."
        )
    return faults
