"""Members of archives: payloads, rejections, safe names and limits of expansion."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.data.safe_names import hidden_part, sanitize_name

MEMBER_LIMIT = 256 * 2**20
"""Size in bytes of the largest member that is read."""
MAX_EXPANSION = 200
"""Largest ratio of expanded to stored size; only small blank images compress further."""

_FREE_BYTES = 64 * 2**20
_MAX_MEMBERS = 10_000_000
_DRIVE = re.compile("[A-Za-z]:")
# First bytes of archives, and the offset at which they are found.
_ARCHIVES = {
    b"PK\x03\x04": 0,
    b"\x1f\x8b": 0,
    b"BZh": 0,
    b"\xfd7zXZ\x00": 0,
    b"7z\xbc\xaf\x27\x1c": 0,
    b"Rar!\x1a\x07": 0,
    b"\x28\xb5\x2f\xfd": 0,
    b"ustar": 257,
}


@dataclass(frozen=True)
class Rejected:
    """Payload of a member that is not read, with the reason."""

    reason: str


Payload = bytes | NDArray[np.uint8] | Rejected
"""Bytes of a file, pixels of an image (uint8 [H, W] or [H, W, C]), or a rejection."""

Members = Iterator[tuple[str, Payload]]


class Budget:
    """Number of bytes and members that one archive may expand to."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bytes = _FREE_BYTES + MAX_EXPANSION * path.stat().st_size
        self._members = _MAX_MEMBERS

    def spend(self, size: int) -> None:
        """Count expanded bytes.

        Raises:
            AtelierError: the archive expands to more bytes than the budget.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise AtelierError(
                f"the archive {self._name} expands to more than {MAX_EXPANSION} times its size,"
                " which indicates an attack; pack the images again, uncompressed."
            )

    def count_member(self) -> None:
        """Count a member.

        Raises:
            AtelierError: the archive has too many members.
        """
        self._members -= 1
        if self._members < 0:
            raise AtelierError(
                f"the archive {self._name} has more than {_MAX_MEMBERS:,} members; split it."
            )


class MemberNames:
    """Names of one archive's members: normalized, rejected or skipped as hidden."""

    def __init__(self) -> None:
        self._skipped: set[str] = set()

    def check(self, name: str) -> tuple[str, str] | None:
        """Return a member's printable name and the reason to reject it (empty if accepted).

        A safe name is returned without empty parts and ``.`` between its ``/``; an unsafe name
        keeps them. The first file of a hidden folder returns the folder's name.

        Returns:
            ``None`` for a folder, and for further files of a hidden folder.
        """
        if name.endswith("/"):
            return None
        unsafe = unsafe_name_reason(name)
        if unsafe:
            return sanitize_name(name), unsafe
        clean = "/".join(part for part in name.split("/") if part not in ("", "."))
        hidden, reason = hidden_part(clean)
        if not hidden:
            return sanitize_name(clean), ""
        if hidden in self._skipped:
            return None
        if hidden != clean:
            self._skipped.add(hidden)
        return sanitize_name(hidden), reason


def unsafe_name_reason(name: str) -> str:
    """Return the reason to reject a member's name, or an empty string if it is safe."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or _DRIVE.match(name):
        return "an absolute path"
    if ".." in path.parts:
        return "a path out of the archive"
    return ""


def reject_nested_archive(data: bytes) -> bytes | Rejected:
    """Return a member's bytes unchanged, or a rejection if they are an archive."""
    if any(data.startswith(magic, offset) for magic, offset in _ARCHIVES.items()):
        return Rejected("an archive inside the archive")
    return data


def too_large(size: int) -> Rejected:
    """Return the rejection of a member that has ``size`` bytes."""
    return Rejected(f"{size / 2**20:,.0f} MiB, the limit is {MEMBER_LIMIT // 2**20}")
