"""The manifest of ``data/raw``: what lies there, and how to read it."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from atelier.core.errors import AtelierError
from atelier.core.files import write_json
from atelier.core.hashing import file_digest

MANIFEST_NAME = "manifest.json"
Format = Literal["zip", "tar", "mnist", "cifar10"]


@dataclass(frozen=True)
class RawFile:
    """One file of ``data/raw``: its name, its size in bytes and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file that the source held and that was not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What lies in ``data/raw``.

    Attributes:
        source: the setting ``download.source`` that it was made by.
        format: how the files are read: ``zip``, ``tar`` (compressed or not), ``mnist`` (IDX,
            gzip) or ``cifar10`` (the tar of batches for Python).
        split: which part of the files is meant: ``train``, ``test`` or ``all``.
        files: the files, in reading order.
        members: how many pictures they claim to hold, where that is known without reading.
        skipped: what the source held and was not taken.
    """

    source: str
    format: Format
    files: tuple[RawFile, ...]
    split: Literal["train", "test", "all"] = "all"
    members: int | None = None
    skipped: tuple[Skipped, ...] = ()


def raw_file(path: Path) -> RawFile:
    """Describe the file at ``path``, reading it once in small pieces."""
    return RawFile(path.name, path.stat().st_size, file_digest(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into ``folder``, as JSON."""
    write_json(folder / MANIFEST_NAME, TypeAdapter(Manifest).dump_python(manifest, mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of ``folder``.

    Raises:
        AtelierError: it is missing or damaged, or names files outside the folder.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except OSError as error:
        raise AtelierError(
            f"cannot read {path} ({error.strerror}); run the download stage to make it."
        ) from None
    except ValidationError:
        raise AtelierError(f"{path} is damaged; run the download stage again.") from None
    if any(PurePosixPath(file.name).name != file.name for file in manifest.files):
        raise AtelierError(f"{path} names files outside its folder; run the download stage again.")
    return manifest
