"""Sources ``folder``, ``archive`` and ``kaggle``: local folders and archives."""

import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from atelier.core.download_settings import ArchiveSettings, KaggleSettings
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, check_regular
from atelier.core.hashing import Checksum
from atelier.core.paths import user_path
from atelier.core.progress import Progress, ProgressCallback
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
    """Pack every regular file of ``folders`` into one zip, as ``name/relative/path``.

    Args:
        folders: paths by name.
        target: the folder in which the zip is written.
        report: called after every file.
        source: name of the source in the manifest.
        links_out: also follow links to targets outside a folder.

    Raises:
        AtelierError: a folder is missing or has no files.
        OSError: reading an opened file fails.
    """
    found = [
        (name, file) for name in sorted(folders) for file in _files(name, folders[name], links_out)
    ]
    skipped: list[Skipped] = []
    with ZipWriter(target) as archive:
        for done, (name, file) in enumerate(found, 1):
            member = f"{name}/{file.relative}"
            reason = file.skip_reason or _copy(archive, member, file)
            if reason:
                skipped.append(Skipped(member, reason))
            report(Progress(done, len(found), "files"))
    return Manifest(
        source=source,
        format="zip",
        files=(raw_file(archive.path),),
        members=archive.members,
        skipped=tuple(skipped),
    )


def _files(name: str, folder: str, links_out: bool) -> list[FoundFile]:
    found = walk(user_path(folder), links_out)
    if all(file.skip_reason for file in found):
        skipped = f" to read ({count_reasons(file.skip_reason for file in found)})" if found else ""
        raise AtelierError(
            f"the folder {folder} ({name}) holds no files{skipped}; put images there or name"
            " another."
        )
    return found


def _copy(archive: ZipWriter, member: str, file: FoundFile) -> str:
    """Copy a file into the zip; return the reason if it cannot be opened, or an empty string."""
    try:
        stream = open(file.path, "rb", opener=_open_unchanged)  # noqa: SIM115 - used below
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    with stream:
        state = os.fstat(stream.fileno())
        # Files of the kernel (in /proc) state a size of 0 and can be endless.
        if not stat.S_ISREG(state.st_mode) or (state.st_size == 0 and stream.peek(1)):
            return "not a regular file"
        archive.copy(member, stream)
    return ""


def _open_unchanged(path: str, flags: int) -> int:
    # The file may have been replaced since links were resolved: by a link to another file, or by a
    # pipe, which blocks on opening.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def fetch_archive(
    settings: ArchiveSettings, target: Path, cache: DownloadCache, report: ProgressCallback
) -> Manifest:
    """Copy or download an archive into ``target``.

    The SHA-256 of the copy is verified before the archive is read, because the original may change
    during copying.

    Raises:
        AtelierError: the archive is not available or is not a zip or tar, or its SHA-256 is wrong
            or not set.
    """
    copied = target / "archive"
    if "://" in settings.location:
        description = "the downloaded file"
        fetched = fetch(settings.location, cache, Checksum("sha256", settings.sha256), report)
        cache.link_into(fetched, copied, report)
    else:
        original = user_path(settings.location)
        description = str(original)
        _require_file(original)
        copy_bytes(original, copied, report)
    file = raw_file(copied)
    _check_archive(description, file.sha256, settings.sha256)
    format_ = _format(copied, description)
    path = copied.rename(target / f"pictures.{format_}")
    # A tar has no directory, so that counting its members would require reading it.
    members = count_members(path) if format_ == "zip" else None
    return Manifest("archive", format_, (replace(file, name=path.name),), members=members)


def _require_file(path: Path) -> None:
    try:
        check_regular(path)
        return
    except NotRegularError as error:
        reason = error.reason
    except OSError as error:
        reason = str(error.strerror)
    raise AtelierError(
        f"{path} cannot be read ({reason}); give the path or http(s) address of a zip or tar"
        " archive."
    )


def _check_archive(description: str, actual: str, sha256: str) -> None:
    if not sha256:
        raise AtelierError(
            f"download.archive.sha256 is empty, so that changes of {description} could not be"
            f" detected: its sha256 is {actual}; write that into params.yaml and run again."
        )
    if actual != sha256.lower():
        raise AtelierError(
            f"{description} has sha256 {actual}, but download.archive.sha256 is {sha256}; give the"
            " right file, or write the new sha256 into params.yaml if you trust this one."
        )


def _format(path: Path, description: str) -> Literal["zip", "tar"]:
    # Test for tar first: the end of a tar can look like a zip, but not vice versa.
    if is_tar(path):
        return "tar"
    if zipfile.is_zipfile(path):
        return "zip"
    raise AtelierError(
        f"{description} is neither a whole zip nor a tar archive (plain, gz, bz2 or xz); give one"
        " of these."
    )


def fetch_kaggle(settings: KaggleSettings, target: Path, report: ProgressCallback) -> Manifest:
    """Download a dataset with kagglehub and pack its files into ``target``.

    Raises:
        AtelierError: Kaggle does not respond, requires a login, or has no such dataset.
    """
    import kagglehub  # slow to import, and needed by this source only

    try:
        folder = kagglehub.dataset_download(settings.handle)
    except Exception as error:
        # kagglehub raises many exception types; their messages may contain tokens in addresses.
        raise AtelierError(_kaggle_message(settings.handle, error)) from None
    name = settings.handle.split("/")[1]
    # Links in a dataset must not lead to local files outside it.
    return fetch_folders({name: folder}, target, report, source="kaggle", links_out=False)


def _kaggle_message(handle: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 404:
        reason = "Kaggle has no such dataset; check download.kaggle.handle"
    elif status in (401, 403) or type(error).__name__ in (
        "UnauthenticatedError",
        "CredentialError",
    ):
        reason = (
            "Kaggle requires a login; put an API token into ~/.kaggle/kaggle.json or"
            " KAGGLE_API_TOKEN, and accept the dataset's terms on its page"
        )
    else:
        reason = (
            f"Kaggle could not be reached ({type(error).__name__}); check the network, or fetch the"
            " dataset by hand and use source: archive"
        )
    return f"the Kaggle dataset {handle} could not be fetched: {reason}."
