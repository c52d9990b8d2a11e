"""The source images of a study as references for new DICOM objects: headers without pixels, UIDs that are valid.

The contest's identifiers (`0003b3d648eb`) are no UIDs, and an archive would refuse an object with them. Each is
replaced by one derived from it: `2.25.` and the number of the version 5 UUID of the identifier in the OID name space
(PS3.5 B.2), so the same identifier gives the same UID in every export, and whoever exports the images the same way
meets the same study. The originals are kept in a text item of the report. A valid UID stays as it is.
"""

import dataclasses
import uuid
from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage

from inference.series_reader import Study
from input.archive import open_file, source_files
from input.contest import SOP
from input.header import quiet_contest_uids
from input.slice_faults import DicomFault
from input.slice_file import read_header
from pipeline.errors import UserError

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
#: Attributes that every object of a patient and a study must have, empty where the source lacks them (type 2).
_TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One source slice: its file, its header without pixels (valid UIDs), and the identifiers that were replaced."""

    path: Path
    header: Dataset
    replaced: dict[str, str]


def valid_uid(text: str) -> UID:
    """A valid UID unchanged; of any other identifier the UID that is derived from it."""
    found = UID(text, validation_mode=0)
    return found if found.is_valid else UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def find_files(source: Path, studies: Iterable[Study]) -> dict[tuple[str, str], Path]:
    """(study's name, SOPInstanceUID) -> file, for every slice in use of some studies below a folder or archive."""
    wanted = {(each.study_uid, each.series_uid, sop): each.name for each in studies for sop in each.slices[SOP]}
    found: dict[tuple[str, str], Path] = {}
    for path in source_files(source)[0]:
        try:
            header = read_header(path)
        except DicomFault:
            continue  # reading the studies has told of it
        name = wanted.get((header.study_uid, header.series_uid, header.sop_uid))
        if name is not None:
            found.setdefault((name, header.sop_uid), path)
    return found


def read_source_image(path: Path) -> SourceImage:
    """Read the header of a slice that passed the reader's gates.

    Raises:
        UserError: the file has changed since then.
    """
    try:
        read_header(path)
        with quiet_contest_uids(), open_file(path) as (file, _):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            originals = {name: str(header[name].value) for name in _UIDS if header.get(name)}
    except (DicomFault, OSError, pydicom.errors.InvalidDicomError) as fault:
        raise UserError(f"{path}: was readable before and is not now ({fault}); run the export again") from fault
    replaced = {}
    for name, original in originals.items():
        setattr(header, name, valid_uid(original))
        if getattr(header, name) != original:
            replaced[name] = original
    for name in _TYPE_2:
        if name not in header:
            setattr(header, name, None)
    if not header.get("SOPClassUID"):  # the reader takes CT images only
        header.SOPClassUID = CTImageStorage
    return SourceImage(path, header, replaced)
