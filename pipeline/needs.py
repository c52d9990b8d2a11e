"""What a run needs of disk and memory, from its settings and the number of slices; standard library only.

The constants were measured on the default run (drawn exams, 224 pixels a side) and scale with pixels; real
scans hold more noise than drawn ones and pack less tightly, so the store gets a reserve of a half.
"""

import math
from pathlib import Path

from pipeline.settings import Settings

RAW_BYTES_A_PIXEL = 1.9  # a drawn DICOM file
STORE_BYTES_A_SLICE = 24_000  # at STORE_SPACING_MM
STORE_SPACING_MM = 1.4
RESERVE = 1.5
TABLE_BYTES_A_SLICE = 120  # one network's row in slices.parquet
NETWORK_BYTES = 40_000_000  # weights, exported graph and checkpoint of a small network
TRAINING_BYTES = 2_200_000_000  # one training process on a CPU
#: Published counts of the contest (training, public test), for a plan before the data are there.
CONTEST_SLICES = (1_790_594, 146_853)
CONTEST_EXAMS = (7_279, 650)


def count_slices(settings: Settings) -> int | None:
    """Slices of the contest: rows of its CSVs, or what the phantom will draw; None where there are no CSVs."""
    counted = split_slices(settings)
    return None if counted is None else sum(counted)


def split_slices(settings: Settings) -> tuple[int, int] | None:
    """Slices of the training and of the test exams, as `count_slices` counts them."""
    if settings.is_phantom:
        drawn = settings.phantom
        return drawn.train_exams * drawn.slices, drawn.test_exams * drawn.slices
    tables = [settings.data_root / name for name in ("train.csv", "test.csv")]
    return (_lines(tables[0]), _lines(tables[1])) if all(table.is_file() for table in tables) else None


def raw_bytes(settings: Settings, slices: int) -> int:
    """Bytes of the raw files that are read, about: 16 bits a pixel."""
    return slices * 2 * (settings.phantom.rows if settings.is_phantom else 512) ** 2


def disk_bytes(settings: Settings, slices: int) -> dict[str, int]:
    """Bytes that each stage's products will take, about."""
    store = STORE_BYTES_A_SLICE * (STORE_SPACING_MM / settings.features.spacing_mm) ** 2
    networks = len(settings.models.networks) * settings.input.folds
    rows = slices * (TABLE_BYTES_A_SLICE + 2 * settings.models.embedding)
    return {
        "input": int(slices * RAW_BYTES_A_PIXEL * settings.phantom.rows**2) if settings.is_phantom else 0,
        "features": int(slices * store * (1 if settings.is_phantom else RESERVE)),
        "models": int(networks * (NETWORK_BYTES + rows / 2)),
    }


def memory_bytes(settings: Settings, cores: int) -> int:
    """Bytes that training takes on a CPU, the largest need of a run."""
    jobs = len(settings.models.backbones) * settings.input.folds
    return TRAINING_BYTES * max(1, min(settings.models.workers or cores, jobs))


def told(number: float) -> str:
    """Bytes as people say them, two digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    digits = 0 if number < 1 else max(0, 1 - int(math.log10(number)))
    return f"{number:.{digits}f} {unit}"


def _lines(path: Path) -> int:
    """Rows of a CSV below its header."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        return max(0, sum(block.count(b"\n") for block in blocks) - 1)
