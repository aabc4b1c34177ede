"""Claims: which process works on which trial.

A claim is a lock that ends with its process, so that no time limit is needed to find workers that
have ended. With an SQLite file, it is a lock on a file beside it (``flock``). With PostgreSQL,
workers on all machines also take an advisory lock of the database, which ends with their
connection. The command that a trial runs inherits the lock file and the connection's socket: after
the search has been killed, the trial counts as claimed until that command has ended too.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from atelier.search.advisory_locks import AdvisoryLocks
    from atelier.search.storage import Retry

T = TypeVar("T")
_ASKING = -1  # number of the lock under which trials are created


class Claims:
    """Claims of this process on the trials of one study.

    Every method raises ``AtelierError`` if the database does not respond for too long.
    """

    def __init__(
        self,
        folder: Path,
        study: str,
        locks: "AdvisoryLocks | None" = None,
        retry: "Retry | None" = None,
    ) -> None:
        """Prepare the folder of lock files.

        Args:
            folder: of the lock files, on a local disk.
            study: its name.
            locks: of a PostgreSQL database; ``None`` for an SQLite file.
            retry: when to repeat calls of that database; ``None`` for never.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._study, self._locks, self._retries = folder, study, locks, retry
        self._files: dict[int, int] = {}

    def _retry(self, call: Callable[[], T]) -> T:
        return call() if self._retries is None else self._retries(call)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While the body runs, no other process creates a trial of the study."""
        file = self._lock_file(_ASKING, wait=True)
        assert file is not None  # noqa: S101 - it has waited
        try:
            locks = self._locks
            if locks is not None:
                self._retry(lambda: locks.lock(_ASKING))
            try:
                yield
            finally:
                self._unlock(_ASKING)
        finally:
            os.close(file)

    def claim(self, number: int) -> bool:
        """Claim a trial; return False if another process has it."""
        if number in self._files:
            return True
        file = self._lock_file(number, wait=False)
        if file is None:
            return False
        locks, is_ours = self._locks, False
        try:
            is_ours = locks is None or self._retry(lambda: locks.try_lock(number))
        finally:
            if not is_ours:
                os.close(file)
        if is_ours:
            self._files[number] = file
        return is_ours

    def is_claimed(self, number: int) -> bool:
        """Return True if this process still has its claim.

        The database ends a claim if the connection was lost. It is claimed again then, unless
        another worker was faster.
        """
        locks = self._locks
        if number not in self._files or locks is None:
            return number in self._files
        return self._retry(lambda: locks.has(number) or locks.try_lock(number))

    def allows_takeover(self) -> bool:
        """Return False just after a start of the database, which ended the claims of all workers.

        They claim their trials again within seconds.
        """
        locks = self._locks
        return locks is None or self._retry(locks.is_settled)

    def release(self, number: int) -> None:
        """End a claim."""
        self._unlock(number)
        os.close(self._files.pop(number))

    def descriptors(self, number: int) -> tuple[int, ...]:
        """Return the open files that hold the claim on a trial, for a command to inherit."""
        socket = self._locks.descriptor() if self._locks is not None else None
        return (self._files[number], *([] if socket is None else [socket]))

    def close(self) -> None:
        """End all claims."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        if self._locks is not None:
            self._locks.close()

    def _unlock(self, number: int) -> None:
        if self._locks is not None:
            with suppress(_database_errors()):  # then the lock has ended with the connection
                self._locks.unlock(number)

    def _lock_file(self, number: int, wait: bool) -> int | None:
        name = "asking" if number == _ASKING else f"{number:03d}"
        path = self._folder / f"{self._study}-{name}.lock"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        return file


def _database_errors() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError
