"""Manifest of ``data/raw``: its files, their format, and the files that were skipped."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from atelier.core.errors import AtelierError
from atelier.core.files import write_json
from atelier.core.hashing import file_digest
from atelier.data.skipped import reasons_without_names

MANIFEST_NAME = "manifest.json"
Format = Literal["zip", "tar", "mnist", "cifar10"]


@dataclass(frozen=True)
class RawFile:
    """Name, size in bytes and hexadecimal SHA-256 of a file in ``data/raw``."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """Name of a source's file that was skipped, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Description of ``data/raw``.

    Attributes:
        source: value of ``download.source`` that the folder was filled from.
        format: ``zip``, ``tar`` (compressed or not), ``mnist`` (IDX, gzip) or ``cifar10`` (the
            tar of batches for Python).
        split: the part of the files to read: ``train``, ``test`` or ``all``.
        files: the files, in reading order.
        members: number of images that the files state, ``None`` if it is unknown.
        skipped: files of the source that were not copied.
    """

    source: str
    format: Format
    files: tuple[RawFile, ...]
    split: Literal["train", "test", "all"] = "all"
    members: int | None = None
    skipped: tuple[Skipped, ...] = ()


def raw_file(path: Path) -> RawFile:
    """Return name, size and SHA-256 of the file at ``path``; memory holds small pieces of it."""
    return RawFile(path.name, path.stat().st_size, file_digest(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest into ``folder`` as JSON."""
    write_json(folder / MANIFEST_NAME, _values(manifest))


def manifest_without_names(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest for JSON that has numbers of skipped files instead of their names."""
    reasons = [skipped.reason for skipped in manifest.skipped]
    return _values(manifest) | {"skipped": reasons_without_names(reasons)}


def _values(manifest: Manifest) -> dict[str, Any]:
    return dict(TypeAdapter(Manifest).dump_python(manifest, mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of ``folder``.

    Raises:
        AtelierError: the manifest is missing or damaged, or names files outside the folder.
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
