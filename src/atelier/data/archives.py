"""Members of a zip archive."""

import bz2
import errno
import gzip
import lzma
import math
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import IO, Any, Self, cast

from atelier.core.errors import AtelierError
from atelier.data.members import (
    MEMBER_LIMIT,
    MOST_EXPANSION,
    Budget,
    MemberNames,
    Members,
    Payload,
    Rejected,
    reject_nested_archive,
    too_large,
    unsafe_name_reason,
)
from atelier.data.safe_names import sanitize_name

# Of a member; a blank picture may shrink further.
_SMALL_MEMBER = 16 * 2**20
_ZIP_PIECE = 2**20
# Python's zipfile expands all that it reads of LZMA at once.
_SMALL_PIECE = 4096
_OVERLAPS = Rejected("it shares its bytes with another member")
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
                yield name, Rejected(reason)
            else:
                shared = member in overlapping
                yield name, _OVERLAPS if shared else _zip_payload(archive, member, budget)


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
            yield member, sanitize_name(member.filename), ""
        elif not _is_folder(member) and (checked_name := names.check(_member_name(member))):
            yield member, *checked_name


def _member_name(member: zipfile.ZipInfo) -> str:
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
    return _member_name(member).endswith("/") or bool(marked and member.file_size == 0)


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


def _too_large(member: zipfile.ZipInfo) -> Rejected | None:
    """Refuse a member by the sizes that the directory claims."""
    if member.file_size > MEMBER_LIMIT:
        return too_large(member.file_size)
    expansion = member.file_size / max(member.compress_size, 1)
    if member.file_size > _SMALL_MEMBER and expansion > MOST_EXPANSION:
        return Rejected(f"it would expand {expansion:,.0f} times")
    return None


def _zip_payload(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Payload:
    fault = _fault(member)
    refused = Rejected(fault) if fault else _too_large(member)
    if refused:
        return refused
    try:
        data = b"".join(_zip_pieces(archive, member, budget))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return Rejected("damaged inside the archive")
    except OSError as error:
        # bz2 reports damage as an OSError without a number, and a member that claims to lie before
        # the archive's first byte is an invalid argument; any other number is the disk's.
        if error.errno not in (None, errno.EINVAL):
            raise
        return Rejected("damaged inside the archive")
    except NotImplementedError:
        return Rejected("packed by a method that Python does not know")
    return reject_nested_archive(data)


def _zip_pieces(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget
) -> Iterator[bytes]:
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
    size = _SMALL_PIECE if member.compress_type == zipfile.ZIP_LZMA else _ZIP_PIECE
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


_TAR_PIECE = 2**20
# What stands between the data of two members: their headers. Python's tarfile would read a
# header of any declared length into memory.
_LONGEST_HEADER = 4 * 2**20
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def is_tar(path: Path) -> bool:
    """Say whether a file begins as a tar archive, compressed or not.

    Only the first block of 512 bytes is decompressed: ``tarfile.is_tarfile`` would follow
    headers of any declared length.
    """
    try:
        with _damage_as_errors(path), _decompressed(path) as plain:
            block = plain.read(tarfile.BLOCKSIZE)
            # A tar without members begins with its end mark, which is no header.
            if block != bytes(tarfile.BLOCKSIZE):
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except AtelierError:
        return False
    return True


def read_tar(path: Path) -> Members:
    r"""Yield every member that is no folder, in the archive's order, holding one at a time.

    Of a hidden folder only the folder is yielded, refused. A ``\`` in a name without ``/``
    separates folders, as some programs for Windows write them.

    Raises:
        AtelierError: the archive is damaged, cut short, or expands beyond all measure.
    """
    names = MemberNames()
    for member, payload in tar_members(path):
        name = member.name if "/" in member.name else member.name.replace("\\", "/")
        checked_name = names.check(name)
        if checked_name:
            shown, reason = checked_name
            yield shown, Rejected(reason) if reason else payload


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Payload]]:
    """Yield every member that is no folder together with what it holds.

    Raises:
        AtelierError: as for :func:`read_tar`.
    """
    with _damage_as_errors(path), _decompressed(path) as plain:
        stream = _BudgetedFile(plain, path)
        readable = cast(IO[bytes], stream)
        with tarfile.open(fileobj=readable, mode="r|", tarinfo=_StrictTarInfo) as archive:
            while (member := _next(archive, stream)) is not None:
                if not member.isdir():
                    yield member, _tar_payload(archive, member, stream)
        # A compressed stream is checked against its own checksum only at its very end.
        stream.allowance = _TAR_PIECE
        while stream.read(_TAR_PIECE):
            stream.allowance = _TAR_PIECE


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is missing or damaged is a fault; plain TarInfo ends the archive there."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _next(archive: tarfile.TarFile, stream: "_BudgetedFile") -> tarfile.TarInfo | None:
    stream.allowance = _LONGEST_HEADER
    member = archive.next()
    if member is not None:
        stream.budget.count_member()
    # A TarFile remembers every member it has seen; of a million only one is needed.
    archive.members.clear()  # type: ignore[attr-defined]
    return member


def _tar_payload(
    archive: tarfile.TarFile, member: tarfile.TarInfo, stream: "_BudgetedFile"
) -> Payload:
    if member.issym() or member.islnk():
        return Rejected("a link")
    if not member.isreg() or member.sparse is not None:
        return Rejected("not a regular file")
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - a regular member always has content
    fault = unsafe_name_reason(member.name)
    keep = not fault and member.size <= MEMBER_LIMIT
    pieces = []
    # What is refused is read all the same: a stream has no other way to the next member.
    while piece := _read_piece(content, stream):
        if keep:
            pieces.append(piece)
    if fault:
        return Rejected(fault)
    return reject_nested_archive(b"".join(pieces)) if keep else too_large(member.size)


def _read_piece(content: IO[bytes], stream: "_BudgetedFile") -> bytes:
    stream.allowance = 2 * _TAR_PIECE
    return content.read(_TAR_PIECE)


class _BudgetedFile:
    """A stream that refuses to expand beyond all measure, or to be read at one gulp."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.allowance = _LONGEST_HEADER
        self._stream = stream
        self.budget = Budget(path)
        self._name = path.name

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.allowance -= len(data)
        self.budget.spend(len(data))
        if self.allowance < 0:
            raise AtelierError(
                f"the tar archive {self._name} holds a header of more than"
                f" {_LONGEST_HEADER // 2**20} MiB, as only an attack does; pack the pictures anew."
            )
        return data


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as stream:
        start = stream.read(8)
    opener = next((use for magic, use in _OPENERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as plain:
        yield plain


@contextmanager
def _damage_as_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError):
        pass
    except (ValueError, RecursionError):
        pass
    except OSError as error:
        # bz2 reports damage as an OSError without a number.
        if error.errno is not None:
            raise
    else:
        return
    raise AtelierError(
        f"the tar archive {path.name} is damaged or was cut short; get it again."
    ) from None
