"""List and open the files of a source: a folder with its sub-folders and zip archives, which are read in place.

A member of an archive is addressed as a path below the archive (`scans.zip/patient/1.dcm`). Nothing is unpacked to
disk, so a member's name cannot make the program write anywhere. For stored and deflated members, Python's reader
never unpacks more bytes than the archive's directory claims, so claims are checked before reading. Other
compression methods unpack whole blocks first and are refused.
"""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from input.header_limits import MAX_FILE_BYTES, MAX_OBJECT_BYTES
from input.slice_errors import DicomError
from pipeline.errors import UserError

#: Largest accepted ratio of claimed unpacked size to archive size; CT compresses to a half or a third.
MAX_EXPANSION = 100
_SUPPORTED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # bit of a member's flags (APPNOTE.TXT 4.4.4)
#: What Python's reader raises for damaged members and unsupported compression methods.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)

#: Path and reason of every file that cannot be read.
Faults = list[tuple[Path, str]]


def source_files(source: Path) -> tuple[list[Path], Faults]:
    """List the files of a source, sorted. Hidden files are omitted; archives inside archives are not opened.

    Args:
        source: a zip archive, or a folder, whose `.zip` files are searched like sub-folders.

    Returns:
        Paths for `open_file`; and path and reason of everything that cannot be read.

    Raises:
        UserError: neither a folder nor a zip archive.
    """
    if source.is_file():
        files, faults = _members(source)
        if not files and faults and faults[0][0] == source:
            raise UserError(f"{source}: {faults[0][1]}. Expected a zip archive or a folder with DICOM files.")
        return files, faults
    if not source.is_dir():
        raise UserError(f"{source}: no such folder or zip archive")
    paths, faults = _walk(source)
    files = []
    for path in paths:
        members, member_faults = _members(path) if path.suffix.lower() == ".zip" else ([path], [])
        files += members
        faults += member_faults
    return files, faults


def _walk(source: Path) -> tuple[list[Path], Faults]:
    """The files below a folder, sorted. Links are followed; a folder that is reached twice is listed once."""
    paths: list[Path] = []
    faults: Faults = []

    def unreadable(fault: OSError) -> None:
        faults.append((Path(fault.filename), f"unreadable folder: {fault.strerror}"))

    for folder, files in walk_with_links(source, unreadable):
        for path in (folder / name for name in files if not name.startswith(".")):
            if path.is_file():
                paths.append(path)
            elif path.is_symlink():
                faults.append((path, "link to a missing file"))
    return sorted(paths), faults


def walk_with_links(top: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Walk a folder and its sub-folders, also through links; a folder that is reached twice is visited once.

    Args:
        top: the folder.
        unreadable: called for every folder that cannot be listed.

    Yields:
        Every folder, and the names of its files.
    """
    visited: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(top, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in visited:
            names.clear()
            continue
        visited.add(identity)
        yield Path(folder), files


@contextmanager
def open_file(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, or a member of an archive, for reading in binary mode.

    Yields:
        The open file and its size in bytes.

    Raises:
        DicomError: an archive member is encrypted, damaged, missing or too large.
        OSError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except NotADirectoryError:  # a parent of the path is a file: the archive
        with _open_member(path) as member:
            yield member
        return
    with file:
        yield file, path.stat().st_size


@contextmanager
def _open_member(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    archive_path = next((parent for parent in path.parents if parent.is_file()), path.parent)
    try:
        archive, members = _open_archive(archive_path, archive_path.stat().st_mtime_ns)
        info = members.get(path)
        if info is None:
            raise DicomError("file missing")
        if info.flag_bits & _ENCRYPTED:
            raise DicomError("encrypted zip member")
        if info.compress_type not in _SUPPORTED_METHODS:
            raise DicomError(f"zip member with compression method {info.compress_type}, expected stored or deflated")
        if info.file_size > MAX_OBJECT_BYTES:
            raise DicomError(f"zip member of {info.file_size} bytes, more than {MAX_OBJECT_BYTES}")
        with archive.open(info) as file:
            yield file, info.file_size
    except _ZIP_ERRORS as fault:
        raise DicomError(f"unreadable zip member: {' '.join(str(fault).split())[:160]}") from fault


@lru_cache(maxsize=8)
def _open_archive(path: Path, modified_ns: int) -> tuple[zipfile.ZipFile, dict[Path, zipfile.ZipInfo]]:
    """Open an archive and index its members by path.

    It stays open in the cache: reading the directory again for each of a thousand members takes a minute.
    `modified_ns` is part of the cache's key, so that an archive that has changed is opened again.
    """
    archive = zipfile.ZipFile(path)
    return archive, {path / _name(info): info for info in archive.infolist() if not _name_fault(_name(info))}


def _members(archive_path: Path) -> tuple[list[Path], Faults]:
    """List the members of one archive as paths below it, and the refused ones with the reason."""
    try:
        with zipfile.ZipFile(archive_path) as archive:
            infos = [info for info in archive.infolist() if not _name(info).endswith("/")]
    except _ZIP_ERRORS as fault:
        return [], [(archive_path, f"unreadable zip archive: {fault}")]
    claimed_bytes = sum(info.file_size for info in infos)
    max_bytes = MAX_EXPANSION * archive_path.stat().st_size + MAX_FILE_BYTES
    if claimed_bytes > max_bytes:
        reason = f"zip archive that claims to unpack to {claimed_bytes} bytes, more than {max_bytes}"
        return [], [(archive_path, reason)]
    files: set[Path] = set()
    faults = []
    for info in infos:
        path = archive_path / _name(info)
        reason = _name_fault(_name(info)) or ("duplicate zip member name" if path in files else "")
        if reason:  # reported as text after the archive's path: joined to it, such a name could point elsewhere
            faults.append((Path(f"{archive_path}: {ascii(info.filename)}"), reason))
        elif not path.name.startswith("."):
            files.add(path)
    return sorted(files), faults


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name with slashes; some programs write backslashes."""
    return info.filename.replace("\\", "/")


def _name_fault(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or ":" in parts[0] or not name.isprintable():
        return "zip member whose name is not a path inside the archive"
    return ""
