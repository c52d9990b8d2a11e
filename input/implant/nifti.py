"""CT volumes from NIfTI files (.nii, .nii.gz), read with nibabel and brought into canonical orientation.

The world axes of NIfTI run to the patient's right, front and head; those of this project to the left, back and head.
Only volumes whose array axes are parallel to the patient's axes are accepted.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from pipeline.errors import UserError

MAX_VOXELS = 2**30  # no chest CT is larger
MAX_OBLIQUITY = np.arccos(0.999)  # angle between an array axis and the patient's axis, radians
#: Raised by nibabel for files that are not NIfTI, damaged or truncated.
READ_ERRORS = (OSError, EOFError, MemoryError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)


@dataclass(frozen=True)
class CtVolume:
    """A CT volume in canonical orientation."""

    hu: np.ndarray  # int16 (z, y, x), [-1024, 3071]; z to the head, y to the back, x to the patient's left
    spacing_mm: tuple[float, float, float]  # (z, y, x)


def read_nifti(path: Path) -> CtVolume:
    """Read a CT volume. Attenuation is clipped to [-1024, 3071] HU, so padding becomes air.

    Raises:
        UserError: not a NIfTI file, damaged or truncated, not one volume of real numbers, too large, or with
            oblique or unknown orientation. The message does not name the file.
    """
    try:
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):
            raise UserError(f"Unknown file format. Expected NIfTI, got {type(image).__name__}.")
        _check_header(image)
        affine = np.asarray(image.affine)
        orientation = _orientation(affine)
        hu = _attenuation(image)
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"Unreadable NIfTI file ({reason}). Expected a complete .nii or .nii.gz file.") from error
    canonical = nib.apply_orientation(hu, orientation).transpose(2, 1, 0)
    x, y, z = nib.affines.voxel_sizes(affine @ nib.orientations.inv_ornt_aff(orientation, hu.shape)).tolist()
    return CtVolume(np.ascontiguousarray(canonical), (z, y, x))


def _check_header(image: nib.Nifti1Image) -> None:
    """Check shape, data type and orientation codes before any voxel is read."""
    shape = image.shape
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or min(shape[:3]) < 2:
        raise UserError(f"Not a single volume. Expected at least 2 x 2 x 2 voxels, got shape {shape}.")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise UserError(f"Volume too large. Expected at most {MAX_VOXELS} voxels, got shape {shape}.")
    if image.get_data_dtype().kind not in "iuf":
        raise UserError(f"Unsupported data type. Expected integers or floats, got {image.get_data_dtype()}.")
    if image.header["sform_code"] <= 0 and image.header["qform_code"] <= 0:
        raise UserError("Unknown orientation: sform_code and qform_code are 0. Set one of them.")


def _orientation(affine: np.ndarray) -> np.ndarray:
    """Return the transform (see nibabel.orientations) from array axes to x, y, z of the canonical orientation."""
    if not np.isfinite(affine).all() or not nib.affines.voxel_sizes(affine).all():
        raise UserError("Invalid orientation: the affine is singular or not finite.")
    orientation = nib.io_orientation(affine)
    if np.isnan(orientation).any() or not (nib.affines.obliquity(affine) < MAX_OBLIQUITY).all():
        raise UserError("Oblique volume. Expected axes parallel to the patient's. Resample it to axial slices.")
    return nib.orientations.ornt_transform(orientation, nib.orientations.axcodes2ornt("LPS"))


def _attenuation(image: nib.Nifti1Image) -> np.ndarray:
    """Return the rescaled voxels (i, j, k), int16 HU, in single precision where the stored type permits."""
    proxy = cast(ArrayProxy, image.dataobj)  # as for every image that was read from a file
    stored = proxy.get_unscaled().reshape(image.shape[:3])
    hu = np.nan_to_num(stored * np.float32(proxy.slope) + np.float32(proxy.inter), nan=-1024)
    return np.rint(np.clip(hu, -1024, 3071)).astype(np.int16)
