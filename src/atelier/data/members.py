"""What readers yield, what they refuse to read, and how far an archive may expand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.data.safe_names import hidden_part, sanitize_name

MEMBER_LIMIT = 256 * 2**20
"""Bytes of the largest member that is read; no single picture worth having is larger."""

# No format of pictures shrinks to a two-hundredth, save one that is blank, which is small.
MOST_EXPANSION = 200
_SMALL = 64 * 2**20
_MOST_MEMBERS = 10_000_000


class Budget:
    """Bytes and members that one archive, of any kind, may expand to."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bytes = _SMALL + MOST_EXPANSION * path.stat().st_size
        self._members = _MOST_MEMBERS

    def spend(self, size: int) -> None:
        """Count expanded bytes.

        Raises:
            AtelierError: the archive has expanded too far.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise AtelierError(
                f"the archive {self._name} expands to more than {MOST_EXPANSION} times its size,"
                " as only an attack does; pack the pictures anew, uncompressed."
            )

    def count_member(self) -> None:
        """Count a member.

        Raises:
            AtelierError: the archive has too many.
        """
        self._members -= 1
        if self._members < 0:
            raise AtelierError(
                f"the archive {self._name} has more than {_MOST_MEMBERS:,} members; split it."
            )


@dataclass(frozen=True)
class Rejected:
    """Stands for a member that is not read, and says why."""

    reason: str


Payload = bytes | NDArray[np.uint8] | Rejected
"""A file's bytes, a picture's pixels (uint8 [H, W] or [H, W, C]), or why there is neither."""

Members = Iterator[tuple[str, Payload]]

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


_DRIVE = re.compile("[A-Za-z]:")


def unsafe_name_reason(name: str) -> str:
    """Say why a member called ``name`` is not to be trusted; empty if it may be read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or _DRIVE.match(name):
        return "an absolute path"
    if ".." in path.parts:
        return "a path out of the archive"
    return ""


class MemberNames:
    """Names of one archive's members: made uniform, refused, or skipped as hidden."""

    def __init__(self) -> None:
        self._skipped: set[str] = set()

    def check(self, name: str) -> tuple[str, str] | None:
        """Return the name to show and the reason not to read the member, empty if it is read.

        The shown name has no empty parts and no ``.`` between its ``/``; an untrusted one is shown
        as it is. Return ``None`` for a folder, and for all but the first file of a hidden folder,
        which is shown in place of its files.
        """
        if name.endswith("/"):
            return None
        fault = unsafe_name_reason(name)
        if fault:
            return sanitize_name(name), fault
        clean = "/".join(part for part in name.split("/") if part not in ("", "."))
        hidden, reason = hidden_part(clean)
        if not hidden:
            return sanitize_name(clean), ""
        if hidden in self._skipped:
            return None
        if hidden != clean:
            self._skipped.add(hidden)
        return sanitize_name(hidden), reason


def reject_nested_archive(data: bytes) -> bytes | Rejected:
    """Refuse the bytes of an archive, which is never looked into from inside another."""
    if any(data.startswith(magic, offset) for magic, offset in _ARCHIVES.items()):
        return Rejected("an archive inside the archive")
    return data


def too_large(size: int) -> Rejected:
    """Refuse a member of ``size`` bytes."""
    return Rejected(f"{size / 2**20:,.0f} MiB, the limit is {MEMBER_LIMIT // 2**20}")
