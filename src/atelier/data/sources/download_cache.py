"""Cache of downloads that are not complete or not in their target folder yet."""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from atelier.core.progress import Progress, ProgressCallback, silent

PIECE = 2**20
"""Number of bytes that are copied at a time."""


def copy_bytes(source: Path, target: Path, report: ProgressCallback) -> None:
    """Copy a file's content, without its times and permissions."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size, done = os.fstat(reader.fileno()).st_size, 0
        while piece := reader.read(PIECE):
            writer.write(piece)
            done += len(piece)
            report(transfer_progress(done, size))


def transfer_progress(done: int, total: int | None) -> Progress:
    """Return the progress of ``done`` of ``total`` bytes, with a note in megabytes."""
    of_total = "" if total is None else f" of {total / 1e6:,.1f}"
    return Progress(done, total, f"{done / 1e6:,.1f}{of_total} MB")


class DownloadCache:
    """Folder of downloads with one lock per file.

    Call :meth:`lock` before access to a file; the lock is held until the ``with`` block ends.
    Files that were linked into their target also stay in the cache until :meth:`clear`, so that
    nothing is downloaded twice after an error.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is created on the first lock."""
        self._folder = folder
        self._locks = ExitStack()
        self._locked: set[str] = set()
        self._linked: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks.close()

    def lock(self, name: str, report: ProgressCallback = silent) -> Path:
        """Lock the file ``name``, blocking while another process has the lock; return its path."""
        if name not in self._locked:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The lock file is never removed: another process may be waiting for it.
            lock = self._locks.enter_context((self._folder / f"{name}.lock").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(Progress(0, None, "waiting for another process that fetches this file"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._locked.add(name)
        return self._folder / name

    def link_into(self, path: Path, target: Path, report: ProgressCallback) -> None:
        """Create a hard link to a locked file, or copy it if links are not possible."""
        try:
            os.link(path, target)
        except OSError:
            # The target is on another file system, or the file system does not support links.
            copy_bytes(path, target, report)
        self._linked.append(path)

    def clear(self) -> None:
        """Remove the files that were linked into their target."""
        for path in self._linked:
            path.unlink(missing_ok=True)
