"""What files a folder holds: a cheap look that notices when one is added or changed.

Nothing heavy is imported here, because this runs at every ``dvc repro``.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atelier.errors import AtelierError
from atelier.images.names import printable


@dataclass(frozen=True)
class FoundFile:
    """A file below a folder.

    Attributes:
        relative: its path below the folder, ``/`` between the parts, made printable.
        path: where it lies.
        size: bytes.
        mtime_ns: when it was last changed, in nanoseconds since 1970.
        fault: why it is no file to be read, or an empty string.
    """

    relative: str
    path: Path
    size: int = 0
    mtime_ns: int = 0
    fault: str = ""


def list_folder(path: Path) -> list[list[str | int]]:
    """List the regular files below ``path`` as ``[relative path, size, mtime_ns]``, sorted.

    Raises:
        AtelierError: there is no such folder, or it cannot be read.
    """
    return [[found.relative, found.size, found.mtime_ns] for found in walk(path) if not found.fault]


def walk(folder: Path) -> list[FoundFile]:
    """Find everything below ``folder`` that is no folder, sorted by the bytes of its path.

    Links are followed to regular files inside ``folder`` and nowhere else; sockets, pipes and
    devices are found with a fault.

    Raises:
        AtelierError: there is no such folder, or it cannot be read.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise AtelierError(f"{folder} is not a folder; give the path of a folder of pictures.")
    root = folder.resolve()
    try:
        paths = sorted(_paths(root), key=lambda path: os.fsencode(path.relative_to(root)))
    except OSError as error:
        raise AtelierError(
            f"the folder {error.filename} cannot be read ({error.strerror}); make it readable."
        ) from None
    return [_look(path, root) for path in paths]


def _paths(root: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        # A folder that went away since its parent was read holds nothing.
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for parent, folders, files in os.walk(root, onerror=fail):
        # os.walk counts a link to a folder as a folder, and does not follow it.
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in files + links:
            yield Path(parent, name)


def _look(path: Path, root: Path) -> FoundFile:
    relative = printable(path.relative_to(root).as_posix())
    try:
        target = path.resolve(strict=True) if path.is_symlink() else path
        if not target.is_relative_to(root):
            return FoundFile(relative, path, fault="a link out of the folder")
        state = target.stat()
    except (OSError, RuntimeError):
        return FoundFile(relative, path, fault="a link to nowhere")
    if stat.S_ISDIR(state.st_mode):
        return FoundFile(relative, path, fault="a link to a folder")
    if not stat.S_ISREG(state.st_mode):
        return FoundFile(relative, path, fault="not a regular file")
    return FoundFile(relative, target, state.st_size, state.st_mtime_ns)
