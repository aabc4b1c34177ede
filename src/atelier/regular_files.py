"""Opening files that a user names: regular ones only, so that no read blocks or never ends."""

import io
import os
import stat
from contextlib import suppress
from pathlib import Path

from atelier.errors import AtelierError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(AtelierError):
    """Raised if a path names a folder, pipe, socket or device, or a file without content.

    Attributes:
        reason: what the path names instead of a file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read ({reason}); name a regular file.")
        self.reason = reason


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, without ever waiting.

    A file of 0 bytes is refused: the system's own files (``/proc``) have this size, and may be
    endless or wait for events.

    Raises:
        NotRegularError: the path names something else.
        OSError: there is no such file, or it cannot be opened.
    """
    _check(path, os.stat(path))
    # The path may name something else by now: a pipe would wait for a writer.
    handle = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: Path) -> None:
    """Check a file that is opened by its path later; an empty one is accepted.

    Raises:
        NotRegularError: the path names something else than a regular file.
        OSError: there is no such file, or it cannot be opened.
    """
    state = os.stat(path)
    if state.st_size > 0:
        return open_regular(path).close()
    _check_kind(path, state)
    with suppress(OSError), open(os.open(path, _FLAGS), "rb", buffering=0) as file:
        # A fault of the disk is reported when the file is read.
        if file.read(4096):
            raise NotRegularError(path, "its size is unknown, as of the system's own files")
    return None


def _check(path: Path, state: os.stat_result) -> None:
    _check_kind(path, state)
    if state.st_size == 0:
        raise NotRegularError(path, "it is empty")


def _check_kind(path: Path, state: os.stat_result) -> None:
    kind = stat.S_IFMT(state.st_mode)
    if kind != stat.S_IFREG:
        raise NotRegularError(path, f"it is {_KINDS.get(kind, 'no file')}, not a regular file")
