"""Write a synthetic exam as DICOM files of the contest's layout, one file per slice."""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import validate_file_meta, write_data_element
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1

from input.phantom.dicom_quirks import Quirks
from input.phantom.jpeg_lossless import encode
from input.phantom.physics import Scanner
from input.phantom.raster import Grid


def uid(seed: int, *parts: str | int) -> str:
    """Derive an identifier of 12 hex digits, the contest's form of a UID, from the seed and the parts of a name."""
    return hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).hexdigest()[:12]


class WritableExam(Protocol):
    """The parts of an exam that are written to its files: of a `SyntheticExam`, or of an exam with implanted clots."""

    @property
    def hu(self) -> np.ndarray:
        """int16 (z, y, x), canonical orientation."""

    @property
    def grid(self) -> Grid:
        """Coordinates of the voxels."""

    @property
    def scanner(self) -> Scanner:
        """Manufacturer and kernel."""

    @property
    def fov_mm(self) -> float:
        """Field of view."""


class FileTemplate:
    """Encodes files that differ in some elements only: the others are encoded once, which is half of the work.

    Args:
        header: the elements that all files share, with file meta information; values have unambiguous VRs.
    """

    def __init__(self, header: Dataset) -> None:
        header.file_meta.MediaStorageSOPInstanceUID = UID("0")  # every file replaces it
        validate_file_meta(header.file_meta, enforce_standard=True)
        self._syntax = header.file_meta.TransferSyntaxUID
        self._meta = _encoded(header.file_meta, ExplicitVRLittleEndian)
        self._elements = _encoded(header, self._syntax)

    def file(self, own: Dataset) -> bytes:
        """Return a file with the shared elements and those of `own`, among them its SOPInstanceUID."""
        own_meta = FileMetaDataset()
        own_meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID
        meta = _in_order(self._meta | _encoded(own_meta, ExplicitVRLittleEndian))
        length = FileMetaDataset()
        length.FileMetaInformationGroupLength = len(meta)
        start = _in_order(_encoded(length, ExplicitVRLittleEndian))
        return bytes(128) + b"DICM" + start + meta + _in_order(self._elements | _encoded(own, self._syntax))


def _encoded(dataset: Dataset, syntax: UID) -> dict[int, bytes]:
    """Return tag -> encoded element."""
    encoded = {}
    for element in dataset:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, syntax.is_implicit_VR
        write_data_element(buffer, element)
        encoded[int(element.tag)] = buffer.getvalue()
    return encoded


def _in_order(encoded: dict[int, bytes]) -> bytes:
    return b"".join(encoded[tag] for tag in sorted(encoded))


def write_exam(
    exam: WritableExam, quirks: Quirks, folder: Path, *, study: str, series: str, sops: list[str],
    description: str = "PE CHEST (PHANTOM)",
) -> None:  # fmt: skip
    """Write one file per slice, named by its SOPInstanceUID, into an existing folder.

    Args:
        exam: the exam to write.
        quirks: the storage of the exam.
        folder: folder of the series.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        sops: SOPInstanceUID of every slice, z ascending.
        description: SeriesDescription.
    """
    stored = stored_values(exam, quirks)
    header = _header(exam, quirks, study, series)
    header.SeriesDescription = description
    origin = _corner(exam, quirks)
    # The contest's identifiers of 12 hex digits are not valid UIDs.
    with config.disable_value_validation():
        template = FileTemplate(header)
        for i, sop in enumerate(sops):
            rank = len(sops) - 1 - i if quirks.reversed_numbers else i
            own = Dataset()
            own.InstanceNumber = rank + quirks.first_number
            own.SOPInstanceUID = UID(sop)
            z = round(float(exam.grid.z[i]), 4)
            own.ImagePositionPatient = [round(origin[0], 4), round(origin[1], 4), z]
            own.SliceLocation = z
            _set_pixels(own, stored[i], quirks)
            (folder / f"{sop}.dcm").write_bytes(template.file(own))


def stored_values(exam: WritableExam, quirks: Quirks) -> np.ndarray:
    """Return the pixel values as stored (z, rows, columns): flipped, padded and rescaled; int16 or uint16."""
    hu = exam.hu.astype(np.int32)
    if quirks.padding is not None:
        radius = exam.fov_mm / 2
        x, y = exam.grid.x - exam.grid.x.mean(), exam.grid.y - exam.grid.y.mean()
        hu[:, (x[None, :] ** 2 + y[:, None] ** 2) > radius**2] = quirks.padding
    flipped = hu[:, :: quirks.column_sign, :: quirks.row_sign]
    if quirks.slope == 1 and float(quirks.intercept).is_integer():  # without floating point: faster
        values = flipped - int(quirks.intercept)
    else:
        values = np.rint((flipped - quirks.intercept) / quirks.slope)
    if quirks.signed:
        return np.clip(values, -32768, 32767).astype("<i2")
    return np.clip(values, 0, 65535).astype("<u2")


def _corner(exam: WritableExam, quirks: Quirks) -> tuple[float, float]:
    """Return x and y (mm) of the centre of the first stored pixel."""
    return float(exam.grid.x[:: quirks.row_sign][0]), float(exam.grid.y[:: quirks.column_sign][0])


def _header(exam: WritableExam, quirks: Quirks, study: str, series: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = quirks.syntax
    header = Dataset()
    header.file_meta = meta
    rows, columns = exam.hu.shape[1:]
    spacing = round(exam.grid.pixel, 6)
    with config.disable_value_validation():
        values = {
            "SOPClassUID": CTImageStorage, "Modality": "CT", "Manufacturer": exam.scanner.manufacturer,
            "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
            "StudyInstanceUID": study, "SeriesInstanceUID": series, "KVP": "120",
            "ConvolutionKernel": exam.scanner.kernel, "PatientPosition": quirks.position,
            "SliceThickness": round(exam.grid.step, 4), "PixelSpacing": [spacing, spacing],
            "ImageOrientationPatient": [quirks.row_sign, 0, 0, 0, quirks.column_sign, 0],
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": rows, "Columns": columns,
            "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(quirks.signed),
            "WindowCenter": "100", "WindowWidth": "700", "RescaleIntercept": quirks.intercept,
            "RescaleSlope": quirks.slope, "RescaleType": "HU",
        }  # fmt: skip
        for name, value in values.items():
            setattr(header, name, value)
        if quirks.padding is not None and quirks.signed:
            header.add_new(0x00280120, "SS", int(quirks.padding - quirks.intercept))
    return header


def _set_pixels(header: Dataset, values: np.ndarray, quirks: Quirks) -> None:
    if quirks.syntax == JPEGLosslessSV1:
        header.PixelData = encapsulate([encode(values)])
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True
    else:
        header.PixelData = values.tobytes()
        header["PixelData"].VR = "OW"
