"""A plain ingest loop as contest repositories write it: the reference of the benchmark of the ingest.

pydicom reads a file, its pixels become HU in floating point, the plane is resampled, and the stack of an exam is saved
with numpy. The lung box and the resampling weights are this project's, so that both arrays agree up to rounding. The
loop computes no checksum, validates no file, does not survive a broken one and measures nothing.
"""

from pathlib import Path

import numpy as np
import pydicom

from features.lung_box import find_lung_box
from features.resample import axis_weights
from input.pixels import HU_MAX, HU_MIN


def ingest_plainly(folder: Path, out: Path, spacing_mm: float, compressed: bool) -> None:
    """Ingest one exam; axes as in the pixel store, feet to head.

    Args:
        folder: the exam's DICOM files.
        out: the file to write, without suffix.
        spacing_mm: in-plane spacing of the result.
        compressed: use np.savez_compressed instead of np.save.
    """
    datasets = [pydicom.dcmread(file) for file in folder.iterdir()]
    datasets.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    planes = []
    for dataset in datasets:
        hu = dataset.pixel_array.astype(np.float64) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        hu = np.clip(hu, HU_MIN, HU_MAX)
        orientation = [float(cosine) for cosine in dataset.ImageOrientationPatient]
        hu = hu[:, ::-1] if orientation[0] < 0 else hu
        hu = hu[::-1] if orientation[4] < 0 else hu
        planes.append(hu.astype(np.int16))
    stack = np.stack(planes)
    y_mm, x_mm = (float(spacing) for spacing in datasets[0].PixelSpacing)
    box = find_lung_box(stack, (y_mm, x_mm))
    down = axis_weights(box.y0, box.y1, stack.shape[1], y_mm, spacing_mm)
    across = axis_weights(box.x0, box.x1, stack.shape[2], x_mm, spacing_mm).T
    rows, columns = np.flatnonzero(down.any(axis=0)), np.flatnonzero(across.any(axis=1))
    stack = stack[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down, across = down[:, rows].copy(), across[columns].copy()
    stored = np.stack([np.rint(down @ plane.astype(np.float32) @ across) for plane in stack]).astype(np.int16)
    (np.savez_compressed if compressed else np.save)(out, stored)
