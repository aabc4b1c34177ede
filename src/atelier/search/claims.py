"""Claims: which process works on which trial.

A claim is a lock that ends with its process, so that no time limit has to tell a slow worker from
a dead one. With an SQLite file, it is a lock on a file beside it (``flock``). The command that a
trial runs inherits it: after the search has been killed, the trial counts as claimed until that
command has ended too. With PostgreSQL, workers on all machines also take an advisory lock of the
database, which ends with their connection.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_ASKING = -1  # number of the lock under which trials are created
# The server notices after about a minute that a machine has disappeared.
_KEEPALIVE = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 4}


class Claims:
    """Claims of this process on the trials of one study."""

    def __init__(self, folder: Path, study: str, engine: "Engine | None" = None) -> None:
        """Prepare the folder of lock files, and connect to the database.

        Args:
            folder: of the lock files, on a local disk.
            study: its name.
            engine: of a PostgreSQL database; ``None`` for an SQLite file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._study, self._engine = folder, study, engine
        self._connection: Connection | None = None
        self._files: dict[int, int] = {}

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While the body runs, no other process creates a trial of the study."""
        file = self._lock_file(_ASKING, wait=True)
        assert file is not None  # noqa: S101 - it has waited
        try:
            if self._engine is not None:
                self._database("SELECT pg_advisory_lock(:study, :number)", _ASKING)
            yield
        finally:
            if self._engine is not None:
                self._database("SELECT pg_advisory_unlock(:study, :number)", _ASKING)
            os.close(file)

    def claim(self, number: int) -> bool:
        """Claim a trial; return False if another process has it."""
        if number in self._files:
            return True
        file = self._lock_file(number, wait=False)
        if file is None:
            return False
        if self._engine is not None and not self._database(
            "SELECT pg_try_advisory_lock(:study, :number)", number
        ):
            os.close(file)
            return False
        self._files[number] = file
        return True

    def is_claimed(self, number: int) -> bool:
        """Return True if this process still has its claim.

        The database releases a claim if the connection was lost; then another worker may have the
        trial.
        """
        if number not in self._files:
            return False
        if self._engine is None:
            return True
        return bool(
            self._database(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid ="
                " pg_backend_pid() AND classid::bigint = :study AND objid::bigint = :number",
                number,
            )
        )

    def release(self, number: int) -> None:
        """End a claim."""
        if self._engine is not None:
            self._database("SELECT pg_advisory_unlock(:study, :number)", number)
        os.close(self._files.pop(number))

    def descriptor(self, number: int) -> int:
        """Return the open lock file of a claimed trial, for the command to inherit."""
        return self._files[number]

    def close(self) -> None:
        """End all claims."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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

    def _database(self, statement: str, number: int) -> object:
        """Execute a statement on the connection that holds this process's claims.

        Raises:
            AtelierError: the database does not respond.
        """
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        assert self._engine is not None  # noqa: S101 - only called with PostgreSQL
        study = zlib.crc32(self._study.encode()) & 0x7FFFFFFF
        try:
            if self._connection is None:
                # Advisory locks belong to a connection; it is not in a transaction.
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                for name, value in _KEEPALIVE.items():
                    connection.execute(text(f"SET {name} = {value}"))
                self._connection = connection
            values = {"study": study, "number": number}
            return self._connection.execute(text(statement), values).scalar()
        except SQLAlchemyError as error:
            if self._connection is not None:
                self._connection.invalidate()
                self._connection.close()
                self._connection = None
            raise AtelierError(
                f"the database of the study does not respond ({type(error).__name__}); start the"
                " search again when it does."
            ) from None
