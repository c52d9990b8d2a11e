"""NIfTI volumes come out in canonical order, whatever their array order; what is unclear is refused."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from input.implant.nifti import read_nifti
from pipeline.errors import UserError

SIZE_MM = (0.7, 0.8, 2.5)  # x, y, z


def volume() -> np.ndarray:
    """HU (z, y, x), canonical: every voxel differs."""
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 60


def write(
    path: Path, stored: np.ndarray, affine: np.ndarray, *, slope: float = 1.0, intercept: float = 0.0, order: str = "<",
    sform: int = 1,
) -> None:  # fmt: skip
    """`stored` (i, j, k) as int16 with the affine's 3x3 part (columns: array axes)."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, *stored.shape, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, 4, 16)
    struct.pack_into(f"{order}3f", header, 108, 352, slope, intercept)
    struct.pack_into(f"{order}2h", header, 252, 0, sform)
    struct.pack_into(f"{order}12f", header, 280, *np.column_stack([affine, np.zeros(3)]).ravel())
    header[344:348] = b"n+1\0"
    data = bytes(header) + stored.astype(f"{order}i2").tobytes(order="F")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
def test_every_direction_of_the_axes_comes_out_the_same(name: str, order: str, signs: tuple, tmp_path: Path) -> None:
    # NIfTI's x runs to the right and its y to the front: -1 means the canonical direction there.
    flips = tuple(slice(None, None, 1 if s == c else -1) for s, c in zip(signs, (-1, -1, 1), strict=True))
    stored = volume().transpose(2, 1, 0)[flips]
    write(tmp_path / name, stored, np.diag(np.array(SIZE_MM) * signs), order=order)
    read = read_nifti(tmp_path / name)
    assert np.array_equal(read.hu, volume())
    assert read.spacing_mm == pytest.approx(SIZE_MM[::-1])


def test_permuted_axes_and_a_rescaling_are_followed(tmp_path: Path) -> None:
    stored = (volume() + 1024).transpose(0, 2, 1)  # i: z, j: x, k: y
    affine = np.array([[0, -0.7, 0], [0, 0, -0.8], [2.5, 0, 0]])
    write(tmp_path / "a.nii", stored, affine, intercept=-1024.0)
    read = read_nifti(tmp_path / "a.nii")
    assert np.array_equal(read.hu, volume())
    assert read.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_what_is_unclear_is_refused_with_the_reason(tmp_path: Path) -> None:
    path, stored = tmp_path / "a.nii", volume().transpose(2, 1, 0)
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    for make, expected in (
        (lambda: write(path, stored, turn), "oblique"),
        (lambda: write(path, stored, np.eye(3), sform=0), "how the patient lies"),
        (lambda: path.write_bytes(b"\0" * 400), "not a NIfTI-1 file"),
        (lambda: path.write_bytes(_good(tmp_path, stored)[:-10]), "truncated"),
        (lambda: path.write_bytes(_begins_at(np.nan, _good(tmp_path, stored))), "begin at byte nan"),
        (lambda: path.write_bytes(_begins_at(-8, _good(tmp_path, stored))), "begin at byte -8"),
    ):
        make()
        with pytest.raises(UserError, match=expected):
            read_nifti(path)


def _good(folder: Path, stored: np.ndarray) -> bytes:
    write(folder / "good.nii", stored, np.diag([-1.0, -1.0, 1.0]))
    return (folder / "good.nii").read_bytes()


def _begins_at(offset: float, file: bytes) -> bytes:
    return file[:108] + np.float32(offset).tobytes() + file[112:]
