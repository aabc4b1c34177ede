"""What readers yield, and what they refuse to read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

MEMBER_LIMIT = 256 * 2**20
"""Bytes of the largest member that is read; no single picture worth having is larger."""


@dataclass(frozen=True)
class Refused:
    """Stands for a member that is not read, and says why."""

    reason: str


Payload = bytes | NDArray[np.uint8] | Refused
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


def fault_of_name(name: str) -> str:
    """Say why a member called ``name`` is not to be trusted; empty if it may be read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or name[1:2] == ":":
        return "an absolute path"
    if ".." in path.parts:
        return "a path out of the archive"
    return ""


def checked(data: bytes) -> bytes | Refused:
    """Refuse the bytes of an archive, which is never looked into from inside another."""
    if any(data.startswith(magic, offset) for magic, offset in _ARCHIVES.items()):
        return Refused("an archive inside the archive")
    return data


def too_large(size: int) -> Refused:
    """Refuse a member of ``size`` bytes."""
    return Refused(f"{size / 2**20:,.0f} MiB, the limit is {MEMBER_LIMIT // 2**20}")
