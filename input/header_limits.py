"""The gates of one slice's header: what is refused before any pixel is allocated."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from input.slice_faults import DicomFault

MAX_FILE_BYTES = 64 << 20
MIN_SIDE, MAX_SIDE = 64, 2048
#: Compressed data may exceed twice the image by this much: fragment tables, comments, trailing elements.
SPARE_BYTES = 1 << 16
UNDEFINED_LENGTH = 0xFFFFFFFF

#: Transfer syntax -> the pydicom plugin that decodes it; "" means uncompressed, read without a plugin.
DECODERS = {
    "1.2.840.10008.1.2": "",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "",  # Explicit VR Big Endian (retired)
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG Extended, 12 bits
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # High-Throughput JPEG 2000 Lossless, RPCL
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.5": "pydicom",  # RLE Lossless
}


def gate_image(dataset: Dataset, rows: int, columns: int) -> None:
    """Hold the image's description against a CT slice's; every deviation is told at once."""
    faults = []
    if dataset.Modality != "CT":
        faults.append(f"Modality is {dataset.Modality}, not CT")
    if int(dataset.SamplesPerPixel) != 1:
        faults.append(f"SamplesPerPixel is {dataset.SamplesPerPixel}, not 1")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        faults.append(f"NumberOfFrames is {dataset.NumberOfFrames}, not 1")
    if int(dataset.BitsAllocated) != 16:
        faults.append(f"BitsAllocated is {dataset.BitsAllocated}, not 16")
    if not 8 <= int(dataset.BitsStored) <= 16:
        faults.append(f"BitsStored is {dataset.BitsStored}, not 8 to 16")
    if int(dataset.PixelRepresentation) not in (0, 1):
        faults.append(f"PixelRepresentation is {dataset.PixelRepresentation}, not 0 or 1")
    if not (MIN_SIDE <= rows <= MAX_SIDE and MIN_SIDE <= columns <= MAX_SIDE):
        faults.append(f"{rows} x {columns} pixels, expected {MIN_SIDE} to {MAX_SIDE} a side")
    if faults:
        raise DicomFault("; ".join(faults))


def gate_length(syntax: str, rows: int, columns: int, length: int, offset: int, file_bytes: int) -> None:
    """Hold the pixel data's length against the image's size and the file's."""
    if file_bytes > MAX_FILE_BYTES:
        raise DicomFault(f"the file has {file_bytes} bytes, more than {MAX_FILE_BYTES}")
    native = rows * columns * 2
    if DECODERS[syntax]:
        if length != UNDEFINED_LENGTH:
            raise DicomFault("compressed pixel data is not encapsulated")
        if file_bytes - offset > 2 * native + SPARE_BYTES:
            raise DicomFault(f"{file_bytes - offset} compressed bytes for an image of {native}")
    elif length != native:
        raise DicomFault(f"pixel data of {length} bytes, but {rows} x {columns} pixels need {native}")
    elif offset + length > file_bytes:
        raise DicomFault(f"truncated: pixel data ends at byte {offset + length}, the file at {file_bytes}")


def contradictions(dataset: Dataset, bits_stored: int, slope: float) -> Iterator[str]:
    """Flags for tags that contradict each other without making the pixels unusable."""
    if dataset.get("HighBit") not in (None, bits_stored - 1):
        yield "high_bit_contradicts_bits_stored"
    if dataset.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        yield "not_monochrome2"
    if slope < 0:
        yield "negative_slope"
