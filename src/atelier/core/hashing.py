"""Checksums of files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Checksum:
    """An expected checksum in hexadecimal; an empty value is unknown and matches no file."""

    algorithm: Literal["sha256", "md5"]
    value: str

    def agrees(self, path: Path) -> bool:
        """Return whether the file at ``path`` has this checksum."""
        return file_digest(path, self.algorithm) == self.value.lower()


def file_digest(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """Return a file's checksum in hexadecimal; the file is read in chunks."""
    with path.open("rb") as stream:
        # torchvision publishes MD5, which detects damage but not manipulation.
        return hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
