"""Members of a zip archive."""

import errno
import lzma
import stat
import zipfile
import zlib
from pathlib import Path

from atelier.errors import AtelierError
from atelier.images.names import printable
from atelier.images.readers.members import (
    MEMBER_LIMIT,
    Members,
    Payload,
    Refused,
    checked,
    fault_of_name,
    too_large,
)

# No format of pictures shrinks to a two-hundredth, save one that is blank, which is small.
_MOST_EXPANSION = 200
_SMALL = 16 * 2**20


def read_zip(path: Path) -> Members:
    """Yield every member that is no folder, in the order of the archive's directory.

    Raises:
        AtelierError: the archive is damaged or cut short.
    """
    with open_zip(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield printable(member.filename), _payload(archive, member)


def count_members(path: Path) -> int:
    """Count the members that are no folders.

    Raises:
        AtelierError: the archive is damaged or cut short.
    """
    with open_zip(path) as archive:
        return sum(not member.is_dir() for member in archive.infolist())


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive and read its directory.

    Raises:
        AtelierError: the archive is damaged or cut short.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise AtelierError(
            f"the zip archive {path.name} is damaged or was cut short; get it again."
        ) from None


def _payload(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Payload:
    fault = _fault(member)
    if fault:
        return Refused(fault)
    if member.file_size > MEMBER_LIMIT:
        return too_large(member.file_size)
    expansion = member.file_size / max(member.compress_size, 1)
    if member.file_size > _SMALL and expansion > _MOST_EXPANSION:
        return Refused(f"it would expand {expansion:,.0f} times")
    try:
        with archive.open(member) as stream:
            data = stream.read(MEMBER_LIMIT + 1)
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


def _fault(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 0x1:
        return "encrypted"
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    return fault_of_name(member.filename)
