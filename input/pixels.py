"""Decode a slice's bytes to Hounsfield units (HU) in radiological display orientation."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from input.header import SliceHeader
from input.header_limits import DECODERS
from input.orientation import to_display
from input.slice_errors import DicomError

HU_MIN, HU_MAX = -1024, 3071
#: A padding value is trusted when it decodes to this HU or less, or above HU_MAX: no tissue has such values.
AIR_HU = -1000

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_EMPTY_OFFSETS = _ITEM + bytes(4)
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


def decode_hu(data: bytes, header: SliceHeader) -> np.ndarray:
    """Decode a slice from the bytes of its whole file.

    Returns:
        int16 HU (y, x), clipped to [-1024, 3071]; x increases to the patient's left, y to the back.

    Raises:
        DicomError: the pixel data is truncated or damaged.
    """
    try:
        raw = _decode(data, header)
    except DicomError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as fault:  # for damaged data decoders can raise almost anything, Rust panics included
        text = " ".join(str(fault).split())[:160]
        raise DicomError(f"undecodable pixels: {type(fault).__name__}: {text}") from fault
    return to_display(_hounsfield(raw, header), header.row_direction, header.column_direction)


def decode_frame(data: bytes, header: SliceHeader) -> np.ndarray:
    """Decode a frame of a multi-frame object from its part of the pixel data; see `decode_hu`.

    Args:
        data: `header.pixel_length` bytes of the file at `header.pixel_offset`.
        header: of the frame.
    """
    if len(data) < header.pixel_length:
        raise DicomError(f"truncated: frame {header.frame} has {len(data)} bytes of {header.pixel_length}")
    if DECODERS[header.transfer_syntax]:
        data = _EMPTY_OFFSETS + data + _DELIMITER + bytes(4)
    return decode_hu(data, replace(header, pixel_offset=0))


def _decode(data: bytes, header: SliceHeader) -> np.ndarray:
    """Decode to stored values: 16-bit words (rows, columns) that may have unused high bits set."""
    shape = header.rows, header.columns
    plugin = DECODERS[header.transfer_syntax]
    if not plugin:
        order = ">" if header.transfer_syntax == ExplicitVRBigEndian else "<"
        end = header.pixel_offset + 2 * shape[0] * shape[1]
        if end > len(data):
            raise DicomError(f"truncated: pixel data ends at byte {end}, the file at {len(data)}")
        return np.frombuffer(data, f"{order}u2", shape[0] * shape[1], header.pixel_offset).reshape(shape)
    _check_codestream(b"".join(fragments(data, header.pixel_offset)), header)
    # Any: pydicom annotates every option with the type of the whole set of options.
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
        "bits_allocated": 16,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.is_signed),
        "correct_unused_bits": False,
    }
    decoder = get_decoder(header.transfer_syntax)
    values, _ = decoder.as_array(data[header.pixel_offset :], decoding_plugin=plugin, raw=True, **options)
    if values.shape != shape:
        raise DicomError(f"decoded to {values.shape} pixels, the header says {shape}")
    return values


def _hounsfield(raw: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Convert stored 16-bit words to int16 HU, padding to -1024."""
    words = raw.view(raw.dtype.str.replace("i", "u"))
    stored = _stored_values(words, header)
    slope, intercept = header.slope, header.intercept
    if slope == 1 and intercept.is_integer() and -(1 << 15) <= intercept <= HU_MAX:
        hu = _shifted(stored, int(intercept))
    else:
        hu = _rescaled(stored, slope, intercept)
    padding = header.padding_value
    if padding is not None and _is_outside_tissue(padding * slope + intercept):
        hu[words == padding & 0xFFFF] = HU_MIN
    return hu


def _stored_values(words: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Convert words to int16 or uint16 values: bits above the stored ones are cleared, or set to the sign."""
    native = words.astype(words.dtype.newbyteorder("="), copy=False)
    unused = 16 - header.bits_stored
    if unused:
        native = native & np.uint16(0xFFFF >> unused)
    if not header.is_signed:
        return native
    if unused:  # the subtraction wraps within 16 bits, which extends the sign
        sign = np.uint16(1 << (header.bits_stored - 1))
        native = (native ^ sign) - sign
    return native.view(np.int16)


def _shifted(stored: np.ndarray, intercept: int) -> np.ndarray:
    """Rescale with slope 1 in 16-bit arithmetic, five times faster than `_rescaled`.

    Values are clipped before the intercept is added, so the sum fits.

    Args:
        stored: int16 or uint16.
        intercept: -32768 to 3071; above that, every unsigned word would exceed 3071 HU.
    """
    limits = np.iinfo(stored.dtype)
    low, high = (min(max(end - intercept, limits.min), limits.max) for end in (HU_MIN, HU_MAX))
    clipped = np.clip(stored, stored.dtype.type(low), stored.dtype.type(high))
    # A large unsigned word wraps in the view and wraps back in the sum.
    return clipped.view(np.int16) + np.int16(intercept)


def _rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Rescale with any slope, in wider types: 16-bit arithmetic would overflow."""
    wide = stored.astype(np.int32)
    if slope.is_integer() and intercept.is_integer() and abs(slope) < 1 << 14:
        return np.clip(wide * int(slope) + int(intercept), HU_MIN, HU_MAX).astype(np.int16)
    return np.rint(np.clip(wide * slope + intercept, HU_MIN, HU_MAX)).astype(np.int16)


def _is_outside_tissue(padding_hu: float) -> bool:
    """Whether a padding value cannot be tissue; some headers declare a value that occurs in the body."""
    return padding_hu <= AIR_HU or padding_hu > HU_MAX


def fragments(data: bytes, offset: int) -> Iterator[bytes]:
    """Yield the fragments of encapsulated pixel data without its offset table (DICOM PS3.5 A.4).

    Args:
        data: the bytes of the whole file.
        offset: of the pixel data's value.

    Raises:
        DicomError: the file ends before the sequence delimiter.
    """
    first = True
    while True:
        tag, length = data[offset : offset + 4], data[offset + 4 : offset + 8]
        if tag == _DELIMITER:
            return
        if tag != _ITEM or len(length) < 4:
            raise DicomError(f"truncated: no fragment of pixel data at byte {offset}, the file has {len(data)}")
        start, size = offset + 8, struct.unpack("<I", length)[0]
        offset = start + size
        if offset > len(data):
            raise DicomError(f"truncated: a fragment ends at byte {offset}, the file at {len(data)}")
        if not first:
            yield data[start:offset]
        first = False


def _check_codestream(stream: bytes, header: SliceHeader) -> None:
    """Compare the image size in the codestream, which decoders allocate, with the size in the header."""
    claimed = codestream_shape(stream)
    expected = header.rows, header.columns
    if claimed is None and header.transfer_syntax != RLELossless:  # RLE has no frame header
        raise DicomError("the codestream has no frame header")
    if claimed is not None and claimed != expected:
        raise DicomError(f"the codestream claims {claimed} pixels, the header {expected}")


def codestream_shape(stream: bytes) -> tuple[int, int] | None:
    """Read (rows, columns) from a JPEG or JPEG-LS frame header or a JPEG 2000 SIZ marker; None without one."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
        return bottom - top, right - left
    position = 2
    while stream[:2] == b"\xff\xd8" and position + 9 <= len(stream) and stream[position] == 0xFF:
        if stream[position + 1] == 0xFF:  # a fill byte before the marker (ITU-T T.81 B.1.1.2)
            position += 1
            continue
        marker, length = stream[position + 1], struct.unpack_from(">H", stream, position + 2)[0]
        if marker in _JPEG_FRAMES:
            return struct.unpack_from(">HH", stream, position + 5)
        position += 2 + length
    return None
