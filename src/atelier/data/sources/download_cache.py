"""The folder where downloads wait until they are whole and in their place."""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from atelier.core.progress import Progress, ProgressCallback, silent

PIECE = 2**20
"""Bytes that are moved at a time."""


def copy_bytes(source: Path, target: Path, report: ProgressCallback) -> None:
    """Copy a file's content, and nothing of its dates and rights."""
    with source.open("rb") as given, target.open("wb") as taken:
        size, done = os.fstat(given.fileno()).st_size, 0
        while piece := given.read(PIECE):
            taken.write(piece)
            done += len(piece)
            report(copy_with_progress(done, size))


def copy_with_progress(done: int, total: int | None) -> Progress:
    """Report ``done`` bytes of ``total``, with a note that a person can read: megabytes."""
    whole = "" if total is None else f" of {total / 1e6:,.1f}"
    return Progress(done, total, f"{done / 1e6:,.1f}{whole} MB")


class DownloadCache:
    """A folder of downloads, each of which one process works on at a time.

    A file is claimed before it is looked at, and stays claimed until the ``with`` ends. What is
    brought out of the folder also stays in it until :meth:`forget`, so that whatever fails in
    between, nothing has to be fetched twice.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is made once it is needed."""
        self._folder = folder
        self._locks = ExitStack()
        self._claimed: set[str] = set()
        self._brought: list[Path] = []

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
        """Wait until no other process works on the file ``name``, and give its path."""
        if name not in self._claimed:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The empty lock file stays for ever: who removed it could not know who waits for it.
            lock = self._locks.enter_context((self._folder / f"{name}.lock").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(Progress(0, None, "waiting for another process that fetches this file"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._claimed.add(name)
        return self._folder / name

    def link_into(self, path: Path, target: Path, report: ProgressCallback) -> None:
        """Give the claimed file at ``path`` a second place: a link, or else a copy."""
        try:
            os.link(path, target)
        except OSError:
            # The target is on another file system, or on one that knows no links.
            copy_bytes(path, target, report)
        self._brought.append(path)

    def clear(self) -> None:
        """Remove what was brought out: it is in its place."""
        for path in self._brought:
            path.unlink(missing_ok=True)
