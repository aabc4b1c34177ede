"""Source ``archive``: a zip or tar of pictures, kept as it came and never unpacked."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from atelier.errors import AtelierError
from atelier.images.checksum import Checksum
from atelier.images.manifest import Manifest, raw_file
from atelier.images.readers.tar_reader import is_tar
from atelier.images.readers.zip_reader import count_members
from atelier.images.sources.fetch import fetch
from atelier.images.sources.scratch import Scratch
from atelier.images.sources.transfer import copy
from atelier.paths import user_path
from atelier.progress import Report
from atelier.regular_files import NotRegularError, check_regular
from atelier.settings import ArchiveSettings


def take_archive(
    settings: ArchiveSettings, target: Path, scratch: Scratch, report: Report
) -> Manifest:
    """Bring the archive at a path or address into ``target``.

    It is looked into only once its SHA-256 is right, and that is taken of what lies in
    ``target``: a file may change while it is copied.

    Raises:
        AtelierError: it cannot be had, is no archive, or its SHA-256 is wrong or not given.
    """
    arrived = target / "archive"
    if "://" in settings.location:
        shown = "what the address sent"
        fetched = fetch(settings.location, scratch, Checksum("sha256", settings.sha256), report)
        scratch.bring(fetched, arrived, report)
    else:
        given = user_path(settings.location)
        shown = str(given)
        _refuse_no_file(given)
        copy(given, arrived, report)
    file = raw_file(arrived)
    _check(shown, file.sha256, settings.sha256)
    format_ = _format(arrived, shown)
    path = arrived.rename(target / f"pictures.{format_}")
    # A tar has no directory: counting its members would mean reading all of it.
    members = count_members(path) if format_ == "zip" else None
    return Manifest("archive", format_, (replace(file, name=path.name),), members=members)


def _refuse_no_file(path: Path) -> None:
    try:
        check_regular(path)
        return
    except NotRegularError as error:
        fault = error.reason
    except OSError as error:
        fault = str(error.strerror)
    raise AtelierError(
        f"{path} cannot be read ({fault}); give the path or http(s) address of a zip or tar"
        " archive."
    )


def _check(shown: str, actual: str, sha256: str) -> None:
    if not sha256:
        raise AtelierError(
            f"download.archive.sha256 is empty, so that nobody could tell if {shown} changed: its"
            f" sha256 is {actual}; write that into params.yaml and run again."
        )
    if actual != sha256.lower():
        raise AtelierError(
            f"{shown} has sha256 {actual}, but download.archive.sha256 is {sha256}; give the right"
            " file, or write the new sha256 into params.yaml if you trust this one."
        )


def _format(path: Path, shown: str) -> Literal["zip", "tar"]:
    # A tar may well end in something that looks like a zip, but not the other way round.
    if is_tar(path):
        return "tar"
    if zipfile.is_zipfile(path):
        return "zip"
    raise AtelierError(
        f"{shown} is neither a whole zip nor a tar archive (plain, gz, bz2 or xz); give one of"
        " these."
    )
