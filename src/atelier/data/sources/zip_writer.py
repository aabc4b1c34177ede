"""Loose pictures in one zip: one file to keep, hash and read instead of thousands."""

import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from atelier.data.safe_names import sanitize_name

ZIP_NAME = "pictures.zip"


class ZipWriter:
    """Writes ``pictures.zip``: uncompressed, as pictures are already, and without dates.

    The same members in the same order give the same bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ZIP_NAME
        self._archive = zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED)
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()

    @property
    def members(self) -> int:
        """How many members have been added."""
        return len(self._names)

    def add(self, name: str, data: bytes) -> None:
        """Add a member with these bytes."""
        self._archive.writestr(self._member(name), data)

    def copy(self, name: str, source: IO[bytes]) -> None:
        """Add a member with all that ``source`` still holds, in small pieces."""
        with self._archive.open(self._member(name), "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, 2**20)

    def _member(self, name: str) -> zipfile.ZipInfo:
        unique = sanitize_name(name)
        # Two names that differ only in what cannot be printed may become one.
        while unique in self._names:
            unique += "~"
        self._names.add(unique)
        # A ZipInfo's own date is fixed: 1 January 1980, where zip's calendar begins.
        member = zipfile.ZipInfo(unique)
        member.external_attr = 0o644 << 16
        return member
