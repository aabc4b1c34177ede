"""Checksums that say whether a file is the one that was meant."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Checksum:
    """A checksum in hexadecimal; an empty one is not known, and no file agrees with it."""

    algorithm: Literal["sha256", "md5"]
    value: str

    def agrees(self, path: Path) -> bool:
        """Say whether the file at ``path`` has this checksum."""
        return file_digest(path, self.algorithm) == self.value.lower()


def file_digest(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """Compute a file's checksum in hexadecimal, reading it in small pieces."""
    with path.open("rb") as stream:
        # MD5 is what torchvision publishes; it guards against damage, not against attack.
        return hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
