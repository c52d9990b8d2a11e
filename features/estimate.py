"""Duration of the ingest, size of the pixel store, and the plan of the features stage; standard library only.

Rates are of one core of an x86 server with AVX-512 (2020s); an old laptop takes twice as long.
"""

from input.estimate import CONTEST_ROWS, expected_slices, image_rows
from pipeline import paths
from pipeline.estimates import Hardware, Rate, compared_hardware
from pipeline.settings import Settings
from pipeline.stage_plan import StagePlan, artifact_states

RATES = {
    "header": Rate(0.9, "ms of one core per file", "./run.sh bench ingest_speed, 'read' + 'header'"),
    "raw": Rate(1.9, "ms of one core per slice of 512 x 512", "./run.sh bench ingest_speed, 'read' to 'lung box'"),
    "stored": Rate(2.8, "ms of one core per slice stored at 0.75 mm", "./run.sh bench ingest_speed, other steps"),
    "lossless": Rate(6.0, "ms of one core per JPEG Lossless slice of 512 x 512", "pydicom with gdcm, one core"),
    "disk": Rate(200.0, "MB/s of reading raw files", "assumed: a network disk"),
}
#: In-plane spacing (mm) of the rate "stored".
RATE_SPACING_MM = 0.75
#: Share of the contest's exams in JPEG Lossless (a sample of 40).
LOSSLESS_SHARE = 0.08

#: Size of a stored slice at STORE_SPACING_MM, measured on the default run (synthetic exams, 224 pixels per side).
STORE_BYTES_PER_SLICE = 24_000
STORE_SPACING_MM = 1.4
#: Real scans have more noise than synthetic ones and compress less.
REAL_SCAN_FACTOR = 1.5


def ingest_hours(settings: Settings, slices: int, hardware: Hardware) -> float:
    """Hours from raw files to the store: the larger of the cores' time and the disk's.

    Args:
        settings: the experiment; image size and store spacing matter.
        slices: number of slices.
        hardware: number of cores.
    """
    pixels = (image_rows(settings) / CONTEST_ROWS) ** 2
    stored = (RATE_SPACING_MM / settings.features.spacing_mm) ** 2
    work_ms = (
        RATES["header"].value
        + pixels * (RATES["raw"].value + LOSSLESS_SHARE * RATES["lossless"].value)
        + stored * RATES["stored"].value
    )
    megabytes = slices * pixels * 2 * CONTEST_ROWS**2 / 1e6
    return max(slices * work_ms / 1e3 / hardware.cores, megabytes / RATES["disk"].value) / 3600


def store_bytes(settings: Settings, slices: int) -> int:
    """Approximate size of the pixel store."""
    per_slice = STORE_BYTES_PER_SLICE * (STORE_SPACING_MM / settings.features.spacing_mm) ** 2
    return int(slices * per_slice * (1 if settings.is_phantom else REAL_SCAN_FACTOR))


def plan_stage(settings: Settings) -> StagePlan:
    """State and estimated needs of `./run.sh features build`."""
    slices = sum(expected_slices(settings))
    return StagePlan(
        "features",
        artifact_states([paths.store()]),
        disk_bytes=store_bytes(settings, slices),
        hours={hardware.name: ingest_hours(settings, slices, hardware) for hardware in compared_hardware()},
        assumptions=["ingest: measured rates of one core, an assumed network disk (features/estimate.py)"],
    )
