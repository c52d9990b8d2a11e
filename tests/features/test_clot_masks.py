"""Clot masks of a contest tree on the grid of the pixel store."""

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from features.clot_masks import mask_on_store, slice_natures
from features.lung_box import Box
from input.clot_masks import UNKNOWN, find_masks, read_mask
from pipeline.errors import UserError


def stored(shape: tuple[int, int, int], raw: tuple[float, float], spacing: tuple[float, float], box: Box):
    """What the functions read of a stored exam."""
    return SimpleNamespace(
        study="a", hu=np.zeros(shape, np.int16), box=box, spacing_mm=spacing, raw_spacing_mm=raw, has_spacing=True,
        sop_uids=tuple(f"s{index}" for index in range(shape[0])), middle_column=shape[2] / 2,
    )  # fmt: skip


def test_the_nearest_raw_voxel_is_taken() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    exam = stored((1, 2, 3), (1.0, 1.0), (2.0, 2.0), Box(2, 6, 1, 7, 0, 1, 4.0, True))
    # Output pixels of 2 mm: rows centred at 3 and 5, columns at 2, 4 and 6 (pixel edges, so the higher pixel).
    np.testing.assert_array_equal(mask_on_store(codes, exam)[0], codes[0][np.ix_([3, 5], [2, 4, 6])])


def test_a_slice_has_the_sides_and_ages_of_its_clots() -> None:
    codes = np.zeros((4, 4, 6), np.uint8)
    codes[0, 0, 5] = 5
    codes[1, 0, 0] = 2 + 8
    codes[2, 0, 1] = UNKNOWN
    exam = stored(codes.shape, (1.0, 1.0), (2.0, 2.0), Box(0, 4, 0, 6, 0, 1, 3.0, True))
    table = slice_natures(codes, exam).set_index("SOPInstanceUID")
    assert table.loc["s0", ["left", "right", "central", "chronic", "acute"]].tolist() == [1, 0, 0, 0, 1]
    assert table.loc["s1", ["left", "right", "central", "chronic", "acute"]].tolist() == [0, 1, 1, 1, 0]
    assert table.loc["s2", ["left", "right"]].tolist() == [0, 1]
    assert table.loc["s2", ["central", "chronic", "acute"]].isna().all()
    assert table["clot_mm2"].tolist() == [4, 4, 4, 0]


def test_a_nifti_mask_is_turned_to_the_patients_axes(tmp_path: Path) -> None:
    voxels = np.zeros((5, 6, 7), np.uint8)  # axes to the left, back and head, as its affine says
    voxels[4, 1, 2] = 1
    (tmp_path / "masks").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "masks" / "1.2.nii.gz")
    files = find_masks(tmp_path)
    assert list(files) == ["1.2"]
    codes = read_mask(tmp_path, "1.2", files["1.2"])
    assert codes.shape == (7, 6, 5)
    assert np.argwhere(codes).tolist() == [[2, 1, 4]]
    assert codes[2, 1, 4] == UNKNOWN


def test_a_damaged_mask_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / "a.nii"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.nii"):
        read_mask(tmp_path, "a", path)
