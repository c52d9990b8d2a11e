"""Source scans for implanted clots: a DICOM series or a NIfTI volume in canonical orientation."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from input.implant.nifti import read_nifti
from input.phantom.raster import Grid
from input.safe_decoding import read_series_safely
from input.slice_order import slice_step_mm
from pipeline.errors import UserError

MIN_SLICES = 20
MAX_ANISOTROPY = 0.01  # relative difference of the pixel spacings along y and x
MAX_STEP_ERROR = 0.1  # deviation of a slice distance from the median, relative


@dataclass(frozen=True)
class SourceScan:
    """A real scan in canonical orientation."""

    name: str
    hu: np.ndarray  # int16 (z, y, x)
    grid: Grid
    study: str = ""  # StudyInstanceUID; empty for NIfTI

    @cached_property
    def digest(self) -> str:
        """Identifies the scan by its content, so that identifiers from several runs do not collide."""
        return hashlib.sha256(self.hu.tobytes()).hexdigest()[:12]


def read_source(path: Path) -> SourceScan:
    """Read a scan: a NIfTI volume, or the series for PE detection in a DICOM folder or zip archive.

    Raises:
        UserError: unreadable, pixels not square, or slices too few or unevenly spaced.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        volume = read_nifti(path)
        hu, (step, *spacing), study = volume.hu, volume.spacing_mm, ""
        z = step * np.arange(len(hu))
    else:
        series = read_series_safely(path)
        hu, z, spacing, study = series.hu, series.z_mm, list(series.spacing_mm), series.study_uid
        step = slice_step_mm(z.tolist())
    if len(hu) < MIN_SLICES:
        raise UserError(f"Too few slices. Expected a whole chest of at least {MIN_SLICES}, got {len(hu)}.")
    if abs(spacing[0] / spacing[1] - 1) > MAX_ANISOTROPY:
        raise UserError(f"Pixels are not square. Expected equal spacing, got {spacing[0]:.3f} x {spacing[1]:.3f} mm.")
    uneven = np.abs(np.diff(z) - step) > MAX_STEP_ERROR * step
    if uneven.any():
        raise UserError(
            f"Uneven slice distance. Expected {step:.2f} mm throughout, got {int(uneven.sum())} gaps or repeats."
        )
    y, x = ((np.arange(n) - (n - 1) / 2) * spacing[1] for n in hu.shape[1:])
    return SourceScan(path.name, hu, Grid(x, y, z, float(step)), study)
