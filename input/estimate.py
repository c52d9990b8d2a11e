"""Number of slices, bytes to read, and the plan of the input stage; standard library only."""

from pathlib import Path

from pipeline import paths
from pipeline.estimates import format_bytes
from pipeline.settings import Settings
from pipeline.stage_plan import StagePlan, artifact_states

#: Published counts of the contest (training, public test), used to plan before the data are downloaded.
CONTEST_SLICES = (1_790_594, 146_853)
CONTEST_EXAMS = (7_279, 650)
#: Size of a synthetic DICOM file, measured on the default run.
SYNTHETIC_BYTES_PER_PIXEL = 1.9
#: Rows and columns of nearly all contest slices.
CONTEST_ROWS = 512


def count_slices(settings: Settings) -> tuple[int, int] | None:
    """Numbers of training and test slices: rows of the CSVs, or what the phantom generates; None without CSVs."""
    if settings.is_phantom:
        phantom = settings.phantom
        return phantom.train_exams * phantom.slices, phantom.test_exams * phantom.slices
    tables = [settings.data_root / name for name in ("train.csv", "test.csv")]
    return (_count_rows(tables[0]), _count_rows(tables[1])) if all(table.is_file() for table in tables) else None


def expected_slices(settings: Settings) -> tuple[int, int]:
    """Numbers of training and test slices; the published counts of the contest if the data are not there."""
    return count_slices(settings) or CONTEST_SLICES


def image_rows(settings: Settings) -> int:
    """Rows, and columns, of a raw slice in pixels."""
    return settings.phantom.rows if settings.is_phantom else CONTEST_ROWS


def raw_bytes(settings: Settings, slices: int) -> int:
    """Approximate bytes of the raw files to read, at 16 bits per pixel."""
    return slices * 2 * image_rows(settings) ** 2


def plan_stage(settings: Settings) -> StagePlan:
    """State and estimated needs of `./run.sh input prepare`."""
    counts = count_slices(settings)
    train, test = counts or CONTEST_SLICES
    origin = "" if counts else f"; published counts, {sum(CONTEST_EXAMS):,} exams"
    total = train + test
    return StagePlan(
        "input",
        artifact_states([paths.prepared()]),
        facts=[
            f"data: {paths.shown(settings.data_root)} ({_describe_data(settings)})",
            f"{total:,} slices ({train:,} training, {test:,} test{origin}), "
            f"{format_bytes(raw_bytes(settings, total))} to read",
        ],
        disk_bytes=int(total * SYNTHETIC_BYTES_PER_PIXEL * settings.phantom.rows**2) if settings.is_phantom else 0,
        faults=_faults(settings, is_countable=counts is not None),
    )


def _describe_data(settings: Settings) -> str:
    exists = settings.data_root.is_dir()
    if settings.is_phantom:
        return "synthetic" if exists else "synthetic; this stage generates it"
    return "yours, read only" if exists else "not found"


def _faults(settings: Settings, *, is_countable: bool) -> list[str]:
    root = settings.data_root
    if is_countable:
        return []
    if not root.is_dir():
        return [f"Data not found: {root}: no such folder. Expected a contest tree. Correct --data"]
    return [f"Not a contest tree: {root}. Expected train.csv and test.csv in it. Correct --data"]


def _count_rows(path: Path) -> int:
    """Rows of a CSV below its header."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        return max(0, sum(block.count(b"\n") for block in blocks) - 1)
