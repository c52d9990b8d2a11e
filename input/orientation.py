"""Which way a slice lies in the patient, and how it is turned to the radiological display.

Axes are the patient's (DICOM PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the head. The
canonical array has columns growing to the patient's left and rows to the back, whatever the patient's
position on the table and whatever the reconstruction mirrored, so left stays left.
"""

from typing import TypeVar

import numpy as np

from input.slice_faults import DicomFault

Vector = tuple[float, float, float]
Value = TypeVar("Value")

#: |z| of a slice's normal below this is no axial slice. A gantry tilts by 30 degrees at most (cos = 0.87).
MIN_AXIAL_COSINE = 0.85


def patient_axes(orientation: tuple[float, ...]) -> tuple[Vector, Vector, Vector]:
    """Split ImageOrientationPatient into unit vectors.

    Returns:
        The direction of growing columns, of growing rows, and the slice normal turned to the head.

    Raises:
        DicomFault: not two perpendicular unit vectors, or the slice is not axial.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(0.98 < length < 1.02 for length in lengths) or abs(row @ column) > 0.02:
        raise DicomFault(f"ImageOrientationPatient {list(orientation)} is not two perpendicular unit vectors")
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    if abs(normal[2]) < MIN_AXIAL_COSINE:
        plane = ("sagittal", "coronal", "oblique")[_dominant(normal)]
        raise DicomFault(f"not an axial slice but {plane}: its normal is {np.round(normal, 2).tolist()}")
    upwards = normal if normal[2] > 0 else -normal
    return _vector(row), _vector(column), _vector(upwards)


def to_display(pixels: np.ndarray, row_direction: Vector, column_direction: Vector) -> np.ndarray:
    """Turn a slice (rows, columns) so that columns grow to the patient's left and rows to the back.

    Only flips and a transposition: in-plane rotations stay within 45 degrees of what they were.
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
    """Whether the transmitted columns grow along the patient's front-back axis."""
    return abs(row_direction[1]) > abs(row_direction[0])


def display_order(pair: tuple[Value, Value], row_direction: Vector) -> tuple[Value, Value]:
    """Turn a (row-wise, column-wise) pair, such as spacing or shape, into the display's (y, x)."""
    return (pair[1], pair[0]) if is_transposed(row_direction) else pair


def _dominant(normal: np.ndarray) -> int:
    strongest = int(np.argmax(np.abs(normal)))
    return strongest if abs(normal[strongest]) >= MIN_AXIAL_COSINE else 2


def _vector(values: np.ndarray) -> Vector:
    return tuple(float(value) for value in values)
