"""Source ``archive``: a zip or tar of pictures, kept as it came and never unpacked."""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from atelier.errors import AtelierError
from atelier.images.checksum import Checksum, digest
from atelier.images.manifest import Manifest, raw_file
from atelier.images.readers.zip_reader import count_members
from atelier.images.sources.fetch import fetch
from atelier.progress import Progress, Report
from atelier.settings import ArchiveSettings


def take_archive(
    settings: ArchiveSettings, target: Path, scratch: Path, report: Report
) -> Manifest:
    """Bring the archive at a path or address into ``target``, once its SHA-256 is right.

    Raises:
        AtelierError: it cannot be had, is no archive, or its SHA-256 is wrong or not given.
    """
    if "://" in settings.location:
        checksum = Checksum("sha256", settings.sha256)
        fetched = fetch(settings.location, scratch, checksum, report)
        format_ = _format(fetched, "what the address sent")
        members = _members(fetched, format_)
        path = target / f"pictures.{format_}"
        shutil.move(fetched, path)
    else:
        given = Path(settings.location).expanduser()
        format_ = _format(given, str(given))
        _check(given, settings.sha256)
        members = _members(given, format_)
        path = target / f"pictures.{format_}"
        copy(given, path, report)
    return Manifest("archive", format_, (raw_file(path),), members=members)


def copy(source: Path, target: Path, report: Report) -> None:
    """Copy a file's content, and nothing of its dates and rights."""
    shutil.copyfile(source, target)
    size = target.stat().st_size
    report(Progress(size, size, "bytes"))


def _check(path: Path, sha256: str) -> None:
    actual = digest(path)
    if not sha256:
        raise AtelierError(
            f"download.archive.sha256 is empty, so that nobody could tell if {path} changed: its"
            f" sha256 is {actual}; write that into params.yaml and run again."
        )
    if actual != sha256.lower():
        raise AtelierError(
            f"{path} has sha256 {actual}, but download.archive.sha256 is {sha256}; give the right"
            " file, or write the new sha256 into params.yaml if you trust this one."
        )


def _members(path: Path, format_: Literal["zip", "tar"]) -> int | None:
    # A tar has no directory: counting its members would mean reading all of it.
    return count_members(path) if format_ == "zip" else None


def _format(path: Path, shown: str) -> Literal["zip", "tar"]:
    try:
        # A tar may well end in something that looks like a zip, but not the other way round.
        if _is_tar(path):
            return "tar"
        if zipfile.is_zipfile(path):
            return "zip"
    except OSError as error:
        raise AtelierError(
            f"{shown} cannot be read ({error.strerror}); give the path or http(s) address of a zip"
            " or tar archive."
        ) from None
    raise AtelierError(
        f"{shown} is neither a whole zip nor a tar archive (plain, gz, bz2 or xz); give one of"
        " these."
    )


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError):
        # Cut short within its very first block.
        return False
