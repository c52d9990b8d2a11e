"""JPEG Lossless encoder for 16-bit images (ITU-T T.81, process 14, selection value 1), vectorized in NumPy.

Part of the contest's exams are stored in this syntax. One fixed Huffman table suits the differences of CT slices.
"""

import struct

import numpy as np

#: Difference categories from the most to the least common in CT, and the lengths of their codes (bits).
CATEGORIES = (5, 4, 6, 3, 7, 2, 8, 1, 0, 9, 10, 11, 12, 13, 14, 15, 16)
LENGTHS = (2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def encode(values: np.ndarray) -> bytes:
    """Encode an image (rows, columns), int16 or uint16, as a JPEG stream; the 16 bits are stored unchanged."""
    codes, lengths = _code_table()
    difference = _differences(values)
    magnitude = np.abs(difference)
    category = np.zeros(difference.shape, np.int64)
    category[magnitude > 0] = np.floor(np.log2(magnitude[magnitude > 0])).astype(np.int64) + 1
    # T.81 H.1.2.2: negative differences are coded as d - 1 in as many bits; category 16 needs none.
    bits = np.where(category == 16, 0, category)
    extra = np.where(difference < 0, difference - 1, difference) & ((1 << bits) - 1)
    stream = _pack((codes[category] << bits) | extra, lengths[category] + bits)
    return _headers(*values.shape) + stream.replace(b"\xff", b"\xff\x00") + b"\xff\xd9"


def _differences(values: np.ndarray) -> np.ndarray:
    """Subtract from each sample its left neighbour (first column: the one above), modulo 2**16, in (-32768, 32768]."""
    samples = values.view(np.uint16).astype(np.int64)
    predicted = np.empty_like(samples)
    predicted[:, 1:] = samples[:, :-1]
    predicted[1:, 0] = samples[:-1, 0]
    predicted[0, 0] = 1 << 15
    difference = ((samples - predicted + 32767) % 65536) - 32767
    return difference.ravel()


def _code_table() -> tuple[np.ndarray, np.ndarray]:
    """Return the canonical Huffman codes and their lengths by category (T.81 annex C)."""
    codes, lengths = np.zeros(17, np.int64), np.zeros(17, np.int64)
    code, previous = 0, LENGTHS[0]
    for category, length in zip(CATEGORIES, LENGTHS, strict=True):
        code <<= length - previous
        codes[category], lengths[category] = code, length
        code, previous = code + 1, length
    return codes, lengths


def _pack(words: np.ndarray, lengths: np.ndarray) -> bytes:
    """Concatenate the low `lengths` bits of every word, most significant first, padded with ones."""
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    shift = np.repeat(ends, lengths) - np.arange(total) - 1
    bits = (np.repeat(words, lengths) >> shift) & 1
    padded = np.ones(-(-total // 8) * 8, np.uint8)
    padded[:total] = bits
    return np.packbits(padded).tobytes()


def _headers(rows: int, columns: int) -> bytes:
    """Return the stream up to the coded data: SOI, Huffman table, frame and scan headers."""
    counts = bytes(LENGTHS.count(length) for length in range(1, 17))
    table = b"\x00" + counts + bytes(CATEGORIES)
    frame = struct.pack(">BHHBBBB", 16, rows, columns, 1, 1, 0x11, 0)
    scan = bytes((1, 1, 0, 1, 0, 0))
    parts = ((0xC4, table), (0xC3, frame), (0xDA, scan))
    return b"\xff\xd8" + b"".join(struct.pack(">BBH", 0xFF, mark, len(body) + 2) + body for mark, body in parts)
