"""Parse and check the header of one untrusted CT slice before anything is allocated for its pixels.

Only the first bytes of a file are parsed, from memory (the pixels follow the header), so a wrong length field cannot
make the parser allocate more than the file contains.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from input.elements import Elements, ignore_text_warnings, read_elements
from input.header_limits import check_image, check_length, contradiction_flags
from input.orientation import display_order, patient_axes
from input.slice_errors import DicomError, IncompleteHeaderError

HEAD_BYTES = 1 << 14  # headers of the contest take 2 to 4 KiB; two million reads of 64 KiB would be 120 GB

_REQUIRED = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
_CONTEST_UID = re.compile(r"[0-9a-f]{12}")
_TIME = re.compile(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)?")


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
    patient_id: str
    frame_of_reference: str  # UID; "" when absent
    study_date: str
    acquisition_number: int  # -1 when absent
    acquisition_time: float  # seconds since midnight; NaN when absent
    content_time: float  # seconds since midnight; NaN when absent
    bits_stored: int
    is_signed: bool
    padding_value: int | None
    pixel_offset: int  # of the pixel data's value, or of a frame's part of it, in the file, bytes
    pixel_length: int  # UNDEFINED_LENGTH when encapsulated; of a frame always its bytes
    flags: tuple[str, ...]
    z_mm: float  # position along the slice normal, increasing to the head
    frame: int = 0  # number of a frame in a multi-frame object, from 1; 0: a file of its own


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
    with readable_header():
        return single_header(read_elements(data), path, file_bytes)


def single_header(elements: Elements, path: Path, file_bytes: int) -> SliceHeader:
    """Check and convert the elements of a file with one slice; the arguments are those of `parse_header`.

    Raises:
        DicomError: refused, contradictory, or not an axial CT slice.
        Exception: whatever the parser raises for a malicious header; `readable_header` converts it.
    """
    check_required(elements.dataset)
    rows, columns = int(elements.dataset.Rows), int(elements.dataset.Columns)
    check_image(elements.dataset, rows, columns)
    padding = check_length(elements.syntax, rows, columns, elements.length, elements.offset, file_bytes)
    return slice_header(elements, path, padding)


@contextmanager
def readable_header() -> Iterator[None]:
    """Convert whatever the parser raises to a DicomError; warnings about UIDs and character sets are silenced.

    Raises:
        IncompleteHeaderError: the header cannot be parsed.
    """
    try:
        with ignore_text_warnings():
            yield
    except DicomError:
        raise
    except Exception as fault:  # for a malicious header the parser can raise almost anything
        text = " ".join(str(fault).split())[:160]
        raise IncompleteHeaderError(f"unreadable header: {type(fault).__name__}: {text}") from fault


def check_required(dataset: Dataset) -> None:
    """Check that a slice's elements are complete.

    Raises:
        DicomError: some are missing.
    """
    missing = [keyword for keyword in _REQUIRED if dataset.get(keyword) in (None, "")]
    if missing:
        raise DicomError(f"missing from the header: {', '.join(missing)}")


def slice_header(elements: Elements, path: Path, further_flags: Iterable[str] = (), *, frame: int = 0) -> SliceHeader:
    """Convert the elements of one slice, whose image and length are already checked.

    Args:
        elements: of the slice.
        path: its file.
        further_flags: added to its flags.
        frame: its number in a multi-frame object; 0: a file of its own.

    Raises:
        DicomError: contradictory, or not an axial slice.
    """
    dataset = elements.dataset
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    x, y, z = _numbers(dataset, "ImagePositionPatient", 3)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    spacing, (slope, intercept) = _spacing(dataset), _rescaling(dataset)
    row_direction, column_direction, normal = patient_axes(orientation)
    bits_stored = int(dataset.BitsStored)
    padding = dataset.get("PixelPaddingValue")
    flags = (*elements.flags, *further_flags, *contradiction_flags(dataset, bits_stored, slope))
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
        transfer_syntax=elements.syntax,
        modality=str(dataset.Modality),
        image_type=tuple(str(value) for value in _values(dataset.get("ImageType"))),
        series_description=str(dataset.get("SeriesDescription") or ""),
        slice_thickness_mm=_number(dataset.get("SliceThickness")),
        contrast_agent=_contrast_agent(dataset),
        patient_id=str(dataset.get("PatientID") or ""),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        study_date=str(dataset.get("StudyDate") or ""),
        acquisition_number=_integer(dataset.get("AcquisitionNumber")),
        acquisition_time=_seconds(dataset.get("AcquisitionTime")),
        content_time=_seconds(dataset.get("ContentTime")),
        bits_stored=bits_stored,
        is_signed=bool(int(dataset.PixelRepresentation)),
        padding_value=padding if isinstance(padding, int) else None,
        pixel_offset=elements.offset,
        pixel_length=elements.length,
        flags=(*flags, *_position_flags(dataset, orientation), *_uid_flags(dataset)),
        z_mm=float(np.dot((x, y, z), normal)),
        frame=frame,
    )


def _spacing(dataset: Dataset) -> tuple[float, float]:
    row_spacing, column_spacing = _numbers(dataset, "PixelSpacing", 2)
    if not (0.05 <= row_spacing <= 10 and 0.05 <= column_spacing <= 10):
        raise DicomError(f"PixelSpacing {(row_spacing, column_spacing)} mm is impossible for a CT slice")
    return row_spacing, column_spacing


def _rescaling(dataset: Dataset) -> tuple[float, float]:
    (slope,), (intercept,) = _numbers(dataset, "RescaleSlope", 1), _numbers(dataset, "RescaleIntercept", 1)
    if slope == 0:
        raise DicomError("RescaleSlope is 0")
    return slope, intercept


def _position_flags(dataset: Dataset, orientation: tuple[float, ...]) -> Iterator[str]:
    position = str(dataset.get("PatientPosition") or "")
    if position.startswith("FF"):
        yield "feet_first"
    if position.endswith("P"):
        yield "prone"
    if max(abs(np.subtract(orientation, (1, 0, 0, 0, 1, 0)))) > 0.05:
        yield "not_display_orientation"


def _uid_flags(dataset: Dataset) -> Iterator[str]:
    """Flag identifiers that are not valid UIDs, such as hashes; those of the contest are expected."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        identifier = str(dataset[keyword].value).partition("#")[0]  # without the number of a frame
        if not _CONTEST_UID.fullmatch(identifier) and not UID(identifier, validation_mode=0).is_valid:
            yield "invalid_uids"
            return


def _contrast_agent(dataset: Dataset) -> str:
    """The contrast agent as text, or of an enhanced object as the meaning of its code; "" if there is none."""
    coded = dataset.get("ContrastBolusAgentSequence")
    return str(dataset.get("ContrastBolusAgent") or (coded[0].get("CodeMeaning") if coded else "") or "")


def _seconds(value: Any) -> float:
    """A time (HHMMSS.FFFFFF) as seconds since midnight; NaN if it is not one."""
    match = _TIME.match(str(value or ""))
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3] or 0) if match else math.nan


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
