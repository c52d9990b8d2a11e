"""Is a recipe one that can be trained? Told before hours of work, all faults at once."""

from features.windows import WINDOWS
from models.precision import PRECISIONS
from models.sampling import MODES
from pipeline.errors import UserError
from pipeline.settings import POOLINGS, ModelsSettings


def check_recipe(settings: ModelsSettings, backbone: str) -> None:
    """Refuse values that no training can follow.

    Args:
        settings: of this backbone, `per_backbone` resolved.
        backbone: for the message.

    Raises:
        UserError: lists every fault with what is expected.
    """
    rules = {
        "sampling": (settings.sampling in MODES, f"one of {', '.join(MODES)}"),
        "cutout": (0 <= settings.cutout <= 1, "a share from 0 to 1"),
        "ema": (0 <= settings.ema < 1, "0 (off) or a decay below 1, e.g. 0.99"),
        "accumulate": (settings.accumulate >= 1, "1 or more batches a step"),
        "unfreeze_epoch": (
            0 <= settings.unfreeze_epoch <= settings.epochs, f"0 (never) or an epoch up to {settings.epochs}"
        ),
        "inner_share": (0 <= settings.inner_share <= 0.5, "a share from 0 (none) to 0.5"),
        "patience": (settings.patience >= 1, "1 or more epochs"),
        "epochs": (settings.epochs >= 1, "1 or more"),
        "batch": (settings.batch >= 1, "1 or more"),
        "pooling": (settings.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}"),
        "precision": (settings.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        "windows": (
            bool(settings.windows) and set(settings.windows) <= set(WINDOWS), f"some of {', '.join(WINDOWS)}"
        ),
        "weight_decay": (settings.weight_decay >= 0, "0 or more"),
    }  # fmt: skip
    faults = [
        f"models.{name} = {getattr(settings, name)!r}: expected {expected}"
        for name, (fits, expected) in rules.items()
        if not fits
    ]
    if faults:
        raise UserError.listing(f"{backbone} cannot be trained like this:", faults)
