"""Multi-frame CT objects (Enhanced CT, Legacy Converted Enhanced CT): every axial frame as the header of one slice.

Position, orientation, spacing and rescaling of a frame are in the functional groups (PS3.3 C.7.6.16), shared by all
frames or per frame. The pixels stay in the file until a frame is decoded; a header knows where they are.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from struct import unpack
from typing import IO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import parse_basic_offsets, parse_fragments

from input.elements import Elements
from input.header import SliceHeader, readable_header, slice_header
from input.header_limits import DECODERS, MAX_FRAMES, check_image, check_length
from input.slice_errors import DicomError

#: Functional group -> the attributes that it holds, by the name that a single-frame slice has them under.
_REQUIRED_GROUPS = {
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing"},
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelValueTransformationSequence": {"RescaleSlope": "RescaleSlope", "RescaleIntercept": "RescaleIntercept"},
}
_FURTHER_GROUPS = {
    "PixelMeasuresSequence": {"SliceThickness": "SliceThickness"},
    "FrameContentSequence": {"AcquisitionNumber": "FrameAcquisitionNumber"},
    "CTImageFrameTypeSequence": {"ImageType": "FrameType"},
}
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_REQUIRED = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation",
)  # fmt: skip
#: Between the SOPInstanceUID of an object and the number of a frame, in the identifier of the frame.
FRAME_MARK = "#"


def frame_count(elements: Elements) -> int:
    """The number of frames of an object; 1 for a slice."""
    return int(elements.dataset.get("NumberOfFrames") or 1)


def frame_headers(
    elements: Elements, path: Path, file: IO[bytes], file_bytes: int
) -> tuple[list[SliceHeader], list[str]]:
    """Convert a multi-frame object to the headers of its frames; `sop_uid` is `<SOPInstanceUID>#<frame number>`.

    Args:
        elements: of the object.
        path: its file.
        file: the file, open and seekable; only the lengths of compressed fragments are read.
        file_bytes: its size.

    Returns:
        The headers, and one reason for each frame that is not a usable axial slice.

    Raises:
        DicomError: no frame is usable.
    """
    with readable_header():
        dataset, frames = elements.dataset, frame_count(elements)
        _check_object(dataset, frames)
        flags = check_length(
            elements.syntax, int(dataset.Rows), int(dataset.Columns), elements.length, elements.offset, file_bytes,
            frames,
        )  # fmt: skip
        parts = list(_frame_parts(elements, file, file_bytes, frames))
        headers, reasons = [], []
        for number, (slice_elements, (offset, length)) in enumerate(zip(_slices(dataset), parts, strict=True), start=1):
            slice_elements.SOPInstanceUID = f"{dataset.SOPInstanceUID}{FRAME_MARK}{number}"
            slice_elements.InstanceNumber = number
            part = elements._replace(dataset=slice_elements, offset=offset, length=length)
            try:
                check_image(slice_elements, int(dataset.Rows), int(dataset.Columns))
                headers.append(slice_header(part, path, flags, frame=number))
            except DicomError as fault:
                reasons.append(f"frame {number}: {fault.reason}")
        if not headers:
            raise DicomError(f"multi-frame object without an axial CT slice: {reasons[0]}")
        return headers, reasons


def _check_object(dataset: Dataset, frames: int) -> None:
    missing = [keyword for keyword in _REQUIRED if dataset.get(keyword) in (None, "")]
    if missing:
        raise DicomError(f"missing from the header: {', '.join(missing)}")
    if dataset.Modality != "CT":
        raise DicomError(f"Modality is {dataset.Modality}, not CT")
    if not 1 < frames <= MAX_FRAMES:
        raise DicomError(f"NumberOfFrames is {frames}, expected at most {MAX_FRAMES}")
    shared, per_frame = (dataset.get(name) or [] for name in _FUNCTIONAL_GROUPS)
    items = [*shared[:1], *per_frame[:1]]
    absent = [name for name in _REQUIRED_GROUPS if not any(item.get(name) for item in items)]
    if absent:
        raise DicomError(f"multi-frame object without {', '.join(absent)}")
    if len(per_frame) != frames:
        raise DicomError(f"multi-frame object without functional groups for each frame: {len(per_frame)} for {frames}")


def _slices(dataset: Dataset) -> Iterator[Dataset]:
    """The elements of every frame as those of a single-frame slice."""
    shared, per_frame = (dataset[name].value for name in _FUNCTIONAL_GROUPS)
    common = Dataset()
    for element in dataset:
        if element.keyword not in (*_FUNCTIONAL_GROUPS, "NumberOfFrames"):
            common.add(element)
    for item in per_frame:
        elements = deepcopy(common)  # a shallow copy would share the elements, and setting a value changes them
        for groups in (*shared[:1], item):
            for kind in (_REQUIRED_GROUPS, _FURTHER_GROUPS):
                _take(elements, groups, kind)
        yield elements


def _take(elements: Dataset, groups: Dataset, attributes: dict[str, dict[str, str]]) -> None:
    """Copy attributes of functional groups into the elements of a slice."""
    for sequence, names in attributes.items():
        macro = groups.get(sequence)
        for target, source in names.items() if macro else ():
            if (value := macro[0].get(source)) is not None:
                setattr(elements, target, value)


def _frame_parts(elements: Elements, file: IO[bytes], file_bytes: int, frames: int) -> Iterable[tuple[int, int]]:
    """Offset in the file and length of the pixel data of every frame, bytes."""
    dataset = elements.dataset
    if not DECODERS[elements.syntax]:
        size = 2 * int(dataset.Rows) * int(dataset.Columns)
        return [(elements.offset + index * size, size) for index in range(frames)]
    starts, end = _compressed_starts(elements, file, frames)
    if end > file_bytes:
        raise DicomError(f"truncated: a fragment ends at byte {end}, the file at {file_bytes}")
    return [(start, stop - start) for start, stop in zip(starts, [*starts[1:], end], strict=True)]


def _compressed_starts(elements: Elements, file: IO[bytes], frames: int) -> tuple[list[int], int]:
    """Offset of the first fragment of every frame, and of the end of the last fragment."""
    file.seek(elements.offset)
    basic = parse_basic_offsets(file)
    count, fragments = parse_fragments(file)
    if not count:
        raise DicomError("truncated: no fragment of pixel data")
    file.seek(fragments[-1] + 4)
    end = fragments[-1] + 8 + unpack("<I", file.read(4))[0]
    table = elements.dataset.get("ExtendedOffsetTable")
    offsets = np.frombuffer(table, "<u8").tolist() if table else basic
    starts = [fragments[0] + offset for offset in offsets] if offsets else fragments
    if len(starts) != frames or not set(starts) <= set(fragments) or starts != sorted(set(starts)):
        raise DicomError(f"multi-frame object without an offset table: {count} fragments for {frames} frames")
    return starts, end
