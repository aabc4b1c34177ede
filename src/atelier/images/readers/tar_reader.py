"""Members of a tar archive, compressed or not, in one sequential pass."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

from atelier.errors import AtelierError
from atelier.images.readers.members import (
    MEMBER_LIMIT,
    Budget,
    MemberNames,
    Members,
    Payload,
    Refused,
    checked,
    fault_of_name,
    too_large,
)

_PIECE = 2**20
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
        with _damage_told(path), _decompressed(path) as plain:
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
            yield shown, Refused(reason) if reason else payload


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Payload]]:
    """Yield every member that is no folder together with what it holds.

    Raises:
        AtelierError: as for :func:`read_tar`.
    """
    with _damage_told(path), _decompressed(path) as plain:
        stream = _Metered(plain, path)
        readable = cast(IO[bytes], stream)
        with tarfile.open(fileobj=readable, mode="r|", tarinfo=_StrictTarInfo) as archive:
            while (member := _next(archive, stream)) is not None:
                if not member.isdir():
                    yield member, _payload(archive, member, stream)
        # A compressed stream is checked against its own checksum only at its very end.
        stream.allowance = _PIECE
        while stream.read(_PIECE):
            stream.allowance = _PIECE


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


def _next(archive: tarfile.TarFile, stream: "_Metered") -> tarfile.TarInfo | None:
    stream.allowance = _LONGEST_HEADER
    member = archive.next()
    if member is not None:
        stream.budget.count_member()
    # A TarFile remembers every member it has seen; of a million only one is needed.
    archive.members.clear()  # type: ignore[attr-defined]
    return member


def _payload(archive: tarfile.TarFile, member: tarfile.TarInfo, stream: "_Metered") -> Payload:
    if member.issym() or member.islnk():
        return Refused("a link")
    if not member.isreg() or member.sparse is not None:
        return Refused("not a regular file")
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - a regular member always has content
    fault = fault_of_name(member.name)
    keep = not fault and member.size <= MEMBER_LIMIT
    pieces = []
    # What is refused is read all the same: a stream has no other way to the next member.
    while piece := _piece(content, stream):
        if keep:
            pieces.append(piece)
    if fault:
        return Refused(fault)
    return checked(b"".join(pieces)) if keep else too_large(member.size)


def _piece(content: IO[bytes], stream: "_Metered") -> bytes:
    stream.allowance = 2 * _PIECE
    return content.read(_PIECE)


class _Metered:
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
def _damage_told(path: Path) -> Iterator[None]:
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
