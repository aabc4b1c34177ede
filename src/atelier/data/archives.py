"""Readers of zip and tar archives that limit memory, expansion and number of members.

Both formats are read member by member. Damage, encryption, links and other hazards reject one
member or the whole archive.
"""

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
    MAX_EXPANSION,
    MEMBER_LIMIT,
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

# Size of a member up to which any expansion is accepted: blank images compress far.
_SMALL_MEMBER = 16 * 2**20
_ZIP_PIECE = 2**20
# zipfile expands each piece that it reads of LZMA in one step.
_LZMA_PIECE = 4096
_OVERLAPS = Rejected("it shares its bytes with another member")
_LOCAL_HEADER = 30  # bytes of the shortest header before a member's data
# Flags and attributes of zip members.
_ENCRYPTED, _UTF8 = 0x1, 0x800
_WINDOWS_FOLDER = 0x10

_TAR_PIECE = 2**20
# Limit for the headers between the data of two members: tarfile would read a header of any
# declared length into memory.
_MAX_HEADER = 4 * 2**20
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def read_zip(path: Path, exact_names: bool = False) -> Members:
    r"""Yield every member of a zip archive that is not a folder, in the directory's order.

    Args:
        path: the archive.
        exact_names: yield every name unchanged. By default ``\`` separates folders like ``/``,
            and a hidden folder is yielded as one rejected member.

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
    """Return the number of members that :func:`read_zip` yields.

    Raises:
        AtelierError: the archive is damaged, cut short or expands too far.
    """
    with open_zip(path) as archive:
        return sum(1 for _ in _entries(archive, exact_names=False))


def _entries(
    archive: zipfile.ZipFile, exact_names: bool
) -> Iterator[tuple[zipfile.ZipInfo, str, str]]:
    """Yield each member that is not a folder, its name, and the reason to reject it or ``""``."""
    names = MemberNames()
    for member in archive.infolist():
        if exact_names:
            yield member, sanitize_name(member.filename), ""
        elif not _is_folder(member) and (checked_name := names.check(_member_name(member))):
            yield member, *checked_name


def _member_name(member: zipfile.ZipInfo) -> str:
    r"""Return a member's name with ``/`` between folders.

    The format requires ``/``, but some programs for Windows write ``\``. Names without the UTF-8
    flag should be in code page 437, but many programs write UTF-8 without the flag.
    """
    name = member.filename
    if not member.flag_bits & _UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _is_folder(member: zipfile.ZipInfo) -> bool:
    # Some programs for Windows mark a folder by its attribute only.
    is_marked = member.external_attr & _WINDOWS_FOLDER and not member.external_attr >> 16
    return _member_name(member).endswith("/") or bool(is_marked and member.file_size == 0)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive and check the total expanded size that its directory states.

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
    """Return the members whose bytes overlap those of an earlier member."""
    overlapping: set[zipfile.ZipInfo] = set()
    end: float = -math.inf
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            overlapping.add(member)
        end = max(end, member.header_offset + _LOCAL_HEADER + member.compress_size)
    return overlapping


def _too_large(member: zipfile.ZipInfo) -> Rejected | None:
    """Return a rejection if the sizes in the directory exceed a limit."""
    if member.file_size > MEMBER_LIMIT:
        return too_large(member.file_size)
    expansion = member.file_size / max(member.compress_size, 1)
    if member.file_size > _SMALL_MEMBER and expansion > MAX_EXPANSION:
        return Rejected(f"it would expand {expansion:,.0f} times")
    return None


def _zip_payload(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Payload:
    reason = _unreadable_reason(member)
    rejected = Rejected(reason) if reason else _too_large(member)
    if rejected:
        return rejected
    try:
        data = b"".join(_zip_pieces(archive, member, budget))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return Rejected("damaged inside the archive")
    except OSError as error:
        # bz2 reports damage as an OSError without errno. An offset before the archive's first byte
        # raises EINVAL. Any other errno is an error of the disk.
        if error.errno not in (None, errno.EINVAL):
            raise
        return Rejected("damaged inside the archive")
    except NotImplementedError:
        return Rejected("compressed by a method that Python does not support")
    return reject_nested_archive(data)


def _zip_pieces(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget
) -> Iterator[bytes]:
    """Yield a member's content, expanded in small pieces.

    Raises:
        zipfile.BadZipFile: size or checksum differ from those in the directory.
    """
    source = copy(member)
    if member.compress_type == zipfile.ZIP_BZIP2:
        # zipfile would expand a whole piece in one step, up to gigabytes: read the compressed
        # bytes instead. The checksum is that of the expanded bytes, so it is compared below.
        source.compress_type, source.file_size = zipfile.ZIP_STORED, member.compress_size
        source.CRC = None  # type: ignore[assignment]
    size = _LZMA_PIECE if member.compress_type == zipfile.ZIP_LZMA else _ZIP_PIECE
    length = checksum = 0
    with archive.open(source) as stored, _expanded(stored, member.compress_type) as stream:
        while piece := stream.read(size):
            budget.spend(len(piece))
            length, checksum = length + len(piece), zlib.crc32(piece, checksum)
            if length > member.file_size:
                break
            yield piece
    if (length, checksum) != (member.file_size, member.CRC):
        raise zipfile.BadZipFile("size or checksum differ from the directory")


def _expanded(stored: IO[bytes], method: int) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(stored)) if method == zipfile.ZIP_BZIP2 else stored


def _unreadable_reason(member: zipfile.ZipInfo) -> str:
    """Return the reason why a member cannot be read, or an empty string."""
    if member.flag_bits & _ENCRYPTED:
        return "encrypted"
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    return ""


def is_tar(path: Path) -> bool:
    """Return whether a file starts like a tar archive, compressed or not.

    Only the first block of 512 bytes is decompressed: ``tarfile.is_tarfile`` would read headers
    of any declared length.
    """
    try:
        with _damage_as_errors(path), _decompressed(path) as plain:
            block = plain.read(tarfile.BLOCKSIZE)
            # A tar without members starts with its end mark, a block of zeros.
            if block != bytes(tarfile.BLOCKSIZE):
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except AtelierError:
        return False
    return True


def read_tar(path: Path) -> Members:
    r"""Yield every member of a tar archive that is not a folder, in the archive's order.

    Memory holds one member. A hidden folder is yielded as one rejected member. A ``\`` in a name
    without ``/`` separates folders, because some programs for Windows write it.

    Raises:
        AtelierError: the archive is damaged, cut short, or expands too far.
    """
    names = MemberNames()
    for member, payload in tar_members(path):
        name = member.name if "/" in member.name else member.name.replace("\\", "/")
        checked_name = names.check(name)
        if checked_name:
            printable_name, reason = checked_name
            yield printable_name, Rejected(reason) if reason else payload


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Payload]]:
    """Yield every member of a tar archive that is not a folder, with its payload.

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
        # A compressed stream compares its checksum only at its end.
        stream.allowance = _TAR_PIECE
        while stream.read(_TAR_PIECE):
            stream.allowance = _TAR_PIECE


class _StrictTarInfo(tarfile.TarInfo):
    """Tar header that raises if it is missing or damaged; TarInfo would end the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _next(archive: tarfile.TarFile, stream: "_BudgetedFile") -> tarfile.TarInfo | None:
    stream.allowance = _MAX_HEADER
    member = archive.next()
    if member is not None:
        stream.budget.count_member()
    # A TarFile keeps every member that it has read; drop them to bound memory.
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
    reason = unsafe_name_reason(member.name)
    is_accepted = not reason and member.size <= MEMBER_LIMIT
    pieces = []
    # Rejected members are read too: a stream cannot seek to the next member.
    while piece := _read_piece(content, stream):
        if is_accepted:
            pieces.append(piece)
    if reason:
        return Rejected(reason)
    return reject_nested_archive(b"".join(pieces)) if is_accepted else too_large(member.size)


def _read_piece(content: IO[bytes], stream: "_BudgetedFile") -> bytes:
    stream.allowance = 2 * _TAR_PIECE
    return content.read(_TAR_PIECE)


class _BudgetedFile:
    """Stream that limits the expanded size, in total and between two members.

    Attributes:
        allowance: bytes that may be read until it is set again.
        budget: limits of the whole archive.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.allowance = _MAX_HEADER
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
                f" {_MAX_HEADER // 2**20} MiB, which indicates an attack; pack the images again."
            )
        return data


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as stream:
        start = stream.read(8)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as plain:
        yield plain


@contextmanager
def _damage_as_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        *(tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
        *(EOFError, ValueError, RecursionError),
    ):
        pass
    except OSError as error:
        # bz2 reports damage as an OSError without errno.
        if error.errno is not None:
            raise
    else:
        return
    raise AtelierError(
        f"the tar archive {path.name} is damaged or was cut short; get it again."
    ) from None
