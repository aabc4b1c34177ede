"""Writer of one zip of images, which is faster to hash and read than thousands of files."""

import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from atelier.data.safe_names import sanitize_name

ZIP_NAME = "pictures.zip"


class ZipWriter:
    """Writer of ``pictures.zip``, uncompressed and without dates.

    The same members in the same order give the same bytes. Images are compressed already.
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
        """Number of added members."""
        return len(self._names)

    def add(self, name: str, data: bytes) -> None:
        """Add a member with these bytes."""
        self._archive.writestr(self._member(name), data)

    def copy(self, name: str, source: IO[bytes]) -> None:
        """Add a member with the remaining bytes of ``source``, copied in small pieces."""
        with self._archive.open(self._member(name), "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, 2**20)

    def _member(self, name: str) -> zipfile.ZipInfo:
        unique = sanitize_name(name)
        # Names that differ only in unprintable characters can become equal.
        while unique in self._names:
            unique += "~"
        self._names.add(unique)
        # The default date of a ZipInfo is constant: 1 January 1980.
        member = zipfile.ZipInfo(unique)
        member.external_attr = 0o644 << 16
        return member
