"""Source images as references for new DICOM objects: headers without pixels, with valid UIDs.

The contest's identifiers (`0003b3d648eb`) are not valid UIDs, and an archive would reject an object with them. Each is
replaced by a UID derived from it: `2.25.` and the number of the version 5 UUID of the identifier in the OID name space
(PS3.5 B.2). The same identifier gives the same UID in every export, so images exported with this rule belong to the
same study. The original identifiers are kept in text items of the report. Valid UIDs are unchanged.
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
from input.header import ignore_contest_uid_warnings
from input.slice_errors import DicomError
from input.slice_file import read_header
from pipeline.errors import UserError

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
        path: its file.
        header: its header without pixels, with valid UIDs.
        replaced: attribute -> the identifier that was replaced.
    """

    path: Path
    header: Dataset
    replaced: dict[str, str]


def valid_uid(identifier: str) -> UID:
    """A valid UID unchanged; for any other identifier, the UID derived from it."""
    uid = UID(identifier, validation_mode=0)
    return uid if uid.is_valid else UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, identifier).int}")


def find_files(source: Path, studies: Iterable[Study]) -> dict[tuple[str, str], Path]:
    """Find the file of every slice in use.

    Args:
        source: the folder or archive that the studies were read from.
        studies: the studies.

    Returns:
        (study's name, SOPInstanceUID) -> file.
    """
    study_names = {
        (study.study_uid, study.series_uid, sop): study.name for study in studies for sop in study.slices[SOP]
    }
    files: dict[tuple[str, str], Path] = {}
    for path in source_files(source)[0]:
        try:
            header = read_header(path)
        except DicomError:
            continue  # reported when the studies were read
        name = study_names.get((header.study_uid, header.series_uid, header.sop_uid))
        if name is not None:
            files.setdefault((name, header.sop_uid), path)
    return files


def read_source_image(path: Path) -> SourceImage:
    """Read the header of a slice that was read successfully before.

    Raises:
        UserError: the file has changed since then.
    """
    try:
        read_header(path)
        with ignore_contest_uid_warnings(), open_file(path) as (file, _):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            originals = {name: str(header[name].value) for name in _UIDS if header.get(name)}
    except (DicomError, OSError, pydicom.errors.InvalidDicomError) as error:
        raise UserError(
            f"the file changed during the export and is no longer readable: {path} ({error}). Run the export again."
        ) from error
    replaced = {}
    for name, original in originals.items():
        setattr(header, name, valid_uid(original))
        if getattr(header, name) != original:
            replaced[name] = original
    for name in _TYPE_2:
        if name not in header:
            setattr(header, name, None)
    if not header.get("SOPClassUID"):  # the reader accepts CT images only
        header.SOPClassUID = CTImageStorage
    return SourceImage(path, header, replaced)
