"""Source ``folder``: folders of this machine, packed into one zip."""

import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, check_regular
from atelier.core.hashing import Checksum
from atelier.core.paths import user_path
from atelier.core.progress import Progress, ProgressCallback
from atelier.core.settings import ArchiveSettings, KaggleSettings
from atelier.data.archives import count_members, is_tar
from atelier.data.manifest import Manifest, Skipped, raw_file
from atelier.data.skipped import count_reasons
from atelier.data.sources.download_cache import DownloadCache, copy_bytes
from atelier.data.sources.http import fetch
from atelier.data.sources.listing import FoundFile, walk
from atelier.data.sources.zip_writer import ZipWriter


def fetch_folders(
    folders: Mapping[str, str],
    target: Path,
    report: ProgressCallback,
    source: str = "folder",
    links_out: bool = True,
) -> Manifest:
    """Pack every regular file of ``folders`` into ``target``, as ``name/relative/path``.

    Args:
        folders: paths by name.
        target: the folder to write the zip into.
        report: called after every file.
        source: the source's name in the manifest.
        links_out: follow links to targets outside a folder too.

    Raises:
        AtelierError: a folder is missing or holds no file, or a file fails half-way.
    """
    found = [
        (name, file) for name in sorted(folders) for file in _files(name, folders[name], links_out)
    ]
    passed_over: list[Skipped] = []
    with ZipWriter(target) as archive:
        for done, (name, file) in enumerate(found, 1):
            member = f"{name}/{file.relative}"
            fault = file.fault or _copy(archive, member, file)
            if fault:
                passed_over.append(Skipped(member, fault))
            report(Progress(done, len(found), "files"))
    return Manifest(
        source=source,
        format="zip",
        files=(raw_file(archive.path),),
        members=archive.members,
        skipped=tuple(passed_over),
    )


def _files(name: str, folder: str, links_out: bool) -> list[FoundFile]:
    found = walk(user_path(folder), links_out)
    if all(file.fault for file in found):
        skipped = f" to read ({count_reasons(file.fault for file in found)})" if found else ""
        raise AtelierError(
            f"the folder {folder} ({name}) holds no files{skipped}; put pictures there or name"
            " another."
        )
    return found


def _copy(archive: ZipWriter, member: str, file: FoundFile) -> str:
    """Copy one file; say why it cannot even be opened, or give an empty string."""
    try:
        stream = open(file.path, "rb", opener=_open_unchanged)  # noqa: SIM115 - used below
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    with stream:
        state = os.fstat(stream.fileno())
        # The system's own files claim 0 bytes, and may be endless.
        if not stat.S_ISREG(state.st_mode) or (state.st_size == 0 and stream.peek(1)):
            return "not a regular file"
        archive.copy(member, stream)
    return ""


def _open_unchanged(path: str, flags: int) -> int:
    # Links were resolved when the file was found. It may have become a link or a pipe since: the
    # first would lead to another file, and opening the second would block.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def fetch_archive(
    settings: ArchiveSettings, target: Path, scratch: DownloadCache, report: ProgressCallback
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
        scratch.link_into(fetched, arrived, report)
    else:
        given = user_path(settings.location)
        shown = str(given)
        _require_file(given)
        copy_bytes(given, arrived, report)
    file = raw_file(arrived)
    _check_archive(shown, file.sha256, settings.sha256)
    format_ = _format(arrived, shown)
    path = arrived.rename(target / f"pictures.{format_}")
    # A tar has no directory: counting its members would mean reading all of it.
    members = count_members(path) if format_ == "zip" else None
    return Manifest("archive", format_, (replace(file, name=path.name),), members=members)


def _require_file(path: Path) -> None:
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


def _check_archive(shown: str, actual: str, sha256: str) -> None:
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


def fetch_kaggle(settings: KaggleSettings, target: Path, report: ProgressCallback) -> Manifest:
    """Download a dataset with kagglehub and pack its files into ``target``.

    Raises:
        AtelierError: Kaggle cannot be reached, wants to know who asks, or has no such dataset.
    """
    import kagglehub  # slow to import, and needed by this source only

    try:
        folder = kagglehub.dataset_download(settings.handle)
    except Exception as error:
        # kagglehub raises many kinds, and what they say may hold addresses with tokens.
        raise AtelierError(_kaggle_message(settings.handle, error)) from None
    name = settings.handle.split("/")[1]
    # The author of a dataset must not be able to name files of this machine.
    return fetch_folders({name: folder}, target, report, source="kaggle", links_out=False)


def _kaggle_message(handle: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 404:
        told = "Kaggle has no such dataset; check download.kaggle.handle"
    elif status in (401, 403) or type(error).__name__ in (
        "UnauthenticatedError",
        "CredentialError",
    ):
        told = (
            "Kaggle wants to know who asks; put an API token into ~/.kaggle/kaggle.json or"
            " KAGGLE_API_TOKEN, and accept the dataset's terms on its page"
        )
    else:
        told = (
            f"Kaggle could not be asked ({type(error).__name__}); check the network, or fetch the"
            " dataset by hand and use source: archive"
        )
    return f"the Kaggle dataset {handle} could not be fetched: {told}."
