"""NIfTI volumes are read in canonical orientation for any array order; unusable files are refused."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input.implant import nifti
from input.implant.nifti import read_nifti
from pipeline.errors import UserError

SPACING_MM = (0.7, 0.8, 2.5)  # x, y, z
#: Byte offsets in the NIfTI-1 header (nifti1.h).
DIM_1, VOX_OFFSET, SROW_Y = 42, 108, 296


def canonical_volume() -> np.ndarray:
    """HU (z, y, x) in canonical orientation; every voxel differs."""
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 60


def image(stored: np.ndarray, axes: np.ndarray, *, endianness: str = "<") -> nib.Nifti1Image:
    """An image of the array `stored` (i, j, k); `axes` (3, 3) has the array axes in RAS mm as columns."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(stored.dtype)
    return nib.Nifti1Image(stored, affine, header)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
def test_flipped_axes_give_the_same_volume(name: str, endianness: str, signs: tuple, tmp_path: Path) -> None:
    # The canonical x and y run opposite to those of NIfTI: sign -1 is the canonical direction there.
    flips = tuple(slice(None, None, 1 if s == c else -1) for s, c in zip(signs, (-1, -1, 1), strict=True))
    stored = canonical_volume().transpose(2, 1, 0)[flips]
    nib.save(image(stored, np.diag(np.array(SPACING_MM) * signs), endianness=endianness), tmp_path / name)
    volume = read_nifti(tmp_path / name)
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, canonical_volume())
    assert volume.spacing_mm == pytest.approx(SPACING_MM[::-1])


def test_permuted_axes_and_rescaling_are_applied(tmp_path: Path) -> None:
    stored = canonical_volume().transpose(0, 2, 1) + 1024  # i: z, j: x, k: y
    scan = image(stored, np.array([[0, -0.7, 0], [0, 0, -0.8], [2.5, 0, 0]]))
    scan.header.set_slope_inter(1.0, -1024.0)
    nib.save(scan, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert np.array_equal(volume.hu, canonical_volume())
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_orientation_of_the_qform_is_used_without_an_sform(tmp_path: Path) -> None:
    scan = image(canonical_volume().transpose(2, 1, 0)[::-1], np.diag([0.7, -0.8, 2.5]))
    scan.set_qform(scan.affine, code=1)
    scan.set_sform(None, code=0)
    nib.save(scan, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert np.array_equal(volume.hu, canonical_volume())
    assert volume.spacing_mm == pytest.approx(SPACING_MM[::-1])


def test_padding_and_missing_values_become_air(tmp_path: Path) -> None:
    stored = canonical_volume().transpose(2, 1, 0).astype(np.float32)
    stored[0, 0, 0], stored[1, 0, 0], stored[2, 0, 0] = np.nan, -3000, 9000
    nib.save(image(stored, np.diag([-0.7, -0.8, 2.5])), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").hu[0, 0, :3].tolist() == [-1024, -1024, 3071]


def test_unusable_volumes_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, path = canonical_volume().transpose(2, 1, 0), tmp_path / "a.nii"
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    without_orientation = image(stored, np.eye(3))
    without_orientation.set_sform(None, code=0)
    without_orientation.set_qform(None, code=0)
    series = image(np.stack([stored, stored], axis=3), np.eye(3))
    colour = image(np.zeros(stored.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(3))
    for scan, reason in (
        (image(stored, turn), "Oblique volume"),
        (without_orientation, "Unknown orientation"),
        (series, "Not a single volume"),
        (colour, "Unsupported data type"),
    ):
        nib.save(scan, path)
        with pytest.raises(UserError, match=reason):
            read_nifti(path)
    nib.save(image(stored, np.eye(3)), path)
    data = path.read_bytes()
    path.write_bytes(changed(data, SROW_Y, np.zeros(4, "<f4")))
    with pytest.raises(UserError, match="Invalid orientation"):
        read_nifti(path)
    path.write_bytes(data)
    monkeypatch.setattr(nifti, "MAX_VOXELS", stored.size - 1)
    with pytest.raises(UserError, match="Volume too large"):
        read_nifti(path)


def test_a_size_beyond_the_limit_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(image(canonical_volume().transpose(2, 1, 0), np.eye(3)), path)
    path.write_bytes(changed(path.read_bytes(), DIM_1, np.array([30_000, 30_000, 30_000], "<i2")))
    with pytest.raises(UserError, match="Volume too large"):
        read_nifti(path)


def test_damaged_files_give_one_short_error(tmp_path: Path) -> None:
    good = tmp_path / "good.nii"
    nib.save(image(canonical_volume().transpose(2, 1, 0), np.eye(3)), good)
    data = good.read_bytes()
    nib.save(nib.load(good), tmp_path / "good.nii.gz")
    compressed = (tmp_path / "good.nii.gz").read_bytes()
    for name, content in (
        ("zeros.nii", b"\0" * 400),
        ("empty.nii", b""),
        ("truncated.nii", data[:-10]),
        ("offset_nan.nii", changed(data, VOX_OFFSET, np.array([np.nan], "<f4"))),
        ("offset_negative.nii", changed(data, VOX_OFFSET, np.array([-8.0], "<f4"))),
        ("truncated.nii.gz", compressed[:-30]),
        ("not_gzip.nii.gz", data),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="Unreadable NIfTI file") as error:
            read_nifti(tmp_path / name)
        assert re.fullmatch(r"[^\n]{1,300}", str(error.value)), name


def changed(data: bytes, offset: int, value: np.ndarray) -> bytes:
    """Overwrite the bytes at `offset`."""
    return data[:offset] + value.tobytes() + data[offset + value.nbytes :]
