"""The files of a source: a folder with all below it, and zip archives, which are read in place.

A member of an archive is a path below it (`scans.zip/patient/1.dcm`) and its bytes go to whoever opens
that path; nothing is unpacked to disk, so no name of a member can write anywhere. Of a stored or deflated
member Python's reader unpacks no more bytes than the archive's directory claims, so claims can be judged before
reading; other methods unpack whole blocks first and are refused.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from input.header_limits import MAX_FILE_BYTES
from input.slice_faults import DicomFault
from pipeline.errors import UserError

#: An archive may claim to unpack to this many times its size; CT packs to a half or a third of it.
MAX_EXPANSION = 100
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # bit of a member's flags (APPNOTE.TXT 4.4.4)
#: What Python's reader raises over members that are damaged, or packed by a method that it lacks.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)

Faults = list[tuple[Path, str]]


def source_files(source: Path) -> tuple[list[Path], Faults]:
    """List the files of a source, sorted; hidden files are left out, archives inside archives stay closed.

    Args:
        source: a folder, whose `.zip` files are read like folders, or a zip archive.

    Returns:
        Paths for `open_file`, and what cannot be read, with the reason.

    Raises:
        UserError: neither a folder nor a zip archive.
    """
    if source.is_file():
        files, faults = _members(source)
        if not files and faults and faults[0][0] == source:
            raise UserError(f"{source}: {faults[0][1]}; expected a zip archive, or a folder with DICOM files")
        return files, faults
    if not source.is_dir():
        raise UserError(f"{source}: no such folder or zip archive")
    files, faults = [], []
    for path in sorted(each for each in source.rglob("*") if each.is_file() and not each.name.startswith(".")):
        found, odd = _members(path) if path.suffix.lower() == ".zip" else ([path], [])
        files += found
        faults += odd
    return files, faults


@contextmanager
def open_file(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, or a member of an archive, for reading bytes; yields it with its size.

    Raises:
        DicomFault: a member that is encrypted, damaged or too large.
        OSError: a file that cannot be read.
    """
    try:
        file = path.open("rb")
    except NotADirectoryError:  # one of its parents is a file: the archive
        with _open_member(path) as opened:
            yield opened
        return
    with file:
        yield file, path.stat().st_size


@contextmanager
def _open_member(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    archive = next((parent for parent in path.parents if parent.is_file()), path.parent)
    try:
        opened, infos = _opened(archive, archive.stat().st_mtime_ns)
        info = infos.get(path)
        if info is None:
            raise DicomFault("file missing")
        if info.flag_bits & _ENCRYPTED:
            raise DicomFault("encrypted zip member")
        if info.compress_type not in _PACKED:
            raise DicomFault(f"zip member packed by method {info.compress_type}; stored and deflated ones are read")
        if info.file_size > MAX_FILE_BYTES:
            raise DicomFault(f"zip member of {info.file_size} bytes, more than {MAX_FILE_BYTES}")
        with opened.open(info) as file:
            yield file, info.file_size
    except _DAMAGED as fault:
        raise DicomFault(f"unreadable zip member: {' '.join(str(fault).split())[:160]}") from fault


@lru_cache(maxsize=8)
def _opened(archive: Path, changed_ns: int) -> tuple[zipfile.ZipFile, dict[Path, zipfile.ZipInfo]]:
    """An archive, held open because reading its directory for each of a thousand members takes a minute."""
    opened = zipfile.ZipFile(archive)
    return opened, {archive / each.filename: each for each in opened.infolist() if not _name_fault(each.filename)}


def _members(archive: Path) -> tuple[list[Path], Faults]:
    """The members of one archive as paths below it, and what is refused."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [each for each in opened.infolist() if not each.is_dir()]
    except _DAMAGED as fault:
        return [], [(archive, f"unreadable zip archive: {fault}")]
    claimed, most = sum(each.file_size for each in infos), MAX_EXPANSION * archive.stat().st_size + MAX_FILE_BYTES
    if claimed > most:
        return [], [(archive, f"zip archive that claims to unpack to {claimed} bytes, more than {most}")]
    files: set[Path] = set()
    faults = []
    for info in infos:
        path = archive / info.filename
        reason = _name_fault(info.filename) or ("a second member of this name" if path in files else "")
        if reason:  # as text beside the archive: joined, such a name could lead elsewhere
            faults.append((Path(f"{archive}: {ascii(info.filename)}"), reason))
        elif not path.name.startswith("."):
            files.add(path)
    return sorted(files), faults


def _name_fault(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        return "a zip member whose name is no path inside the archive"
    return ""
