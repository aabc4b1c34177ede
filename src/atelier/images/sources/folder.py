"""Source ``folder``: folders of this machine, packed into one zip."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from atelier.errors import AtelierError
from atelier.images.listing import FoundFile, walk
from atelier.images.manifest import Manifest, PassedOver, raw_file
from atelier.images.sources.pictures_zip import PicturesZip
from atelier.paths import user_path
from atelier.progress import Progress, Report


def take_folders(
    folders: Mapping[str, str], target: Path, report: Report, source: str = "folder"
) -> Manifest:
    """Pack every regular file of ``folders`` into ``target``, as ``name/relative/path``.

    Raises:
        AtelierError: a folder is missing or holds no file, or a file fails half-way.
    """
    found = [(name, file) for name in sorted(folders) for file in _files(name, folders[name])]
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


def _files(name: str, folder: str) -> list[FoundFile]:
    found = walk(user_path(folder))
    if not any(not file.fault for file in found):
        raise AtelierError(
            f"the folder {folder} ({name}) holds no files; put pictures there or name another."
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
    # The file may have become a link or a pipe since it was found: the one would lead out of the
    # folder, and opening the other would wait for ever.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
