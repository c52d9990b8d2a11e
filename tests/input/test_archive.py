"""Zip archives read like folders, and malicious archives."""

import errno
import os
import zipfile
from pathlib import Path

import pytest

from input.archive import open_file, source_files
from input.dicom import read_series
from input.slice_errors import DicomError
from input.slice_file import BACKSLASHES, read_header, read_headers, read_pixels
from pipeline.errors import UserError
from tests.support.dicom_files import body_hu, write_slice


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return path


@pytest.fixture
def slice_bytes(tmp_path: Path) -> bytes:
    file = write_slice(tmp_path / "a00000000001.dcm")
    data = file.read_bytes()
    file.unlink()
    return data


def claim_size(path: Path, name: str, size: int) -> None:
    """Change the unpacked size of a member in the archive's directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46  # start of the directory entry; the name is 46 bytes after it
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)


def test_members_are_paths_below_their_archive(tmp_path, slice_bytes):
    path = write_zip(tmp_path / "x.zip", {"p/b.dcm": slice_bytes, "p/a.dcm": slice_bytes, "p/.hidden": b""})
    assert source_files(path) == ([path / "p" / "a.dcm", path / "p" / "b.dcm"], [])
    assert source_files(tmp_path) == source_files(path)
    assert (read_pixels(path / "p" / "a.dcm") == body_hu()).all()
    with open_file(path / "p" / "a.dcm") as (file, size):
        assert size == len(slice_bytes) and file.read() == slice_bytes


def test_a_changed_archive_is_opened_again(tmp_path, slice_bytes):
    path = write_zip(tmp_path / "x.zip", {"a.dcm": slice_bytes})
    read_header(path / "a.dcm")
    write_zip(path, {"b.dcm": slice_bytes})
    read_header(path / "b.dcm")
    with pytest.raises(DicomError, match="file missing"):
        read_header(path / "a.dcm")


@pytest.mark.parametrize(
    "name", ["../out.dcm", "/out.dcm", "p/../../out.dcm", "..\\out.dcm", "C:\\out.dcm", "p/\x1b[2Jout.dcm"]
)
def test_a_malicious_member_name_writes_nothing_and_is_quarantined(tmp_path, slice_bytes, name):
    folder = tmp_path / "scans"
    folder.mkdir()
    path = write_zip(folder / "x.zip", {name: slice_bytes, "good.dcm": slice_bytes})
    series = read_series(path)
    assert len(series.hu) == 1
    assert series.quarantined == [
        (Path(f"{path}: {ascii(name)}"), "zip member whose name is not a path inside the archive")
    ]
    assert sorted(tmp_path.rglob("*")) == [folder, path]


def test_a_zip_bomb_is_refused_before_a_member_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("input.archive.MAX_FILE_BYTES", 1 << 20)
    path = write_zip(tmp_path / "bomb.zip", {f"{number}.dcm": bytes(1 << 20) for number in range(5)})
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    files, ((refused, reason),) = source_files(tmp_path)
    assert files == [] and refused == path
    assert reason.startswith("zip archive that claims to unpack to 5242880 bytes, more than")
    with pytest.raises(UserError, match="claims to unpack"):
        read_series(path)


def test_a_member_that_is_too_large_is_refused(tmp_path, monkeypatch, slice_bytes):
    monkeypatch.setattr("input.archive.MAX_OBJECT_BYTES", 1 << 14)
    path = write_zip(tmp_path / "x.zip", {"good.dcm": slice_bytes, "large.dcm": bytes(1 << 15)})
    assert read_series(path).quarantined == [(path / "large.dcm", "zip member of 32768 bytes, more than 16384")]


def test_no_more_bytes_are_unpacked_than_the_directory_claims(tmp_path, slice_bytes):
    path = write_zip(tmp_path / "x.zip", {"good.dcm": slice_bytes, "wrong_size.dcm": slice_bytes + bytes(1 << 20)})
    claim_size(path, "wrong_size.dcm", len(slice_bytes))
    series = read_series(path)
    assert len(series.hu) == 1
    assert series.quarantined[0][0] == path / "wrong_size.dcm"
    assert series.quarantined[0][1].startswith("unreadable zip member: Bad CRC-32")


def test_damage_after_the_header_is_detected_by_the_checksum(tmp_path, slice_bytes):
    large = write_slice(tmp_path / "large.dcm", body_hu(256))
    path = write_zip(tmp_path / "x.zip", {"good.dcm": slice_bytes, "large.dcm": large.read_bytes()})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"large.dcm") - 46 + 16] ^= 1  # the directory's CRC-32
    path.write_bytes(data)
    assert read_header(path / "large.dcm").shape == (256, 256)
    with pytest.raises(DicomError, match="unreadable zip member: Bad CRC-32"):
        read_pixels(path / "large.dcm")


def test_an_encrypted_member_is_quarantined(tmp_path, slice_bytes):
    path = write_zip(tmp_path / "x.zip", {"good.dcm": slice_bytes, "locked.dcm": slice_bytes})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"locked.dcm") - 46 + 8] |= 1
    path.write_bytes(data)
    assert read_series(path).quarantined == [(path / "locked.dcm", "encrypted zip member")]


def test_duplicate_member_names_are_reported(tmp_path, slice_bytes):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a.dcm", slice_bytes)
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("a.dcm", slice_bytes)
    assert source_files(path) == (
        [path / "a.dcm"],
        [(Path(f"{path}: 'a.dcm'"), "duplicate zip member name")],
    )


def test_an_invalid_zip_file_in_a_folder_is_quarantined(tmp_path, slice_bytes):
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    (tmp_path / "good.dcm").write_bytes(slice_bytes)
    series = read_series(tmp_path)
    assert series.quarantined == [
        (tmp_path / "broken.zip", "unreadable zip archive: File is not a zip file"),
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_whole_blocks_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as opened:
        opened.writestr("a.dcm", bytes(100_000))
    with pytest.raises(DicomError, match="zip member with compression method"):
        read_header(tmp_path / "x.zip" / "a.dcm")


def test_members_with_backslashes_are_read_with_a_flag(tmp_path, slice_bytes):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name in ("p\\a.dcm", "p\\"):
            opened.writestr(zipfile.ZipInfo(name), slice_bytes if name.endswith("dcm") else b"")
    assert source_files(path) == ([path / "p" / "a.dcm"], [])
    (header,), _ = read_headers(path / "p" / "a.dcm")
    assert BACKSLASHES in header.flags and (read_pixels(header) == body_hu()).all()


def test_linked_folders_are_followed_once_and_without_loops(tmp_path, slice_bytes):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.dcm").write_bytes(slice_bytes)
    source = tmp_path / "scans"
    source.mkdir()
    for name, target in {"study": "elsewhere", "again": "elsewhere", "loop": "scans", "lost": "nowhere"}.items():
        (source / name).symlink_to(tmp_path / target)
    files, faults = source_files(source)
    assert [path.name for path in files] == ["a.dcm"]
    assert faults == [(source / "lost", "link to a missing file")]


def test_a_folder_without_permission_is_listed(tmp_path, monkeypatch, slice_bytes):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.dcm").write_bytes(slice_bytes)
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read any folder, so permissions alone would not do
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reason = "unreadable folder: Permission denied"
    assert source_files(tmp_path) == ([tmp_path / "a.dcm"], [(tmp_path / "closed", reason)])
