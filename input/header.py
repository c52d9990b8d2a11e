"""Parse and check the header of one untrusted CT slice before anything is allocated for its pixels.

Only the first bytes of a file are parsed, from memory (the pixels follow the header), so a wrong length field cannot
make the parser allocate more than the file contains. Deflated files are refused by their transfer syntax: the size
of an inflated file is under its author's control.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from input.header_limits import DECODERS, check_image, check_length, contradiction_flags
from input.orientation import display_order, patient_axes
from input.slice_errors import DicomError, IncompleteHeaderError

PREAMBLE = 128
HEAD_BYTES = 1 << 14  # headers of the contest take 2 to 4 KiB; two million reads of 64 KiB would be 120 GB
PIXEL_TAG = 0x7FE00010

_CONTEST_UID_WARNING = r"Invalid value for VR UI: '[0-9a-f]{12}'"

_KEYWORDS = (
    "ImageType", "SOPInstanceUID", "Modality", "SeriesDescription", "StudyInstanceUID", "SeriesInstanceUID",
    "PatientPosition", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "RescaleIntercept", "RescaleSlope", "SliceThickness",
    "ContrastBolusAgent",
)  # fmt: skip
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_REQUIRED = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip


@dataclass(frozen=True)
class SliceHeader:
    """The header fields of one axial CT slice that the pipeline uses.

    Positions (mm) and directions (unit vectors) use the patient's axes of DICOM PS3.3 C.7.6.2.1.1: x to the
    patient's left, y to the back, z to the head.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    instance_number: int  # -1 when absent
    position_mm: tuple[float, float, float]  # centre of the first transmitted pixel
    row_direction: tuple[float, float, float]  # of increasing column index
    column_direction: tuple[float, float, float]  # of increasing row index
    rows: int
    columns: int
    shape: tuple[int, int]  # (y, x) in display orientation; rows and columns are swapped for a transposed slice
    spacing_mm: tuple[float, float]  # (y, x) in display orientation
    slope: float
    intercept: float
    transfer_syntax: str
    modality: str
    image_type: tuple[str, ...]
    series_description: str
    slice_thickness_mm: float  # NaN when absent
    contrast_agent: str
    bits_stored: int
    is_signed: bool
    padding_value: int | None
    pixel_offset: int  # of the pixel data's value in the file, bytes
    pixel_length: int  # UNDEFINED_LENGTH when encapsulated
    flags: tuple[str, ...]
    z_mm: float  # position along the slice normal, increasing to the head


def parse_header(data: bytes, path: Path, file_bytes: int) -> SliceHeader:
    """Parse and check the header at the start of a file.

    Args:
        data: the file's first bytes, including the whole header.
        path: stored in the result; the file is not opened.
        file_bytes: size of the whole file, compared with the length of the pixel data.

    Raises:
        IncompleteHeaderError: `data` ends before the header does, or cannot be parsed.
        DicomError: not DICOM, refused, contradictory, or not an axial CT slice.
    """
    try:
        with ignore_contest_uid_warnings():
            dataset, syntax, pixel_element, flags = _read_elements(data)
            if pixel_element is None:
                raise IncompleteHeaderError("no pixel data: the file ends inside its header")
            return _header(dataset, syntax, pixel_element, flags, path, file_bytes)
    except DicomError:
        raise
    except Exception as fault:  # for a malicious header the parser can raise almost anything
        raise IncompleteHeaderError(f"unreadable header: {type(fault).__name__}: {_one_line(fault)}") from fault


@contextmanager
def ignore_contest_uid_warnings() -> Iterator[None]:
    """Silence pydicom's warning about the contest's 12-digit hexadecimal UIDs and no other warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _CONTEST_UID_WARNING, UserWarning)
        yield


# pydicom also logs its warnings, so the same message is filtered from its log.
logging.getLogger("pydicom").addFilter(lambda record: not re.match(_CONTEST_UID_WARNING, record.getMessage()))


def _one_line(fault: BaseException) -> str:
    return " ".join(str(fault).split())[:160]


def _read_elements(data: bytes) -> tuple[Dataset, str, tuple[str | None, int, int] | None, list[str]]:
    """Read the needed elements.

    Returns:
        The elements, the transfer syntax, (VR, length, offset) of the pixel data or None, and flags.
    """
    if data[PREAMBLE : PREAMBLE + 4] != b"DICM":
        raise DicomError("not a DICOM file: no DICM marker at byte 128")
    stream = BytesIO(data)
    stream.seek(PREAMBLE + 4)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == DeflatedExplicitVRLittleEndian:
        raise DicomError("transfer syntax Deflated is refused")
    if syntax not in DECODERS:
        raise DicomError(f"transfer syntax {UID(syntax).name or 'missing'} is not supported")
    little = syntax != ExplicitVRBigEndian
    implicit = syntax == ImplicitVRLittleEndian
    flags = []
    vr_bytes = data[stream.tell() + 4 : stream.tell() + 6]
    if (vr_bytes.isalpha() and vr_bytes.isupper()) == implicit:
        implicit = not implicit
        flags.append("vr_contradicts_syntax")
    pixel_data: list[tuple[str | None, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        number = int(tag)  # comparing pydicom's tags takes a tenth of the whole reading time
        if number == PIXEL_TAG:
            pixel_data.append((vr, length))
        return number >= PIXEL_TAG

    dataset = read_dataset(stream, implicit, little, stop_when=at_pixels, specific_tags=list(_TAGS))
    if not pixel_data:
        return dataset, syntax, None, flags
    vr, length = pixel_data[0]
    # pydicom leaves the stream at the element that stopped it: tag (4 bytes), then VR and length (8 for OB/OW) or
    # length (4).
    offset = stream.tell() + (8 if implicit else 12)
    return dataset, syntax, (vr, length, offset), flags


def _header(
    dataset: Dataset,
    syntax: str,
    pixel_element: tuple[str | None, int, int],
    flags: list[str],
    path: Path,
    file_bytes: int,
) -> SliceHeader:
    missing = [keyword for keyword in _REQUIRED if dataset.get(keyword) in (None, "")]
    if missing:
        raise DicomError(f"missing from the header: {', '.join(missing)}")
    _, length, offset = pixel_element
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    check_image(dataset, rows, columns)
    check_length(syntax, rows, columns, length, offset, file_bytes)
    x, y, z = _numbers(dataset, "ImagePositionPatient", 3)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    row_spacing, column_spacing = _numbers(dataset, "PixelSpacing", 2)
    spacing = (row_spacing, column_spacing)
    (slope,), (intercept,) = _numbers(dataset, "RescaleSlope", 1), _numbers(dataset, "RescaleIntercept", 1)
    if not all(0.05 <= distance <= 10 for distance in spacing):
        raise DicomError(f"PixelSpacing {spacing} mm is impossible for a CT slice")
    if slope == 0:
        raise DicomError("RescaleSlope is 0")
    row_direction, column_direction, normal = patient_axes(orientation)
    bits_stored = int(dataset.BitsStored)
    padding = dataset.get("PixelPaddingValue")
    return SliceHeader(
        path=path,
        study_uid=str(dataset.StudyInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        sop_uid=str(dataset.SOPInstanceUID),
        instance_number=_integer(dataset.get("InstanceNumber")),
        position_mm=(x, y, z),
        row_direction=row_direction,
        column_direction=column_direction,
        rows=rows,
        columns=columns,
        shape=display_order((rows, columns), row_direction),
        spacing_mm=display_order(spacing, row_direction),
        slope=slope,
        intercept=intercept,
        transfer_syntax=syntax,
        modality=str(dataset.Modality),
        image_type=tuple(str(value) for value in _values(dataset.get("ImageType"))),
        series_description=str(dataset.get("SeriesDescription") or ""),
        slice_thickness_mm=_number(dataset.get("SliceThickness")),
        contrast_agent=str(dataset.get("ContrastBolusAgent") or ""),
        bits_stored=bits_stored,
        is_signed=bool(int(dataset.PixelRepresentation)),
        padding_value=padding if isinstance(padding, int) else None,
        pixel_offset=offset,
        pixel_length=length,
        flags=(*flags, *contradiction_flags(dataset, bits_stored, slope), *_position_flags(dataset, orientation)),
        z_mm=float(np.dot((x, y, z), normal)),
    )


def _position_flags(dataset: Dataset, orientation: tuple[float, ...]) -> Iterator[str]:
    position = str(dataset.get("PatientPosition") or "")
    if position.startswith("FF"):
        yield "feet_first"
    if position.endswith("P"):
        yield "prone"
    if max(abs(np.subtract(orientation, (1, 0, 0, 0, 1, 0)))) > 0.05:
        yield "not_display_orientation"


def _values(value: Any) -> list:
    if value is None:
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in _values(dataset.get(keyword)))
    if len(numbers) != count or not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
        raise DicomError(f"{keyword} is {list(numbers)}, expected {count} finite number(s)")
    return numbers


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _integer(value: Any) -> int:
    number = _number(value)
    return int(number) if math.isfinite(number) else -1
