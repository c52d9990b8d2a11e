"""Clot masks that come with a contest tree: which voxels of a training exam are clot.

    <tree>/masks/<StudyInstanceUID>.nii.gz (or .nii)    yours: any value above 0 is clot
    <tree>/truth/masks/<StudyInstanceUID>.npz           of synthetic and implanted exams, with region and age

A NIfTI mask has the rows, columns and slices of its series; its affine says how they are oriented. Masks of exams that
are not in train.csv are never read.
"""

from pathlib import Path

import numpy as np

from pipeline.errors import UserError

#: Codes of a mask. A code of 8 more is chronic; UNKNOWN says nothing about region and age.
TRUNK, RIGHT_MAIN, LEFT_MAIN, RIGHT_LUNG, LEFT_LUNG = 1, 2, 3, 4, 5
UNKNOWN = 7
CHRONIC_BIT = 8
#: Folder of a synthetic contest's masks, relative to the tree.
MASKS = "truth/masks"
#: Voxels of the largest accepted mask: about 2,000 slices of 1024 x 1024.
MOST_VOXELS = 2**31


def find_masks(tree: Path) -> dict[str, Path]:
    """StudyInstanceUID -> file of every clot mask of a tree, test exams' included; a NIfTI file wins."""
    files = {path.name.removesuffix(".npz"): path for path in sorted((tree / MASKS).glob("*.npz"))}
    for path in sorted((tree / "masks").glob("*.nii*")):
        files[path.name.removesuffix(".gz").removesuffix(".nii")] = path
    return files


def read_mask(tree: Path, study: str, path: Path) -> np.ndarray:
    """Read one mask.

    Args:
        tree: the contest tree.
        study: StudyInstanceUID.
        path: its file, from `find_masks`.

    Returns:
        uint8 codes (z, y, x): z to the head, y to the back, x to the patient's left.

    Raises:
        UserError: the file cannot be read, or is not a three-dimensional mask.
    """
    if path.suffix == ".npz":
        from input.phantom.synthetic_contest import read_masks  # the generator takes long to import

        return read_masks(tree, study)[0]
    import nibabel

    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))  # axes to the right, front and head
        if len(image.shape) != 3 or int(np.prod(image.shape, dtype=np.int64)) > MOST_VOXELS:
            raise ValueError(f"expected three dimensions and at most {MOST_VOXELS} voxels, got shape {image.shape}")
        voxels = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as fault:
        raise UserError(f"clot mask cannot be read: {path}: {fault}. Replace or remove the file.") from fault
    canonical = voxels[::-1, ::-1].transpose(2, 1, 0)
    return np.where(canonical > 0, np.uint8(UNKNOWN), np.uint8(0))


def read_arteries(tree: Path, study: str) -> np.ndarray | None:
    """Read the pulmonary arteries of a synthetic exam, with their clots.

    Args:
        tree: a synthetic contest tree. In a tree of implanted clots only the detected arteries are known.
        study: StudyInstanceUID.

    Returns:
        uint8 (z, y, x), 1 in arteries, on the grid of `read_mask`; None if the tree does not have them.
    """
    if not (tree / "truth" / "masks" / f"{study}.npz").is_file():
        return None
    from input.phantom.synthetic_contest import read_masks  # the generator takes long to import

    return read_masks(tree, study)[1].view(np.uint8)
