"""Members of a zip archive."""

import bz2
import errno
import lzma
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import IO, cast

from atelier.errors import AtelierError
from atelier.images.names import printable
from atelier.images.readers.members import (
    MEMBER_LIMIT,
    MOST_EXPANSION,
    Budget,
    MemberNames,
    Members,
    Payload,
    Refused,
    checked,
    too_large,
)

# Of a member; a blank picture may shrink further.
_SMALL = 16 * 2**20
_PIECE = 2**20
# Python's zipfile expands all that it reads of LZMA at once.
_SMALL_PIECE = 4096
_OVERLAPS = Refused("it shares its bytes with another member")
_LOCAL_HEADER = 30  # bytes of the shortest header before a member's data
_UTF8 = 0x800
_WINDOWS_FOLDER = 0x10


def read_zip(path: Path, exact_names: bool = False) -> Members:
    r"""Yield every member that is no folder, in the order of the archive's directory.

    Args:
        path: the archive.
        exact_names: yield every name as it is. By default ``\`` separates folders like ``/``,
            and of a hidden folder only the folder is yielded, refused.

    Raises:
        AtelierError: the archive is damaged or cut short.
    """
    with open_zip(path) as archive:
        budget, overlapping = Budget(path), _overlapping(archive)
        for member, name, reason in _entries(archive, exact_names):
            if reason:
                yield name, Refused(reason)
            else:
                shared = member in overlapping
                yield name, _OVERLAPS if shared else _payload(archive, member, budget)


def count_members(path: Path) -> int:
    """Count what :func:`read_zip` yields of an archive.

    Raises:
        AtelierError: the archive is damaged, cut short or expands too far.
    """
    with open_zip(path) as archive:
        return sum(1 for _ in _entries(archive, exact_names=False))


def _entries(
    archive: zipfile.ZipFile, exact_names: bool
) -> Iterator[tuple[zipfile.ZipInfo, str, str]]:
    """Yield each member that is no folder, its name, and the reason not to read it, if any."""
    names = MemberNames()
    for member in archive.infolist():
        if exact_names:
            yield member, printable(member.filename), ""
        elif not _is_folder(member) and (checked_name := names.check(_name(member))):
            yield member, *checked_name


def _name(member: zipfile.ZipInfo) -> str:
    r"""Return a member's name with ``/`` between folders.

    The format demands ``/``; a ``\`` is written by programs for Windows. Names without the flag
    for UTF-8 should be in code page 437, but many programs write UTF-8 all the same.
    """
    name = member.filename
    if not member.flag_bits & _UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _is_folder(member: zipfile.ZipInfo) -> bool:
    # Programs for Windows may mark a folder by its attribute only.
    marked = member.external_attr & _WINDOWS_FOLDER and not member.external_attr >> 16
    return _name(member).endswith("/") or bool(marked and member.file_size == 0)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive, read its directory and check how far its members expand together.

    Raises:
        AtelierError: the archive is damaged, cut short or expands too far.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        raise AtelierError(
            f"the zip archive {path.name} is damaged or was cut short; get it again."
        ) from None
    try:
        budget = Budget(path)
        for member in archive.infolist():
            budget.count_member()
            if not _too_large(member):
                budget.spend(member.file_size)
    except AtelierError:
        archive.close()
        raise
    return archive


def _overlapping(archive: zipfile.ZipFile) -> set[zipfile.ZipInfo]:
    """Return the members whose bytes belong to an earlier member too."""
    overlapping: set[zipfile.ZipInfo] = set()
    end: float = -math.inf
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            overlapping.add(member)
        end = max(end, member.header_offset + _LOCAL_HEADER + member.compress_size)
    return overlapping


def _too_large(member: zipfile.ZipInfo) -> Refused | None:
    """Refuse a member by the sizes that the directory claims."""
    if member.file_size > MEMBER_LIMIT:
        return too_large(member.file_size)
    expansion = member.file_size / max(member.compress_size, 1)
    if member.file_size > _SMALL and expansion > MOST_EXPANSION:
        return Refused(f"it would expand {expansion:,.0f} times")
    return None


def _payload(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Payload:
    fault = _fault(member)
    refused = Refused(fault) if fault else _too_large(member)
    if refused:
        return refused
    try:
        data = b"".join(_pieces(archive, member, budget))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return Refused("damaged inside the archive")
    except OSError as error:
        # bz2 reports damage as an OSError without a number, and a member that claims to lie before
        # the archive's first byte is an invalid argument; any other number is the disk's.
        if error.errno not in (None, errno.EINVAL):
            raise
        return Refused("damaged inside the archive")
    except NotImplementedError:
        return Refused("packed by a method that Python does not know")
    return checked(data)


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    """Yield what a member holds, expanded by small steps; one that is longer than it claims fails.

    Raises:
        zipfile.BadZipFile: its size or checksum is another than the directory claims.
    """
    packed = copy(member)
    if member.compress_type == zipfile.ZIP_BZIP2:
        # Python's zipfile would expand all that it reads at once, to gigabytes. The checksum is
        # that of what is expanded.
        packed.compress_type, packed.file_size = zipfile.ZIP_STORED, member.compress_size
        packed.CRC = None  # type: ignore[assignment]
    size = _SMALL_PIECE if member.compress_type == zipfile.ZIP_LZMA else _PIECE
    length = checksum = 0
    with archive.open(packed) as stored, _expanded(stored, member.compress_type) as stream:
        while piece := stream.read(size):
            budget.spend(len(piece))
            length, checksum = length + len(piece), zlib.crc32(piece, checksum)
            if length > member.file_size:
                break
            yield piece
    if (length, checksum) != (member.file_size, member.CRC):
        raise zipfile.BadZipFile("it is not what the directory claims")


def _expanded(stored: IO[bytes], method: int) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(stored)) if method == zipfile.ZIP_BZIP2 else stored


def _fault(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 0x1:
        return "encrypted"
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    return ""
