"""Map positions in the store to positions in the source images.

Stored slices are in display orientation, cropped to the lung box and resampled; source images may be mirrored or
transposed.
"""

import numpy as np
from pydicom.dataset import Dataset

from features.resample import output_centres
from features.store import StoredExam
from input.orientation import patient_axes, to_display


def stored_to_source(exam: StoredExam, header: Dataset) -> np.ndarray:
    """The affine map from stored pixels to the pixels of a source image.

    Args:
        exam: the stored exam.
        header: of a source slice: Rows, Columns, ImageOrientationPatient.

    Returns:
        float64 (2, 3), from stored (x, y) to (column, row) as transmitted. Pixel centres are at whole numbers on both
        sides.
    """
    display_to_source = _display_to_source(header)
    stored_to_display = np.vstack([_stored_to_display(exam), [0, 0, 1]])
    return display_to_source @ stored_to_display


def _stored_to_display(exam: StoredExam) -> np.ndarray:
    """The affine map (2, 3) from stored (x, y) to pixels (x, y) of the whole slice in display orientation."""
    # Without spacing the raw pixels were stored.
    y_scale, x_scale = np.divide(exam.spacing_mm, exam.raw_spacing_mm) if exam.has_spacing else (1.0, 1.0)
    _, height, width = exam.hu.shape
    box = exam.box
    # output_centres counts from a pixel's edge.
    x = output_centres(box.x0, box.x1, width, x_scale)[0] - 0.5
    y = output_centres(box.y0, box.y1, height, y_scale)[0] - 0.5
    return np.array([[x_scale, 0, x], [0, y_scale, y]])


def _display_to_source(header: Dataset) -> np.ndarray:
    """The affine map (2, 3) from pixels (x, y) of the whole slice in display orientation to (column, row)."""
    row_direction, column_direction, _ = patient_axes(tuple(float(value) for value in header.ImageOrientationPatient))
    indices = np.indices((int(header.Rows), int(header.Columns)))
    row, column = (to_display(index, row_direction, column_direction) for index in indices)
    return np.array(
        [[axis[0, 1] - axis[0, 0], axis[1, 0] - axis[0, 0], axis[0, 0]] for axis in (column, row)], dtype=float
    )
