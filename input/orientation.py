"""Orientation of a slice in the patient, and its conversion to the radiological display orientation.

Axes are the patient's (DICOM PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the head. In display orientation,
columns increase to the patient's left and rows to the back, regardless of the patient's position on the table and of
mirrored reconstructions, so left and right are never swapped.
"""

from typing import TypeVar

import numpy as np

from input.slice_errors import DicomError

Vector = tuple[float, float, float]
Value = TypeVar("Value")

#: Minimum |z| of an axial slice's normal. A gantry tilts by at most 30 degrees (cos = 0.87).
MIN_AXIAL_COSINE = 0.85


def patient_axes(orientation: tuple[float, ...]) -> tuple[Vector, Vector, Vector]:
    """Convert ImageOrientationPatient to unit vectors.

    Args:
        orientation: its six values.

    Returns:
        The direction of increasing columns, the direction of increasing rows, and the slice normal that points to
        the head.

    Raises:
        DicomError: not two perpendicular unit vectors, or the slice is not axial.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(0.98 < length < 1.02 for length in lengths) or abs(row @ column) > 0.02:
        raise DicomError(f"ImageOrientationPatient {list(orientation)} is not two perpendicular unit vectors")
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    if abs(normal[2]) < MIN_AXIAL_COSINE:
        plane = ("sagittal", "coronal", "oblique")[_dominant(normal)]
        raise DicomError(f"not an axial slice but {plane}: its normal is {np.round(normal, 2).tolist()}")
    upwards = normal if normal[2] > 0 else -normal
    return _vector(row), _vector(column), _vector(upwards)


def to_display(pixels: np.ndarray, row_direction: Vector, column_direction: Vector) -> np.ndarray:
    """Bring a slice to display orientation by flips and a transposition; smaller in-plane rotations remain.

    Args:
        pixels: (rows, columns) as transmitted.
        row_direction: unit vector of increasing columns.
        column_direction: unit vector of increasing rows.

    Returns:
        The slice (y, x), contiguous: columns increase to the patient's left, rows to the back.
    """
    if is_transposed(row_direction):
        pixels = pixels.T
        row_direction, column_direction = column_direction, row_direction
    if row_direction[0] < 0:
        pixels = pixels[:, ::-1]
    if column_direction[1] < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def is_transposed(row_direction: Vector) -> bool:
    """Whether the transmitted columns run along the patient's front-back axis."""
    return abs(row_direction[1]) > abs(row_direction[0])


def display_order(pair: tuple[Value, Value], row_direction: Vector) -> tuple[Value, Value]:
    """Convert a (row-wise, column-wise) pair, such as spacing or shape, to (y, x) in display orientation."""
    return (pair[1], pair[0]) if is_transposed(row_direction) else pair


def _dominant(normal: np.ndarray) -> int:
    strongest = int(np.argmax(np.abs(normal)))
    return strongest if abs(normal[strongest]) >= MIN_AXIAL_COSINE else 2


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
