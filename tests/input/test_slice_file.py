"""Single DICOM files: header checks, transfer syntaxes, rescaling, padding, truncation, contradictory tags."""

import dataclasses
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.header import parse_header
from input.header_limits import DECODERS
from input.pixels import _hounsfield, decode_hu
from input.slice_errors import DicomError
from input.slice_file import read_header, read_pixels, read_slice
from tests.support.dicom_files import SYNTAXES, body_hu, uid, write_slice


class Panic(BaseException):
    """Raised like a panic of a Rust decoder: not an Exception."""


READABLE = [name for name in SYNTAXES if name != "deflated"]
ENCAPSULATED = ["jpeg_lossless", "jpeg_ls", "jpeg_2000", "rle"]


def reason_of(path) -> str:
    with pytest.raises(DicomError) as caught:
        read_pixels(path)
    return caught.value.reason


@pytest.mark.parametrize("bits_stored", [12, 16])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", READABLE)
def test_every_syntax_decodes_to_the_same_hounsfield_units(tmp_path, syntax, signed, bits_stored):
    path = write_slice(tmp_path / "s.dcm", syntax=syntax, PixelRepresentation=signed, BitsStored=bits_stored)
    np.testing.assert_array_equal(read_pixels(path), body_hu())


@pytest.mark.parametrize("syntax", READABLE)
def test_the_pixels_of_a_known_header_are_read_without_parsing_it_again(tmp_path, syntax, monkeypatch):
    path = write_slice(tmp_path / "s.dcm", syntax=syntax)
    header = read_header(path)
    monkeypatch.setattr("input.slice_file.parse_header", None)
    np.testing.assert_array_equal(read_pixels(header), body_hu())
    path.write_bytes(path.read_bytes()[: header.pixel_offset + 100])
    with pytest.raises(DicomError, match="truncated|undecodable"):
        read_pixels(header)


def test_the_plugins_of_all_compressed_syntaxes_are_installed():
    from pydicom.pixels import get_decoder

    for syntax, plugin in DECODERS.items():
        if plugin:
            assert plugin in get_decoder(syntax).available_plugins, syntax


def test_deflated_is_refused_without_inflating(tmp_path, monkeypatch):
    import zlib

    path = write_slice(tmp_path / "s.dcm", syntax="deflated")
    monkeypatch.setattr(zlib, "decompress", lambda *_, **__: pytest.fail("inflated"))
    assert reason_of(path) == "transfer syntax Deflated is refused"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"Modality": "MR"}, "Modality is MR, not CT"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3, not 1"),
        ({"NumberOfFrames": 20000}, "NumberOfFrames is 20000, not 1"),
        ({"BitsAllocated": 8, "BitsStored": 8}, "BitsAllocated is 8, not 16"),
        ({"BitsStored": 17}, "BitsStored is 17, not 8 to 16"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels, expected 64 to 2048 a side"),
        ({"Rows": 128}, "pixel data of 8192 bytes, but 128 x 64 pixels need 16384"),
        ({"RescaleIntercept": None}, "missing from the header: RescaleIntercept"),
        ({"RescaleSlope": None}, "missing from the header: RescaleSlope"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"ImagePositionPatient": None}, "missing from the header: ImagePositionPatient"),
        ({"ImagePositionPatient": [0, 0]}, "ImagePositionPatient is [0.0, 0.0], expected 3 finite number(s)"),
        ({"PixelSpacing": [0, 0.7]}, "PixelSpacing (0.0, 0.7) mm is impossible for a CT slice"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not an axial slice but coronal"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not an axial slice but sagittal"),
    ],
)
def test_unusable_headers_are_refused(tmp_path, tags, expected):
    path = write_slice(tmp_path / "s.dcm", **tags)
    with pytest.raises(DicomError) as caught:
        read_header(path)
    assert expected in caught.value.reason


def test_all_faults_of_the_image_are_reported_together(tmp_path):
    reason = reason_of(write_slice(tmp_path / "s.dcm", Modality="MR", SamplesPerPixel=3))
    assert reason == "Modality is MR, not CT; SamplesPerPixel is 3, not 1"


def test_a_wrong_length_field_is_refused(tmp_path):
    path = write_slice(tmp_path / "s.dcm")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8
    data[at : at + 4] = struct.pack("<I", 0xFFFFFF00)
    path.write_bytes(data)
    assert reason_of(path) == "pixel data of 4294967040 bytes, but 64 x 64 pixels need 8192"


def test_a_codestream_larger_than_its_header_is_refused_before_decoding(tmp_path):
    path = write_slice(tmp_path / "s.dcm", syntax="jpeg_lossless")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc3") + 5
    data[at : at + 4] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(data)
    assert reason_of(path) == "the codestream claims (65000, 65000) pixels, the header (64, 64)"


def test_fill_bytes_before_a_frame_header_are_skipped(tmp_path):
    path = write_slice(tmp_path / "s.dcm", syntax="jpeg_lossless")
    data = path.read_bytes()
    at = data.index(b"\xff\xc3")
    length_at = data.rindex(b"\xfe\xff\x00\xe0", 0, at) + 4
    (length,) = struct.unpack_from("<I", data, length_at)
    data = bytearray(data[:at] + b"\xff\xff" + data[at:])
    struct.pack_into("<I", data, length_at, length + 2)
    struct.pack_into(">HH", data, at + 7, 65000, 65000)
    path.write_bytes(data)
    assert reason_of(path) == "the codestream claims (65000, 65000) pixels, the header (64, 64)"


def test_a_codestream_without_a_frame_header_is_refused_before_decoding(tmp_path):
    path = write_slice(tmp_path / "s.dcm", syntax="jpeg_2000")
    data = path.read_bytes()
    at = data.index(b"\xff\x4f\xff\x51")
    path.write_bytes(data[:at] + b"\x00\x00\x00\x0c" + data[at + 4 :])  # like the start of a JP2 box
    assert reason_of(path) == "the codestream has no frame header"


def test_a_jpeg_2000_codestream_larger_than_its_header_is_refused(tmp_path):
    path = write_slice(tmp_path / "s.dcm", syntax="jpeg_2000")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 8] = struct.pack(">2I", 50000, 40000)
    path.write_bytes(data)
    assert "the codestream claims (40000, 50000) pixels" in reason_of(path)


@pytest.mark.parametrize("syntax", READABLE)
@pytest.mark.parametrize("share", [0.98, 0.7])
def test_truncated_files_are_faults(tmp_path, syntax, share):
    path = write_slice(tmp_path / "s.dcm", syntax=syntax)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason_of(path).startswith("truncated: ")


def test_a_file_cut_inside_its_header_is_a_fault(tmp_path):
    path = write_slice(tmp_path / "s.dcm")
    path.write_bytes(path.read_bytes()[:500])
    assert "inside its header" in reason_of(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "no DICM marker"), (b"\0" * 128 + b"DICM", "transfer syntax"), (b"<html>" * 100, "no DICM marker")],
)
def test_files_of_other_types_are_refused(tmp_path, content, expected):
    path = tmp_path / "s.dcm"
    path.write_bytes(content)
    assert expected in reason_of(path)


def test_a_missing_file_is_a_fault(tmp_path):
    assert reason_of(tmp_path / "s.dcm") == "file missing"


def test_a_header_longer_than_the_first_read_is_read(tmp_path):
    path = write_slice(tmp_path / "s.dcm", ImageComments="x" * 10000, SliceThickness=2.5, StudyDescription="y" * 60000)
    header = read_header(write_slice(path, BurnedInAnnotation="NO", IconImageSequence=None, TextString="z" * 70000))
    assert header.rows == 64 and header.pixel_offset > 65536


def test_int16_extremes_do_not_overflow_at_the_intercept(tmp_path):
    hu = body_hu()
    hu[0, 0], hu[0, 1] = -32768, 32767
    pixels = read_pixels(write_slice(tmp_path / "s.dcm", hu, PixelRepresentation=1, RescaleIntercept=-0.0))
    assert (pixels[0, 0], pixels[0, 1]) == (-1024, 3071)
    stored_low = write_slice(tmp_path / "t.dcm", hu + 0, PixelRepresentation=1)
    data = bytearray(stored_low.read_bytes())
    data = data.replace(b"\x28\x00\x52\x10DS\x04\x000.0 ", b"\x28\x00\x52\x10DS\x04\x00-900")
    stored_low.write_bytes(data)
    pixels = read_pixels(stored_low)
    assert (pixels[0, 0], pixels[0, 1], pixels[20, 60]) == (-1024, 3071, max(-1024, int(body_hu()[20, 60]) - 900))


def test_a_fractional_slope_is_rounded_to_the_nearest_unit(tmp_path):
    hu = np.full((64, 64), 100, np.int16)
    pixels = read_pixels(write_slice(tmp_path / "s.dcm", hu, RescaleSlope=0.3, RescaleIntercept=-1000.5))
    assert abs(int(pixels[5, 5]) - 100) <= 1


@pytest.mark.parametrize("bits_stored", [8, 12, 13, 16])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("slope", [1.0, -1.0, 2.0, 0.3])
def test_every_stored_word_is_rescaled_as_in_64_bit_arithmetic(tmp_path, bits_stored, is_signed, slope):
    words = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    stored = (words & (0xFFFF >> (16 - bits_stored))).astype(np.int64)
    if is_signed:
        stored -= (stored >= 1 << (bits_stored - 1)) * (1 << bits_stored)
    header = read_header(write_slice(tmp_path / "s.dcm"))
    for intercept in (-1024.0, 0.0, -1000.5, -32768.0, -32769.0, 3071.0, 3072.0, 100000.0):
        fields = {"bits_stored": bits_stored, "is_signed": is_signed, "slope": slope, "intercept": intercept}
        expected = np.rint(np.clip(stored * slope + intercept, -1024, 3071))
        for raw in (words, words.astype(">u2"), words.view(np.int16)):
            np.testing.assert_array_equal(_hounsfield(raw, dataclasses.replace(header, **fields)), expected)


@pytest.mark.parametrize("fault", [Panic("index out of bounds"), MemoryError("no room"), AttributeError("PixelData")])
def test_any_exception_of_a_decoder_becomes_a_reason(tmp_path, monkeypatch, fault):
    class Decoder:
        def as_array(self, *_, **__):
            raise fault

    path = write_slice(tmp_path / "s.dcm", syntax="jpeg_2000")
    monkeypatch.setattr("input.pixels.get_decoder", lambda syntax: Decoder())
    assert reason_of(path) == f"undecodable pixels: {type(fault).__name__}: {fault}"


@pytest.mark.parametrize("padding", [-2000, -2048, -3024])
def test_padding_becomes_air(tmp_path, padding):
    hu = body_hu()
    hu[:10, :10] = padding
    path = write_slice(tmp_path / "s.dcm", hu, PixelRepresentation=1, RescaleIntercept=0)
    assert (read_pixels(path)[:10, :10] == -1024).all()


def test_a_wrapped_padding_value_outside_the_stored_bits_becomes_air(tmp_path):
    hu = body_hu()
    path = write_slice(tmp_path / "s.dcm", hu, BitsStored=12, PixelPaddingValue=63536)
    data = bytearray(path.read_bytes())
    data[-2:] = struct.pack("<H", 63536)
    path.write_bytes(data)
    pixels = read_pixels(path)
    assert pixels[-1, -1] == -1024
    np.testing.assert_array_equal(pixels[:-1], hu[:-1])


def test_a_padding_value_within_tissue_is_ignored(tmp_path):
    path = write_slice(tmp_path / "s.dcm", PixelRepresentation=1, RescaleIntercept=0, PixelPaddingValue=46)
    np.testing.assert_array_equal(read_pixels(path), body_hu())


def test_bits_above_bits_stored_are_cleared(tmp_path):
    path = write_slice(tmp_path / "s.dcm", BitsStored=12)
    data = bytearray(path.read_bytes())
    data[-1] |= 0xA0  # an old overlay in the high bits
    path.write_bytes(data)
    np.testing.assert_array_equal(read_pixels(path), body_hu())


@pytest.mark.parametrize(
    ("tags", "flag"),
    [
        ({"BitsStored": 12, "HighBit": 15}, "high_bit_contradicts_bits_stored"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "not_monochrome2"),
        ({"PatientPosition": "FFS"}, "feet_first"),
        ({"PatientPosition": "HFP"}, "prone"),
    ],
)
def test_unusual_but_usable_tags_are_flagged(tmp_path, tags, flag):
    path = write_slice(tmp_path / "s.dcm", **tags)
    assert flag in read_header(path).flags
    np.testing.assert_array_equal(read_pixels(path), body_hu())


def test_a_vr_encoding_that_contradicts_the_syntax_is_flagged_and_read(tmp_path):
    path = write_slice(tmp_path / "s.dcm", syntax="implicit")
    implicit, explicit = b"\x12\x001.2.840.10008.1.2\x00", b"\x14\x001.2.840.10008.1.2.1\x00"
    data = path.read_bytes().replace(implicit, explicit)
    group_length = data.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    new_length = struct.unpack_from("<I", data, group_length)[0] + 2
    path.write_bytes(data[:group_length] + struct.pack("<I", new_length) + data[group_length + 4 :])
    assert read_header(path).flags == ("vr_contradicts_syntax",)
    np.testing.assert_array_equal(read_pixels(path), body_hu())


@pytest.mark.parametrize(
    ("identifier", "flags"),
    [(uid(1), ()), ("1.2.3", ()), ("not a uid", ("invalid_uids",)), ("f" * 70, ("invalid_uids",))],
)
def test_an_invalid_uid_is_a_flag_and_no_warning(tmp_path, caplog, identifier, flags):
    path = write_slice(tmp_path / f"{uid(0xABCDEF)}.dcm", StudyInstanceUID=identifier, SeriesInstanceUID=uid(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(path)
    assert header.study_uid == identifier and header.flags == flags
    assert caplog.records == []


def test_a_slice_is_read_with_the_checksum_of_its_file(tmp_path):
    import hashlib

    path = write_slice(tmp_path / "s.dcm")
    header, hu, digest = read_slice(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert header.shape == hu.shape


@pytest.mark.parametrize("syntax", ["explicit", *ENCAPSULATED])
@given(st.data())
def test_flipped_header_bytes_raise_only_dicom_errors(tmp_path_factory, syntax, data):
    path = tmp_path_factory.getbasetemp() / f"{syntax}.dcm"
    if not path.exists():
        write_slice(path, syntax=syntax)
    damaged = bytearray(path.read_bytes())
    end = read_header(path).pixel_offset
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(128, end - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = parse_header(bytes(damaged), path, len(damaged))
        except DicomError:
            return
        if syntax == "explicit":
            try:
                hu = decode_hu(bytes(damaged), header)
            except DicomError:
                return
            assert hu.dtype == np.int16 and hu.min() >= -1024 and hu.max() <= 3071


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big_endian"])
@pytest.mark.parametrize("cut", ["preamble", "marker", "meta"])
def test_files_without_their_beginning_are_read_with_a_flag(tmp_path, syntax, cut):
    path = write_slice(tmp_path / "s.dcm", syntax=syntax)
    data = path.read_bytes()
    group_length = struct.unpack_from("<I", data, 140)[0]
    path.write_bytes(data[{"preamble": 132, "marker": 128, "meta": 144 + group_length}[cut] :])
    header = read_header(path)
    assert header.flags == ("no_file_meta_information" if cut == "meta" else "no_preamble",)
    np.testing.assert_array_equal(read_pixels(path), body_hu())


@pytest.mark.parametrize("further", [1, 2, 126])
def test_bytes_after_the_pixels_are_accepted_with_a_flag(tmp_path, further):
    path = write_slice(tmp_path / "s.dcm")
    header = read_header(path)
    data = bytearray(path.read_bytes() + bytes(further))
    struct.pack_into("<I", data, header.pixel_offset - 4, header.pixel_length + further)
    path.write_bytes(data)
    assert read_header(path).flags == ("pixel_data_padded",)
    np.testing.assert_array_equal(read_pixels(path), body_hu())
