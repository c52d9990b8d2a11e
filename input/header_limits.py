"""Limits of a slice's header: supported transfer syntaxes, and what is refused before pixels are allocated."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from input.slice_errors import DicomError

MAX_FILE_BYTES = 64 << 20
#: Multi-frame objects hold whole series, of which one frame at a time is read.
MAX_OBJECT_BYTES, MAX_FRAMES = 2 << 30, 4096
MIN_SIDE, MAX_SIDE = 64, 2048
#: Compressed data may be this much longer than twice the image: fragment tables, comments, trailing elements.
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


def check_image(dataset: Dataset, rows: int, columns: int) -> None:
    """Check that the header describes a single-frame 16-bit CT slice.

    Args:
        dataset: the header's elements.
        rows: height of the image, pixels.
        columns: width of the image, pixels.

    Raises:
        DicomError: it does not; all deviations are in the reason.
    """
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
        raise DicomError("; ".join(faults))


def check_length(
    syntax: str, rows: int, columns: int, length: int, offset: int, file_bytes: int, frames: int = 1
) -> tuple[str, ...]:
    """Check the length of the pixel data against the size of the image and of the file.

    Args:
        syntax: transfer syntax UID, a key of `DECODERS`.
        rows: height of the image, pixels.
        columns: width of the image, pixels.
        length: of the pixel data, bytes; `UNDEFINED_LENGTH` when encapsulated.
        offset: of the pixel data in the file, bytes.
        file_bytes: size of the file.
        frames: number of frames.

    Returns:
        Flags: `pixel_data_padded` if less than a row of further bytes follows the pixels.

    Raises:
        DicomError: the sizes contradict each other, or the file is too large or truncated.
    """
    largest = MAX_FILE_BYTES if frames == 1 else MAX_OBJECT_BYTES
    if file_bytes > largest:
        raise DicomError(f"the file has {file_bytes} bytes, more than {largest}")
    native = rows * columns * 2 * frames
    if DECODERS[syntax]:
        if length != UNDEFINED_LENGTH:
            raise DicomError("compressed pixel data is not encapsulated")
        if file_bytes - offset > 2 * native + SPARE_BYTES:
            raise DicomError(f"{file_bytes - offset} compressed bytes for an image of {native}")
    elif not native <= length < native + 2 * columns:
        shape = f"{rows} x {columns} pixels" if frames == 1 else f"{frames} x {rows} x {columns} pixels"
        raise DicomError(f"pixel data of {length} bytes, but {shape} need {native}")
    elif offset + native > file_bytes:
        raise DicomError(f"truncated: pixel data ends at byte {offset + native}, the file at {file_bytes}")
    elif length > native:
        return ("pixel_data_padded",)
    return ()


def contradiction_flags(dataset: Dataset, bits_stored: int, slope: float) -> Iterator[str]:
    """Yield flags for tags that contradict each other or are unusual, while the pixels stay usable."""
    if dataset.get("HighBit") not in (None, bits_stored - 1):
        yield "high_bit_contradicts_bits_stored"
    if dataset.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        yield "not_monochrome2"
    if slope < 0:
        yield "negative_slope"
