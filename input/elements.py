"""Read the needed elements of an untrusted DICOM file from its first bytes, up to its pixel data.

Deflated files are refused by their transfer syntax: the size of an inflated file is under its author's control. Files
without preamble, or without the file meta information, are read if their first element identifies the encoding.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from logging import LogRecord, getLogger
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from input.header_limits import DECODERS
from input.slice_errors import DicomError, IncompleteHeaderError

PREAMBLE = 128
PIXEL_TAG = 0x7FE00010
#: Flags of files that lack the beginning that PS3.10 demands.
NO_PREAMBLE, NO_META = "no_preamble", "no_file_meta_information"

_KEYWORDS = (
    "ImageType", "SOPInstanceUID", "Modality", "SeriesDescription", "StudyInstanceUID", "SeriesInstanceUID",
    "PatientPosition", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "RescaleIntercept", "RescaleSlope", "SliceThickness",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "PatientID", "FrameOfReferenceUID", "StudyDate",
    "AcquisitionNumber", "AcquisitionTime", "ContentTime", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
)  # fmt: skip
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]

#: pydicom's warnings about identifiers that are not valid UIDs (such files get a flag instead) and about character
#: sets, which matter for text only. They would be printed for every access.
_TEXT_WARNING = (
    r"Invalid value for VR UI: |The value length \(\d+\) exceeds the maximum length of 64 allowed for VR UI|"
    r"Unknown encoding '|.*Specific Character Set"
)


class Elements(NamedTuple):
    """The needed elements of a file.

    Attributes:
        dataset: the elements before the pixel data.
        syntax: transfer syntax UID, a key of `DECODERS`.
        offset: of the pixel data's value in the file, bytes.
        length: of the pixel data, bytes; `UNDEFINED_LENGTH` when encapsulated.
        flags: warnings about the encoding.
    """

    dataset: Dataset
    syntax: str
    offset: int
    length: int
    flags: tuple[str, ...]


@contextmanager
def ignore_text_warnings() -> Iterator[None]:
    """Silence pydicom's warnings about invalid UIDs, such as the contest's, and about character sets, and no others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _TEXT_WARNING, UserWarning)
        yield


def _is_not_about_text(record: LogRecord) -> bool:
    return not re.match(_TEXT_WARNING, record.getMessage())


getLogger("pydicom").addFilter(_is_not_about_text)  # pydicom also logs its warnings


def read_elements(data: bytes) -> Elements:
    """Read the elements at the start of a file.

    Args:
        data: the file's first bytes, including the whole header.

    Raises:
        IncompleteHeaderError: `data` ends before the pixel data begins.
        DicomError: not DICOM, or an unsupported transfer syntax.
    """
    stream = BytesIO(data)
    syntax, flags = _transfer_syntax(stream, data)
    if syntax == DeflatedExplicitVRLittleEndian:
        raise DicomError("transfer syntax Deflated is refused")
    if syntax not in DECODERS:
        raise DicomError(f"transfer syntax {UID(syntax).name or 'missing'} is not supported")
    little = syntax != ExplicitVRBigEndian
    implicit = syntax == ImplicitVRLittleEndian
    vr_bytes = data[stream.tell() + 4 : stream.tell() + 6]
    if (vr_bytes.isalpha() and vr_bytes.isupper()) == implicit:
        implicit = not implicit
        flags.append("vr_contradicts_syntax")
    pixel_lengths: list[int] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        number = int(tag)  # comparing pydicom's tags takes a tenth of the whole reading time
        if number == PIXEL_TAG:
            pixel_lengths.append(length)
        return number >= PIXEL_TAG

    dataset = read_dataset(stream, implicit, little, stop_when=at_pixels, specific_tags=list(_TAGS))
    if not pixel_lengths:
        raise IncompleteHeaderError("no pixel data: the file ends inside its header")
    # pydicom leaves the stream at the element that stopped it: tag (4 bytes), then VR and length (8 for OB/OW) or
    # length (4).
    offset = stream.tell() + (8 if implicit else 12)
    return Elements(dataset, syntax, offset, pixel_lengths[0], tuple(flags))


def _transfer_syntax(stream: BytesIO, data: bytes) -> tuple[str, list[str]]:
    """Read the file meta information; the stream is left at the data set.

    Returns:
        The transfer syntax UID, "" if the meta information has none, and flags.
    """
    start, flags = PREAMBLE + 4, []
    if data[PREAMBLE:start] != b"DICM":
        start, flags = (4 if data[:4] == b"DICM" else 0), [NO_PREAMBLE]
        if syntax := _syntax_of_data_set(data[start : start + 8]):
            stream.seek(start)
            return syntax, [NO_META]
        if not _is_element(data[start : start + 8], b"\x02\x00"):
            raise DicomError("not a DICOM file: no DICM marker at byte 128")
    stream.seek(start)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return str(meta.get("TransferSyntaxUID", "")), flags


def _syntax_of_data_set(first: bytes) -> str:
    """The encoding of a data set without meta information, from its first 8 bytes; "" if it is not a data set."""
    if _is_element(first, b"\x08\x00"):
        return ExplicitVRLittleEndian
    if _is_element(first, b"\x00\x08"):
        return ExplicitVRBigEndian
    # Implicit VR: group 8, a low element number, a short length.
    is_implicit = first[:2] == b"\x08\x00" and first[3:4] == b"\x00" and first[6:8] == b"\x00\x00" and len(first) == 8
    return ImplicitVRLittleEndian if is_implicit else ""


def _is_element(first: bytes, group: bytes) -> bool:
    """Whether 8 bytes begin an element of a group (two bytes as stored) with an explicit VR."""
    return len(first) == 8 and first[:2] == group and first[4:6].isalpha() and first[4:6].isupper()
