"""Source images as references for new DICOM objects: headers without pixels, with valid UIDs.

The contest's identifiers (`0003b3d648eb`) are not valid UIDs, and an archive would reject an object with them. Each is
replaced by a UID derived from it: `2.25.` and the number of the version 5 UUID of the identifier in the OID name space
(PS3.5 B.2). The same identifier gives the same UID in every export, so images exported with this rule belong to the
same study. The original identifiers are kept in text items of the report. Valid UIDs are unchanged.

Text becomes UTF-8, because hospitals declare character sets that the standard does not allow, and values that it does
not allow either, such as the sex `U`, are left empty.
"""

import dataclasses
import uuid
import warnings
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage
from pydicom.valuerep import DA, TM

from input.archive import open_file
from input.elements import ignore_text_warnings
from input.header import SliceHeader
from input.slice_errors import DicomError
from input.slice_file import read_headers
from pipeline.errors import UserError

UTF_8 = "ISO_IR 192"

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
#: Attributes that every object of a patient and a study must have, empty if the source lacks them (type 2).
_TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One source slice.

    Attributes:
        slice: the file, the frame and the geometry.
        header: its header without pixels, with valid UIDs; of a frame, that of its object with the frame's position.
        replaced: attribute -> the identifier that was replaced.
        emptied: attributes with values that the standard does not allow.
    """

    slice: SliceHeader
    header: Dataset
    replaced: dict[str, str]
    emptied: tuple[str, ...] = ()


def valid_uid(identifier: str) -> UID:
    """A valid UID unchanged; for any other identifier, the UID derived from it."""
    uid = UID(identifier, validation_mode=0)
    return uid if uid.is_valid else UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, identifier).int}")


def read_source_image(path: Path, frame: int = 0) -> SourceImage:
    """Read the header of a slice that was read successfully before.

    Args:
        path: the file.
        frame: number of the frame in a multi-frame object; 0: the file is a slice.

    Raises:
        UserError: the file has changed since then.
    """
    try:
        image = next(header for header in read_headers(path)[0] if header.frame == frame)
        with ignore_text_warnings(), open_file(path) as (file, _):
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            originals = {name: str(header[name].value) for name in _UIDS if header.get(name)}
    except (DicomError, OSError, StopIteration) as error:
        raise UserError(
            f"the file changed during the export and is no longer readable: {path} ({error}). Run the export again."
        ) from error
    replaced = {}
    for name, original in originals.items():
        setattr(header, name, valid_uid(original))
        if getattr(header, name) != original:
            replaced[name] = original
    emptied = _normalise(header)
    if not header.get("SOPClassUID"):  # the reader accepts CT images only
        header.SOPClassUID = CTImageStorage
    if frame:
        header.ImagePositionPatient = list(image.position_mm)
        header.ImageOrientationPatient = [*image.row_direction, *image.column_direction]
    return SourceImage(image, header, replaced, emptied)


def _normalise(header: Dataset) -> tuple[str, ...]:
    """Convert text to UTF-8, and empty what must exist but is missing or invalid; returns what was invalid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about unknown character sets; undecodable bytes are replaced
        header.decode()
        for name in _TYPE_2:
            if name not in header:
                setattr(header, name, None)
            elif header[name].VR == "PN":
                setattr(header, name, str(header[name].value or ""))  # forgets the bytes of the former encoding
    header.SpecificCharacterSet = UTF_8
    invalid = tuple(
        name for name, is_valid in _VALID.items() if header[name].value and not is_valid(header[name].value)
    )
    for name in invalid:
        setattr(header, name, None)
    return invalid


def _is_date(value: object) -> bool:
    try:
        return bool(DA(str(value)))
    except ValueError:
        return False


def _is_time(value: object) -> bool:
    try:
        return bool(TM(str(value)))
    except ValueError:
        return False


#: Attribute -> whether an object may have the value.
_VALID = {
    "PatientSex": lambda value: value in ("M", "F", "O"),
    "PatientBirthDate": _is_date,
    "StudyDate": _is_date,
    "StudyTime": _is_time,
}
