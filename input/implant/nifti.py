"""Reads a CT volume from a NIfTI-1 file (.nii, .nii.gz): one header, one array, nothing else.

The header's world axes run to the patient's right, front and head (NIfTI-1 standard, nifti1.h); this
project's run to the left, back and head. Only scans whose axes lie along the patient's are taken.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError

HEADER_BYTES = 348
#: NIfTI datatype code -> numpy type without byte order.
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
MOST_VOXELS = 2048 * 2048 * 2048 // 8  # a file that asks for more is not a chest CT
LEAST_COSINE = 0.999  # of the angle between an array axis and the patient's axis


@dataclass(frozen=True)
class CtVolume:
    """A CT volume in canonical order."""

    hu: np.ndarray  # int16 (z, y, x), [-1024, 3071]; z to the head, y to the back, x to the patient's left
    spacing_mm: tuple[float, float, float]  # (z, y, x)


def read_nifti(path: Path) -> CtVolume:
    """Read a CT volume; attenuation is clipped to [-1024, 3071] HU, so padding becomes air.

    Raises:
        UserError: no NIfTI-1 file, no volume of a known type, truncated, or axes that are oblique or unknown.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            shape, kind, offset, slope, intercept, affine = _parse(header, path)
            count = int(np.prod(shape))
            file.seek(offset)
            raw = file.read(count * kind.itemsize)
    except (OSError, EOFError, zlib.error) as fault:
        raise UserError(f"{path}: unreadable: {fault}") from fault
    if len(raw) < count * kind.itemsize:
        raise UserError(f"{path}: truncated: {len(raw)} of {count * kind.itemsize} bytes of voxels")
    stored = np.frombuffer(raw, kind).reshape(shape, order="F")
    hu = np.clip(np.nan_to_num(stored * np.float32(slope) + np.float32(intercept), nan=-1024), -1024, 3071)
    return _canonical(np.rint(hu).astype(np.int16), affine, path)


def _parse(header: bytes, path: Path) -> tuple[tuple[int, int, int], np.dtype, int, float, float, np.ndarray]:
    """Shape, type, offset, slope, intercept and the 3x3 part of the affine (columns: array axes)."""
    order = next((o for o in "<>" if len(header) == HEADER_BYTES and _number(header, o, "i4", 0) == HEADER_BYTES), None)
    if order is None or header[344:347] != b"n+1":
        raise UserError(f"{path}: not a NIfTI-1 file with its voxels inside (.nii or .nii.gz)")
    dims = np.frombuffer(header, f"{order}i2", 8, 40).tolist()
    shape, code = tuple(dims[1:4]), _number(header, order, "i2", 70)
    if dims[0] not in (3, 4) or (dims[0] == 4 and dims[4] > 1) or min(shape) < 2 or np.prod(shape) > MOST_VOXELS:
        raise UserError(f"{path}: expected one volume of at least 2 x 2 x 2 voxels, found dimensions {dims}")
    if code not in TYPES:
        raise UserError(f"{path}: voxel type {code} is not read; known: {', '.join(map(str, TYPES))}")
    slope, intercept = _number(header, order, "f4", 112), _number(header, order, "f4", 116)
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0  # the standard: zero means that the stored values are the values
    offset = _number(header, order, "f4", 108)
    if not HEADER_BYTES <= offset < 2**31:  # false for NaN too
        raise UserError(f"{path}: its voxels begin at byte {offset:g}; expected {HEADER_BYTES} or later")
    return shape, np.dtype(order + TYPES[code]), int(offset), slope, intercept, _affine(header, order, path)


def _affine(header: bytes, order: str, path: Path) -> np.ndarray:
    if _number(header, order, "i2", 254) > 0:
        return np.frombuffer(header, f"{order}f4", 12, 280).reshape(3, 4)[:, :3].astype(float)
    if _number(header, order, "i2", 252) > 0:
        b, c, d = np.frombuffer(header, f"{order}f4", 3, 256).astype(float).tolist()
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        flip, *size = np.frombuffer(header, f"{order}f4", 4, 76).astype(float).tolist()
        return turn * np.array([size[0], size[1], size[2] * (-1 if flip < 0 else 1)])
    raise UserError(f"{path}: its header does not say how the patient lies (sform and qform codes are 0)")


def _canonical(stored: np.ndarray, affine: np.ndarray, path: Path) -> CtVolume:
    """Array axes (i, j, k) -> (z, y, x), rising to the head, back and left."""
    size = np.linalg.norm(affine, axis=0)
    cosines = np.diag([-1.0, -1.0, 1.0]) @ affine / np.maximum(size, 1e-9)  # rows: left, back, head
    axis_of = np.abs(cosines).argmax(axis=1)
    along = cosines[np.arange(3), axis_of]
    if sorted(axis_of.tolist()) != [0, 1, 2] or np.abs(along).min() < LEAST_COSINE:
        raise UserError(f"{path}: its axes are oblique to the patient's; resample it onto axial slices first")
    turned = stored.transpose(axis_of[::-1])
    turned = turned[tuple(slice(None, None, 1 if sign > 0 else -1) for sign in along[::-1])]
    return CtVolume(np.ascontiguousarray(turned), tuple(float(size[i]) for i in axis_of[::-1]))


def _number(header: bytes, order: str, kind: str, offset: int) -> float:
    return np.frombuffer(header, order + kind, 1, offset)[0].item()
