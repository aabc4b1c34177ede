"""Source ``folder``: folders of this machine, packed into one zip."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from atelier.errors import AtelierError
from atelier.images.listing import FoundFile, walk
from atelier.images.manifest import Manifest, PassedOver, raw_file
from atelier.images.skipped import count_reasons
from atelier.images.sources.pictures_zip import PicturesZip
from atelier.paths import user_path
from atelier.progress import Progress, Report


def take_folders(
    folders: Mapping[str, str],
    target: Path,
    report: Report,
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
    passed_over: list[PassedOver] = []
    with PicturesZip(target) as archive:
        for done, (name, file) in enumerate(found, 1):
            member = f"{name}/{file.relative}"
            fault = file.fault or _copy(archive, member, file)
            if fault:
                passed_over.append(PassedOver(member, fault))
            report(Progress(done, len(found), "files"))
    return Manifest(
        source=source,
        format="zip",
        files=(raw_file(archive.path),),
        members=archive.members,
        passed_over=tuple(passed_over),
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


def _copy(archive: PicturesZip, member: str, file: FoundFile) -> str:
    """Copy one file; say why it cannot even be opened, or give an empty string."""
    try:
        stream = open(file.path, "rb", opener=_open_warily)  # noqa: SIM115 - used below
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    with stream:
        state = os.fstat(stream.fileno())
        # The system's own files claim 0 bytes, and may be endless.
        if not stat.S_ISREG(state.st_mode) or (state.st_size == 0 and stream.peek(1)):
            return "not a regular file"
        archive.copy(member, stream)
    return ""


def _open_warily(path: str, flags: int) -> int:
    # Links were resolved when the file was found. It may have become a link or a pipe since: the
    # first would lead to another file, and opening the second would block.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
